"""One run of chaos: the system, a stream of jobs, faults meanwhile, and what is seen to go wrong."""

import contextlib
import random
import sqlite3
import threading
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import httpx
import redis

from bench.chaos_faults import (
    AGENTS,
    CORES,
    MEMORY_GB,
    NODE_FAULTS,
    SCHEDULERS,
    SERVER_FAULTS,
    Fault,
    Victims,
    start_agent,
)
from tests.cluster import FINAL, Cluster
from tests.evidence import LABEL_EXECUTOR, LAST, Witness, check_lines, numbered
from tests.proxy import Proxy

JOB_MEMORY_GB = 0.0625
MOST_UNFINISHED = 10
LONGEST_RECOVERY = 240
"""Seconds for everything to come to its end after the last fault; the longest delay of a re-queue is 120."""
PLATFORM = {"executor_lost", "start_refused", "engine_error", "container_gone", "attempt_gone"}


@dataclass(slots=True)
class Submitted:
    """A job that the API accepted, and how it must end if nothing but the platform's failures hits it."""

    id: str
    kind: str
    cores: float
    lines: int
    expected: str
    aborted: bool = False


@dataclass(slots=True)
class Harm:
    """One fault: when it began and ended, and when the job submitted at its beginning was final."""

    fault: str
    began: float
    ended: float = 0
    recovered: float = 0


@dataclass(slots=True)
class Findings:
    """What must be 0 at the end: sentences, by what they are about."""

    by_kind: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, sentence: str) -> None:
        self.by_kind[kind].append(sentence)


