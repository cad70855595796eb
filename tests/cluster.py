"""The whole system as real processes, each of which a test can stop, kill or pause: Redis, web, scheduler, agents."""

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import docker
import httpx
import psutil
import pytest
import redis

from agent.protocol import Keys
from tests.parts import free_port, start_redis, write_database

ROOT = Path(__file__).resolve().parent.parent
FINAL = {"SUCCEEDED", "FAILED", "ABORTED"}

T = TypeVar("T")

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every look at a job says nothing


def wait_for(what: str, probe: Callable[[], T], timeout: float = 30, interval: float = 0.02) -> T:
    """What `probe` returns as soon as it is truthy; fails the test, naming `what`, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout} s for {what}; the last look gave {result!r}")
        time.sleep(interval)


class Cluster:
    """Processes with a database, a Redis and folders of their own. Use as a context manager.

    Everything a process prints lies in `<directory>/<name>.out`.
    """

    def __init__(self, directory: Path, image: str, engine: docker.DockerClient, **env: str) -> None:
        self.directory, self.image, self.engine = directory, image, engine
        self.tag = f"t{secrets.token_hex(4)}"
        self.redis_port, self.web_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.web_port}"
        self.api = httpx.Client(base_url=self.url, timeout=20)
        self.redis = redis.Redis(port=self.redis_port, decode_responses=True)
        self.keys = Keys()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "VAR_DIR": str(directory / "var"),
            "LOG_DIR": str(directory),
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "SCHEDULER_API_PORT": str(self.web_port),
            "OPEN_TO_LOCAL_USER": "1",
            "HEARTBEAT_INTERVAL": "1",
            "JOB_POLL_INTERVAL": "1",
            "LEASE_SECONDS": "3",
            "AGENT_SANDBOX_POOL": "1",
            **env,
        }

    def __enter__(self) -> Self:
        self.start_redis()
        if "DATABASE_URL" in self.env:
            subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=self.env, check=True)
        else:
            write_database(self.directory / "var" / "db.sqlite3")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for name in list(self.processes):
            self.kill(name)
        for container in [*self.containers(), *self.sandboxes()]:
            # The engine may still be about what a killed agent had asked for.
            with contextlib.suppress(docker.errors.APIError):
                container.remove(force=True, v=True)
        self.api.close()
        self.redis.close()

    # --- processes ---------------------------------------------------------------------------------------------

    def start_redis(self, empty: bool = True) -> None:
        """Redis with what it held when it was last killed, or `empty`."""
        folder = self.directory / "redis"
        if empty:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        self.processes["redis"] = start_redis(
            folder, self.redis_port, "--appendonly", "yes", "--auto-aof-rewrite-min-size", "512mb"
        )

    def start_web(self, **env: str) -> None:
        """Returns when the server answers."""
        server = ["-m", "daphne", "-b", "127.0.0.1", "-p", str(self.web_port), "webapp.asgi:application"]
        self._start("web", server, **env)
        wait_for("the web server", lambda: self._answers())

    def start_scheduler(self, name: str = "scheduler", **env: str) -> None:
        self._start(name, ["manage.py", "runscheduler"], **env)

    def start_agent(self, name: str = "a", **env: str) -> str:
        """Starts an agent that has a state folder of its own; returns its executor id when it is online."""
        self.launch_agent(name, **env)
        return self.wait_online(name)

    def launch_agent(self, name: str = "a", **env: str) -> None:
        """As `start_agent`, without waiting."""
        state = self.directory / f"agent-{name}"
        own = {"AGENT_NAME": f"{self.tag}-{name}", "AGENT_STATE_DIR": str(state), "LOG_DIR": str(state)}
        state.mkdir(exist_ok=True)
        self._start(f"agent-{name}", ["-m", "agent"], **own, **env)

    def wait_online(self, name: str = "a") -> str:
        """The executor id of the agent, when it is online."""
        return wait_for(f"agent {name} to be online", lambda: self._online(f"{self.tag}-{name}"))

    def _start(self, process_name: str, arguments: list[str], **env: str) -> None:
        output = (self.directory / f"{process_name}.out").open("ab")
        self.processes[process_name] = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env={**self.env, **env}, stdout=output, stderr=subprocess.STDOUT
        )

    def stop(self, name: str, signal_number: int = signal.SIGTERM, timeout: float = 20) -> int:
        """Ends a process and returns its exit code."""
        process = self.processes.pop(name)
        process.send_signal(signal_number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"{name} did not end within {timeout} s; its last words:\n{self.output(name)[-2000:]}")

    def kill(self, name: str) -> None:
        self.stop(name, signal.SIGKILL)

    def pause(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGCONT)

    def wait_end(self, name: str, timeout: float = 20) -> int:
        """The exit code of a process that ends by itself, or is killed at a crash point."""
        return self.processes.pop(name).wait(timeout)

    def wait_stopped(self, name: str, timeout: float = 20) -> None:
        """Until a process has been stopped, at a crash point."""
        process = psutil.Process(self.processes[name].pid)
        wait_for(f"{name} to stand still", lambda: process.status() == psutil.STATUS_STOPPED, timeout)

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a management command to its end."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=120)

    def output(self, name: str) -> str:
        return (self.directory / f"{name}.out").read_text(errors="replace")

    def _answers(self) -> bool:
        if self.processes["web"].poll() is not None:
            pytest.fail(f"the web server ended:\n{self.output('web')}")
        try:
            self.api.get("/stats")
        except httpx.TransportError:
            return False
        return True

    def _online(self, agent_name: str) -> str | None:
        for executor in self.executors():
            if executor["name"] == agent_name and executor["state"] == "ONLINE":
                return str(executor["executor_id"])
        return None

    # --- what a user does --------------------------------------------------------------------------------------

    def submit(self, *command: str, **fields: Any) -> str:
        """Submits a job of the test image through the API and returns its id."""
        body = {"docker_image": self.image, "command": list(command), "cpu_cores": 0.1, "memory_gb": 0.0625, **fields}
        response = self.api.post("/jobs", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["job_id"])

    def shell(self, script: str, **fields: Any) -> str:
        return self.submit("sh", "-c", script, **fields)

    def job(self, job_id: str) -> dict[str, Any]:
        response = self.api.get(f"/jobs/{job_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())

    def executors(self) -> list[dict[str, Any]]:
        answer = self.api.get("/executors").json()
        return list(answer["executors"])

    def wait_status(self, job_id: str, *statuses: str, timeout: float = 30) -> dict[str, Any]:
        """The job as soon as it has one of these statuses."""

        def probe() -> dict[str, Any] | None:
            job = self.job(job_id)
            if job["status"] in statuses:
                return job
            if job["status"] in FINAL:
                pytest.fail(f"job {job_id} ended in {job['status']} instead of {statuses}: {json.dumps(job)[:2000]}")
            return None

        return wait_for(f"job {job_id} to be {' or '.join(statuses)}", probe, timeout) or {}

    def wait_final(self, job_id: str, timeout: float = 60) -> dict[str, Any]:
        return self.wait_status(job_id, *FINAL, timeout=timeout)

    def log(self, job_id: str) -> list[str]:
        """The job's log as the seed's contract has it: each line 'time stream text'."""
        return list(self.redis.lrange(self.keys.job_logs(job_id), 0, -1))

    def log_text(self, job_id: str) -> list[str]:
        return [line.split(" ", 2)[2] for line in self.log(job_id)]

    def containers(self) -> list[Any]:
        """All containers of attempts, running or not, that this cluster's agents made."""
        return [c for c in self._everything() if "workload-runner.job" in c.labels]

    def sandboxes(self) -> list[Any]:
        """All network sandboxes of this cluster's agents: the idle ones, and those of attempts."""
        return [c for c in self._everything() if "workload-runner.sandbox" in c.labels]

    def _everything(self) -> list[Any]:
        mine = f"{self.tag}-"
        label = {"label": "workload-runner.executor"}
        everything = self.engine.containers.list(all=True, filters=label, ignore_removed=True)
        return [c for c in everything if c.labels["workload-runner.executor"].startswith(mine)]


@pytest.fixture
def empty_cluster(tmp_path: Path, test_image: str, docker_client: docker.DockerClient) -> Iterator[Cluster]:
    """A cluster with nothing but Redis and a migrated database."""
    with Cluster(tmp_path, test_image, docker_client) as cluster:
        yield cluster


@pytest.fixture
def cluster(empty_cluster: Cluster) -> Cluster:
    """Web, one scheduler and one agent, all online."""
    empty_cluster.start_web()
    empty_cluster.start_scheduler()
    empty_cluster.start_agent()
    return empty_cluster
