"""How many jobs a second go through their whole life, and what each part of the system spends on one.

    python -m bench.lifecycle
    python -m bench.lifecycle --quick

Web, scheduler, agents, Redis and database are processes of their own on this machine. Jobs are submitted in batches
over HTTP, placed, started and ended by agents who speak the real protocol and run nothing, and counted when their final
state is committed. At full load everything is submitted as fast as the web takes it; at half load the same system gets
half of what it did then, and the delay is from a job's submission to its start on the node.

Celery and HyperQueue do their least in the same run: a task that does nothing, without Docker or database; HyperQueue
starts a process for each.
"""

import argparse
import os
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import psutil
import psycopg

from bench import peers
from bench.demo import Demo
from bench.report import milliseconds, percentile, print_machine, print_table
from script.private_postgresql import find_programs, private_postgresql
from tests.cluster import wait_for

JOB = {"docker_image": "registry.example/nothing:1", "command": ["true"], "cpu_cores": 1, "memory_gb": 0.5}
CLIENTS = 2
LOOK_SECONDS = 0.2
HALF_LOAD_SECONDS = 20
BATCHES_A_SECOND = 20
SINGLE_JOBS = 200
PARTS = ("web", "scheduler", "agents", "redis", "database", "clients")

Ask = Callable[[str], list[tuple[object, ...]]]
"""Runs a query on the system's database."""


class System(Demo):
    """Everything under measurement, with `agents` simulated agents."""

    def __init__(self, directory: Path, agents: int, **env: str) -> None:
        super().__init__(directory, HEARTBEAT_INTERVAL="30", JOB_POLL_INTERVAL="10", **env)
        self._agents = agents

    def start_all(self, ask: Ask) -> None:
        self.start_web()
        self.start_scheduler()
        self._start("agents", ["-m", "bench.simulated_agents", str(self._agents)])
        online = "SELECT count(*) FROM executors_executor WHERE state = 'ONLINE'"
        wait_for("the agents to be online", lambda: ask(online) == [(self._agents,)], timeout=120)


class Cpu:
    """Seconds of CPU that each part has used; the database's may be many processes that come and go."""

    def __init__(self, system: System, database: int | None) -> None:
        self._parts = {name: psutil.Process(system.processes[name].pid) for name in ("web", "scheduler", "agents")}
        self._parts |= {"redis": psutil.Process(system.processes["redis"].pid), "clients": psutil.Process()}
        self._database = psutil.Process(database) if database else None

    def used(self) -> dict[str, float]:
        seconds = {name: sum(process.cpu_times()[:2]) for name, process in self._parts.items()}
        if self._database is not None:
            seconds["database"] = sum(self._database.cpu_times()[:4])
            for child in self._database.children():
                try:
                    seconds["database"] += sum(child.cpu_times()[:2])
                except psutil.NoSuchProcess:
                    continue
        return seconds


def submit(system: System, batches: Iterator[int]) -> None:
    """Submit batches of these sizes, as fast as they come. Raises httpx.HTTPStatusError where one is refused."""
    with httpx.Client(base_url=system.url, timeout=120) as api:
        for size in batches:
            api.post("/api/v1/jobs/batch", json={"jobs": [JOB] * size}).raise_for_status()


def submit_all(system: System, jobs: int, batch: int) -> None:
    """With as many clients as a busy front would have, each with one request at a time."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for begin in range(0, jobs, batch):
        waiting.put(min(batch, jobs - begin))

    def taken() -> Iterator[int]:
        while True:
            try:
                yield waiting.get_nowait()
            except queue.Empty:
                return

    clients = [threading.Thread(target=submit, args=(system, taken())) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def submit_steadily(system: System, rate: float, seconds: float) -> None:
    """So many jobs a second, spread evenly."""
    size = max(1, round(rate / BATCHES_A_SECOND))

    def paced() -> Iterator[int]:
        begin = time.monotonic()
        for number in range(round(seconds * rate / size)):
            time.sleep(max(0.0, begin + number * size / rate - time.monotonic()))
            yield size

    submit(system, paced())


def submit_singly(system: System, jobs: int) -> list[float]:
    """Seconds that each of so many `POST /jobs` took, one after the other, on a system that has nothing else to do."""
    taken = []
    with httpx.Client(base_url=system.url, timeout=60) as api:
        for _ in range(jobs):
            begin = time.perf_counter()
            api.post("/api/v1/jobs", json=JOB).raise_for_status()
            taken.append(time.perf_counter() - begin)
            time.sleep(0.01)
    return taken


def wait_until_final(ask: Ask, jobs: int, timeout: float) -> None:
    """Until as many jobs have SUCCEEDED and none is left; raises RuntimeError after `timeout` seconds."""
    newest = "SELECT state FROM jobs_job ORDER BY id DESC LIMIT 1"  # costs nothing, and is among the last to end
    under_way = "SELECT 1 FROM jobs_job WHERE state IN ('PENDING', 'STARTING', 'RUNNING') LIMIT 1"
    deadline = time.monotonic() + timeout
    while ask(newest) != [("SUCCEEDED",)] or ask(under_way):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all jobs came to their end within {timeout:.0f} s")
        time.sleep(LOOK_SECONDS)
    states = ask("SELECT state, count(*) FROM jobs_job GROUP BY state")
    if states != [("SUCCEEDED", jobs)]:
        raise RuntimeError(f"the jobs ended otherwise than expected: {states}")


def measure(system: System, ask: Ask, database: int | None, jobs: int, batch: int) -> list[object]:
    """The row of the table: jobs a second, delays, and the CPU of each part."""
    cpu = Cpu(system, database)
    warm_up = batch * CLIENTS
    submit_all(system, warm_up, batch)
    wait_until_final(ask, warm_up, 120)
    before, begin = cpu.used(), time.monotonic()
    submit_all(system, jobs, batch)
    accepted = time.monotonic() - begin
    wait_until_final(ask, warm_up + jobs, 900)
    rate, after = jobs / (time.monotonic() - begin), cpu.used()
    submit_steadily(system, rate / 2, HALF_LOAD_SECONDS)
    (count,) = ask("SELECT count(*) FROM jobs_job")[0]
    wait_until_final(ask, int(str(count)), 120)
    late = int(str(count)) - warm_up - jobs
    delays = start_delays(ask, late)
    alone = submit_singly(system, SINGLE_JOBS)
    spent = {name: 1e6 * (after[name] - before[name]) / jobs for name in after}
    return [
        f"{rate:,.0f}",
        f"{jobs / accepted:,.0f}",
        milliseconds(percentile(delays, 50)),
        milliseconds(percentile(delays, 95)),
        milliseconds(percentile(alone, 50)),
        *(f"{spent[name]:.0f}" if name in spent else "" for name in PARTS),
    ]


def start_delays(ask: Ask, newest: int) -> list[float]:
    """Seconds from submission to the start on the node, of so many newest jobs; both by this machine's clock."""
    rows = ask(f"SELECT submitted_at, started_at FROM jobs_job ORDER BY id DESC LIMIT {newest}")  # noqa: S608
    return [_moment(started) - _moment(submitted) for submitted, started in rows]