class Chaos:
    """One run. `states` is the database as last read: (state, reason, exit code, container of the last attempt)."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster, self.seed = cluster, seed
        self.jobs: dict[str, Submitted] = {}
        self.probes: set[str] = set()
        self.states: dict[str, tuple[str, str, int | None, str]] = {}
        self.harms: list[Harm] = []
        self.findings = Findings()
        self.logs_read = self.lines_read = 0
        self.checked: set[str] = set()
        self.stopping, self.closing = threading.Event(), threading.Event()
        self.victims = Victims(cluster, {name: Proxy(cluster.redis_port) for name in AGENTS})
        self.random = random.Random(seed)

    # --- the system ------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.cluster.start_web()
        for name in SCHEDULERS:
            self.cluster.start_scheduler(name)
        for name in AGENTS:
            start_agent(self.victims, name)
        for name in AGENTS:
            self.cluster.wait_online(name)

    # --- jobs ------------------------------------------------------------------------------------------------

    def submit_stream(self) -> None:
        """Until told to stop: jobs, few enough at a time that most run at once."""
        while not self.stopping.is_set():
            if len([job for job in self.jobs.values() if self.state(job.id) not in FINAL]) < MOST_UNFINISHED:
                self.submit_one()
            self.abort_stubborn()
            self.stopping.wait(0.3 * self.random.random())

    def submit_one(self) -> None:
        choose = self.random
        kind = choose.choices(["quick", "steady", "burst", "failing", "stubborn"], [4, 4, 1, 1, 1])[0]
        lines, pause, then, expected = {
            "quick": (3, 0.0, "", "SUCCEEDED"),
            "steady": (choose.randrange(20, 80), 0.05, "", "SUCCEEDED"),
            "burst": (2000, 0.0, "", "SUCCEEDED"),
            "failing": (5, 0.0, "exit 3", "FAILED"),
            "stubborn": (600, 0.1, "", "ABORTED"),
        }[kind]
        script = numbered(lines, pause, then)
        if kind == "stubborn":
            script = f"trap '' TERM; {script}"
        cores = choose.choice([0.1, 0.2, 0.3, 0.5])
        job_id = self.submit("sh", "-c", script, cpu_cores=cores, max_retries=int(kind == "failing"), name=kind)
        if job_id:
            self.jobs[job_id] = Submitted(job_id, kind, cores, lines, expected)

    def submit(self, *command: str, **fields: object) -> str:
        """The id of the accepted job; '' where the web server was not there to accept it."""
        try:
            return self.cluster.submit(*command, memory_gb=JOB_MEMORY_GB, **fields)
        except httpx.TransportError:
            return ""
        except AssertionError as refused:
            self.findings.add("submissions answered with an error", str(refused).splitlines()[0][:300])
            return ""

    def abort_stubborn(self) -> None:
        """Abort the jobs that would not end by themselves, once they run."""
        for job in self.jobs.values():
            if job.kind == "stubborn" and not job.aborted and self.state(job.id) == "RUNNING":
                self.abort(job)

    def abort(self, job: Submitted) -> None:
        with contextlib.suppress(httpx.TransportError):
            answer = self.cluster.api.delete(f"/jobs/{job.id}")
            job.aborted = answer.status_code in (200, 202, 409)

    def state(self, job_id: str) -> str:
        return self.states.get(job_id, ("PENDING", "", None, ""))[0]

    # --- faults ----------------------------------------------------------------------------------------------

    def harm(self, faults: list[tuple[str, int, Fault]], choose: random.Random) -> None:
        """Until told to stop: one fault after the other, with moments of quiet."""
        while not self.stopping.wait(choose.uniform(0, 3)):
            name, _, fault = choose.choices(faults, [weight for _, weight, _ in faults])[0]
            harm = Harm(name, time.monotonic())
            self.harms.append(harm)
            prober = threading.Thread(target=self.probe, args=[harm], name=f"probe {name}", daemon=True)
            prober.start()
            fault(self.victims, choose)
            harm.ended = time.monotonic()

    def probe(self, harm: Harm) -> None:
        """Submit a job now and say when it was final."""
        job_id = ""
        while not (job_id or self.closing.is_set()):
            job_id = self.submit("true", cpu_cores=0.1, priority=100, name="probe")
            time.sleep(0 if job_id else 0.1)
        self.probes.add(job_id)
        while not self.closing.wait(0.02):
            if self.state(job_id) in FINAL:
                harm.recovered = time.monotonic()
                return

    # --- watching --------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Until the end: reads the database for what must never be seen, and the logs of jobs that ended."""
        with contextlib.closing(_open_database(self.cluster)) as database:
            while not self.closing.wait(0.1):
                self.read_states(database)
                self.read_commitments(database)
                with contextlib.suppress(redis.RedisError):
                    self.check_logs()

    def read_states(self, database: sqlite3.Connection) -> None:
        for job_id, *now in database.execute(_STATES):
            name = str(uuid.UUID(job_id))
            before = self.states.get(name)
            if before and before[0] in FINAL and before != tuple(now):
                self.findings.add("final states that changed", f"{name}: {before} became {now}")
            self.states[name] = (now[0], now[1], now[2], now[3])

    def read_commitments(self, database: sqlite3.Connection) -> None:
        for executor_id, cpu, memory in database.execute(_COMMITMENTS):
            if cpu > CORES * 1000 or memory > MEMORY_GB * 1024**3:
                self.findings.add("over-commit instants", f"database: {executor_id} {cpu} millicores, {memory} bytes")

    def check_logs(self) -> None:
        """The logs of jobs that ended as they lie in Redis, once each, when they are complete."""
        for job_id, job in list(self.jobs.items()):
            if job_id in self.checked or not (container := self.last_ended(job_id)):
                continue
            keys = self.cluster.keys.job_logs_meta(job_id), self.cluster.keys.job_logs(job_id)
            with self.cluster.redis.pipeline(transaction=True) as pipe:
                known, log = pipe.hmget(keys[0], "complete", "attempt").lrange(keys[1], 0, -1).execute()
            if known == ["1", self.witness.attempt(container)]:
                self.checked.add(job_id)
                state = self.state(job_id)
                whole = [self.witness.host(container)] if state == job.expected != "ABORTED" else []
                self.check_log(job, log, whole, "in Redis")

    def last_ended(self, job_id: str) -> str:
        """The last container of a job that has ended; '' where none ran."""
        state, _, _, container = self.states.get(job_id, ("", "", None, ""))
        return container if state in FINAL and container and self.witness.died(container) else ""

    def check_log(self, job: Submitted, log: list[str], whole: list[str], where: str) -> None:
        """`whole`: the host names of the containers that ended by themselves, all of whose lines must be there."""
        faults = check_lines(log, whole, job.lines, self.victims.removed[job.id])
        self.logs_read += 1
        self.lines_read += len(log)
        for kind, count in (("lines missing", faults.missing), ("lines doubled", faults.doubled)):
            if count:
                self.findings.add(f"log {kind}", f"{job.id} ({job.kind}) {where}: {count} {kind}")
        if faults.foreign:
            self.findings.add("log lines garbled", f"{job.id} {where}: {faults.foreign[:3]}")

    # --- the end ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until everything has come to its end, at most LONGEST_RECOVERY seconds."""
        deadline = time.monotonic() + LONGEST_RECOVERY
        while time.monotonic() < deadline:
            self.abort_stubborn()
            ended = all(state[0] in FINAL for state in list(self.states.values()))
            known = self.jobs.keys() | self.probes <= self.states.keys() | {""}
            if ended and known and not self.cluster.containers() and not _unread_entries(self.cluster):
                break
            time.sleep(0.2)
        time.sleep(1)  # the last heartbeats

    witness: Witness

    def judge(self) -> None:
        """Everything that can be said only at the end."""
        add = self.findings.add
        for job in self.jobs.values():
            self.judge_job(job)
        for name, times in self.witness.starts().items():
            if times > 1:
                add("attempts run twice", f"{name} was started {times} times")
        self.judge_loads()
        for container in self.cluster.containers():
            add("containers left", f"{container.name} {container.status}")
        for executor, number in Counter(c.labels[LABEL_EXECUTOR] for c in self.cluster.sandboxes()).items():
            if number > 1:  # One is kept warm.
                add("containers left", f"{number} network sandboxes of {executor}")
        for job_id in filter(self.last_ended, self.jobs):
            self.judge_log(self.jobs[job_id])
        for stream, waiting in _unread_entries(self.cluster).items():
            add("stream entries left", f"{stream}: {waiting}")
        agreed = self.cluster.manage("checkinvariants")
        if agreed.returncode:
            add("what checkinvariants finds", f"{agreed.stdout}{agreed.stderr}")

    def judge_job(self, job: Submitted) -> None:
        state, reason, code, _ = self.states.get(job.id, ("", "", None, ""))
        if state not in FINAL:
            self.findings.add("jobs lost", f"{job.id} ({job.kind}) is {state or 'unknown'}")
        elif not self.ended_well(job, state, reason):
            self.findings.add("jobs that ended wrongly", f"{job.id} ({job.kind}): {state} {reason} {code}")
        codes = self.witness.exit_codes(job.id)
        if state == "SUCCEEDED" and 0 not in codes.values():
            self.findings.add("ends that differ from the engine's", f"{job.id}: {state}, the engine says {codes}")

    def judge_log(self, job: Submitted) -> None:
        """The whole log as users get it, out of archive and Redis, wherever Redis was emptied."""
        attempts = self.cluster.job(job.id)["attempts"]
        ended = [item["container_id"] for item in attempts if item["reason"] in ("completed", "exit_nonzero")]
        whole = [host for host in map(self.witness.host, ended) if host != LAST]
        answer = self.cluster.api.get(f"/api/v1/jobs/{job.id}/logs", params={"download": True})
        if answer.status_code == 200:
            self.check_log(job, answer.text.splitlines(), whole, "as users get it")
        else:
            self.findings.add("logs never complete", f"{job.id}: {answer.status_code} {answer.text[:200]}")

    def judge_loads(self) -> None:
        jobs = self.jobs.values()
        for unit, requests, capacity in (
            ("millicores", {job.id: round(job.cores * 1000) for job in jobs}, CORES * 1000),
            ("MB", {job.id: round(JOB_MEMORY_GB * 1024) for job in jobs}, MEMORY_GB * 1024),
        ):
            for executor_id, most in self.witness.most(requests).items():
                if most > capacity:
                    self.findings.add("over-commit instants", f"node: {executor_id} {most} {unit} of {capacity}")

    def ended_well(self, job: Submitted, state: str, reason: str) -> bool:
        if state == job.expected or reason in PLATFORM:
            return True
        return job.kind == "stubborn" and (job.aborted or state == "SUCCEEDED")


