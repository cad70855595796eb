"""The system under faults, and what must be true of a job whatever happened on its way."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker

from tests.cluster import Cluster, wait_for
from tests.evidence import Witness, check_lines, numbered

LINES = 20


@contextmanager
def running_system(directory: Path, image: str, engine: docker.DockerClient, **settings: str) -> "Iterator[System]":
    """A system of its own, all well."""
    with (
        Cluster(directory, image, engine, ABORT_GRACE_SECONDS="1", **settings) as cluster,
        Witness(engine, f"{cluster.tag}-") as witness,
    ):
        system = System(cluster, witness)
        system.start()
        yield system


class System:
    """A cluster and its witness. Processes: web, redis, scheduler, agent-a."""

    def __init__(self, cluster: Cluster, witness: Witness) -> None:
        self.cluster, self.witness = cluster, witness

    def start(self) -> None:
        """Start what does not run, without crash points, and wait until it is well."""
        cluster = self.cluster
        for name in cluster.processes:
            cluster.resume(name)
        if self._ended("redis"):
            cluster.start_redis(empty=False)
        if self._ended("web"):
            cluster.start_web()
        if self._ended("scheduler"):
            cluster.start_scheduler()
        if self._ended("agent-a"):
            cluster.launch_agent("a")
        cluster.wait_online("a")

    def _ended(self, name: str) -> bool:
        process = self.cluster.processes.get(name)
        return process is None or process.poll() is not None

    def restart_agent(self, **env: str) -> None:
        self.cluster.kill("agent-a")
        self.cluster.launch_agent("a", **env)

    def restart_scheduler(self, **env: str) -> None:
        """Returns when the new one leads."""
        self.cluster.stop("scheduler")
        before = self.cluster.output("scheduler").count("leading as")
        self.cluster.start_scheduler(**env)
        wait_for("it to lead", lambda: self.cluster.output("scheduler").count("leading as") > before)

    def submit_numbered(self, lines: int = LINES, pause: float = 0.05, then: str = "", **fields: Any) -> str:
        return self.cluster.shell(numbered(lines, pause, then), **fields)

    def printed(self, job_id: str, lines: int) -> None:
        """Until at least so many lines of the job are in its log."""
        wait_for(f"{lines} lines of {job_id}", lambda: len(self.cluster.log(job_id)) >= lines)

    def ends_exactly(self, job_id: str, lines: int = LINES, attempts: int = 1, timeout: float = 30) -> dict[str, Any]:
        """The job succeeds with so many attempts; no container name was started twice; every line is there once, in
        its order; nothing is left."""
        job = self.cluster.wait_final(job_id, timeout)
        ended = [(attempt["number"], attempt["status"], attempt["reason"]) for attempt in job["attempts"]]
        assert job["status"] == "SUCCEEDED", f"{job['status']} {job['reason_text']}: {ended}"
        assert len(ended) == attempts, ended
        self.nothing_wrong_with(job, lines)
        return job

    def nothing_wrong_with(self, job: dict[str, Any], lines: int = LINES) -> None:
        job_id = job["job_id"]
        started = self.witness.starts(job_id)
        assert set(started.values()) <= {1}, f"a container name was started twice: {started}"
        container = self.witness.host(job["attempts"][-1]["container_id"])
        whole = [container] if job["status"] == "SUCCEEDED" else []
        meta = self.cluster.keys.job_logs_meta(job_id)
        wait_for("the log to be complete", lambda: self.cluster.redis.hget(meta, "complete") == "1")
        faults = check_lines(self.cluster.log(job_id), whole, lines)
        assert not faults, faults
        self.nothing_left_of(job_id)

    def stored_log(self, job_id: str) -> list[str]:
        """The job's whole log as users get it, out of archive and Redis."""
        answer = self.cluster.api.get(f"/api/v1/jobs/{job_id}/logs", params={"download": True})
        assert answer.status_code == 200, answer.text
        return answer.text.splitlines()

    def nothing_left_of(self, job_id: str) -> None:
        def mine() -> list[str]:
            return [c.name for c in self.cluster.containers() if c.labels["workload-runner.job"] == job_id]

        def at_most_idle() -> bool:
            running = len(self.cluster.containers())
            return len(self.cluster.sandboxes()) <= running + len(self._agents())

        wait_for("its containers to be gone", lambda: not mine())
        wait_for("its sandbox to be gone", at_most_idle)

    def _agents(self) -> list[str]:
        return [name for name in self.cluster.processes if name.startswith("agent-")]