def _moment(value: object) -> float:
    return value.timestamp() if isinstance(value, datetime) else datetime.fromisoformat(f"{value}+00:00").timestamp()


@contextmanager
def on_sqlite(directory: Path, agents: int) -> Iterator[tuple[System, Ask, int | None]]:
    with System(directory, agents) as system:
        connection = sqlite3.connect(directory / "var" / "db.sqlite3", timeout=20)
        yield from _running(system, lambda sql: connection.execute(sql).fetchall(), None)
        connection.close()


@contextmanager
def on_postgres(directory: Path, agents: int) -> Iterator[tuple[System, Ask, int | None]]:
    with (
        private_postgresql() as server,
        System(directory / "system", agents, DATABASE_URL=server.url) as system,
        psycopg.connect(server.url, autocommit=True) as connection,
    ):
        yield from _running(system, lambda sql: connection.execute(sql).fetchall(), server.pid)


def _running(system: System, ask: Ask, database: int | None) -> Iterator[tuple[System, Ask, int | None]]:
    system.start_all(ask)
    yield system, ask, database
    for name in ("agents", "scheduler", "web"):
        system.stop(name)


def run(agents: int, jobs: int, batch: int, tasks: int, databases: list[str]) -> None:
    rows: list[list[object]] = []
    load = os.getloadavg()[0]
    for name in databases:
        if name == "PostgreSQL" and find_programs() is None:
            print("PostgreSQL is not installed here, so it is left out.")
            continue
        start = on_postgres if name == "PostgreSQL" else on_sqlite
        with (
            tempfile.TemporaryDirectory(prefix="workload-runner-bench-") as folder,
            start(Path(folder), agents) as (system, ask, database),
        ):
            rows.append([name, *measure(system, ask, database, jobs, batch)])
    others = [
        ("Celery over Redis, outcome not kept", peers.celery_rate(tasks, keep_results=False)),
        ("Celery over Redis, outcome kept in Redis", peers.celery_rate(tasks, keep_results=True)),
        ("HyperQueue, a process of `true` each", peers.hyperqueue_rate(max(100, tasks // 10))),
    ]
    print_machine(
        "Jobs through their whole life",
        agents=f"{agents:,}",
        jobs=f"{jobs:,}",
        jobs_a_batch=f"{batch:,}",
        load_before=f"{load:.1f}",
    )
    header = ["database", "jobs/s", "accepted/s", "start delay at half load, p50", "p95", "one POST, p50"]
    print_table([*header, *(f"{name}, µs/job" for name in PARTS)], rows)
    print_table(["beside it", "tasks/s"], [(name, f"{rate:,.0f}") for name, rate in others if rate is not None])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1000, help="jobs in one request")
    parser.add_argument("--tasks", type=int, default=20_000, help="of Celery; HyperQueue gets a tenth")
    parser.add_argument("--database", choices=["SQLite", "PostgreSQL"], help="one of the two alone")
    parser.add_argument("--quick", action="store_true", help="100 agents, 2,000 jobs, 500 tasks")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.agents, arguments.jobs, arguments.batch, arguments.tasks = 100, 2000, 200, 500
    wanted = [arguments.database] if arguments.database else ["SQLite", "PostgreSQL"]
    run(arguments.agents, arguments.jobs, arguments.batch, arguments.tasks, wanted)