_STATES = """
SELECT j.id, j.state, j.reason, j.exit_code, coalesce(a.container_id, '')
FROM jobs_job j LEFT JOIN jobs_attempt a ON a.job_id = j.id AND a.number = j.attempt_number
"""
_COMMITMENTS = """
SELECT a.executor_id, sum(j.cpu_millicores), sum(j.memory_bytes)
FROM jobs_attempt a JOIN jobs_job j ON j.id = a.job_id WHERE a.finished_at IS NULL GROUP BY a.executor_id
"""


def _open_database(cluster: Cluster) -> sqlite3.Connection:
    path = cluster.directory / "var" / "db.sqlite3"
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=30)


def _unread_entries(cluster: Cluster) -> dict[str, int]:
    """The streams in which something still waits, and how many; keys that nobody needs are found by checkinvariants."""
    streams = [cluster.keys.events, *(cluster.keys.commands(item["executor_id"]) for item in cluster.executors())]
    return {stream: waiting for stream in streams if (waiting := cluster.redis.xlen(stream))}


def run(cluster: Cluster, seconds: float, seed: int) -> Chaos:
    """Chaos for this long, then quiet until everything has ended, then the verdict in `findings`."""
    chaos = Chaos(cluster, seed)
    with Witness(cluster.engine, f"{cluster.tag}-") as witness:
        chaos.witness = witness
        chaos.start()
        workers = [
            threading.Thread(target=chaos.submit_stream, name="submit"),
            threading.Thread(target=chaos.harm, args=[NODE_FAULTS, random.Random(seed + 1)], name="nodes"),
            threading.Thread(target=chaos.harm, args=[SERVER_FAULTS, random.Random(seed + 2)], name="servers"),
        ]
        watcher = threading.Thread(target=chaos.watch, name="watch", daemon=True)
        for thread in [watcher, *workers]:
            thread.start()
        time.sleep(seconds)
        chaos.stopping.set()
        for thread in workers:
            thread.join()
        chaos.settle()
        chaos.judge()
        chaos.closing.set()
        watcher.join()
    for proxy in chaos.victims.proxies.values():
        proxy.close()
    return chaos
