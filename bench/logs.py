"""Logs: lines a second into Redis beside a bare `attach`, the delay from a line to a browser, the agent's memory.

    python -m bench.logs --lines 1000000 --rounds 5 --readers 0 1 100

Throughput: the same container (same image, command, limits and log driver) is read in turn by a bare reader of
docker-py's attach socket that only counts bytes, and by the system (the one first in every other round), with so many
WebSocket clients that follow the job's page, in a process of their own on the same cores. The container waits first,
for as long as they take to connect; the time is from then until the last byte was read, or until the last line lay in
Redis. CPU is that of each process over one run, with what Redis's children took. The clients do what a page does but
for drawing: they parse each message, answer it, fetch lines in view that it lacks, and stay until they have the last
line. Delay: a job prints the machine's uptime every 50 ms; a WebSocket client of its page compares it with the uptime
at which the line arrived (the kernel prints it to 10 ms).
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import httpx
import psutil
import websockets

from bench.overhead import engine_time
from bench.report import milliseconds, percentile, print_conditions, print_table, spread
from script.sample_image import import_busybox
from tests.cluster import Cluster

IMAGE = "workload-runner-bench:latest"
LINE = "0123456789" * 10
CPU_CORES, MEMORY_GB = 2, 0.25
WAIT_SECONDS = 6
"""Before the first line, in which readers connect."""
PARTS = ("agent-a", "redis", "scheduler", "web")
ROWS_IN_VIEW, BLOCK = 70, 250
"""Of a page's log: the rows that are drawn, and how many lines are fetched where some of them are missing."""


def bare_attach(engine: docker.DockerClient, command: list[str], log_config: dict[str, Any]) -> float:
    """Seconds that a reader takes that does nothing but count."""
    api = engine.api
    host_config = api.create_host_config(
        mem_limit=int(MEMORY_GB * 1024**3), nano_cpus=CPU_CORES * 10**9, init=True, log_config=log_config
    )
    container = api.create_container(IMAGE, command, host_config=host_config)["Id"]
    socket = api.attach_socket(container, {"stdout": 1, "stderr": 1, "stream": 1})
    api.start(container)
    while socket._sock.recv(1024 * 1024):
        pass
    seconds = time.time() - engine_time(api.inspect_container(container)["State"]["StartedAt"]) - WAIT_SECONDS
    socket.close()
    api.remove_container(container, force=True, v=True)
    return seconds


class PeakMemory:
    """The most resident memory that a process had, in bytes, looked at every 20 ms."""

    def __init__(self, pid: int) -> None:
        self.process, self.peak, self.done = psutil.Process(pid), 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "PeakMemory":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(0.02):
            self.peak = max(self.peak, self.process.memory_info().rss)


@dataclass(frozen=True)
class Run:
    """One run through the system: seconds until the last line lay in Redis, the agent's peak memory in bytes, and the
    seconds of CPU that each part used."""

    seconds: float
    memory: int
    cpu: dict[str, float]


def through_the_system(cluster: Cluster, command: list[str], lines: int, readers: int) -> Run:
    with PeakMemory(cluster.processes["agent-a"].pid) as memory:
        before = cpu(cluster)
        job_id = cluster.submit(*command, cpu_cores=CPU_CORES, memory_gb=MEMORY_GB)
        meta = cluster.keys.job_logs_meta(job_id)
        with Readers(cluster, job_id, readers, lines) as clients:
            if int(cluster.redis.hget(meta, "lines") or 0):
                raise RuntimeError(f"{readers} readers took longer than {WAIT_SECONDS} s to connect")
            written = 0
            while written < lines:
                time.sleep(0.01)
                written = int(cluster.redis.hget(meta, "lines") or 0)
            arrived = time.time()
            used_by_clients = clients.finish()
    if written != lines:
        raise RuntimeError(f"{written} lines came of {lines}")
    started = cluster.wait_final(job_id)["started_at"]
    used = {name: now - before[name] for name, now in cpu(cluster).items()}
    seconds = arrived - engine_time(started) - WAIT_SECONDS
    return Run(seconds, memory.peak, used | {"clients": used_by_clients})


class Readers:
    """So many who follow the job's log, in a process of their own; inside, all of them are connected."""

    def __init__(self, cluster: Cluster, job_id: str, readers: int, lines: int) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.readers, self.connected = readers, spawning.Event()
        self.used = spawning.Value("d", 0)
        arguments = cluster.web_port, job_id, readers, lines, self.connected, self.used
        self.process = spawning.Process(target=_read_all, args=arguments)

    def __enter__(self) -> "Readers":
        if self.readers:
            self.process.start()
            self.connected.wait(60)
        return self

    def finish(self) -> float:
        """Wait until each reader has the last line; the seconds of CPU that they used once they were connected."""
        if self.readers:
            self.process.join(60)
            if self.process.exitcode != 0:
                raise RuntimeError("not every reader got the end of the log")
        return float(self.used.value)

    def __exit__(self, *_: object) -> None:
        if self.readers:
            self.process.kill()
            self.process.join()


def _read_all(port: int, job_id: str, readers: int, lines: int, connected: Any, used: Any) -> None:
    origin = f"http://127.0.0.1:{port}"

    async def read(barrier: asyncio.Barrier, http: httpx.AsyncClient) -> None:
        address = f"ws://127.0.0.1:{port}/ws/jobs/{job_id}"
        async with websockets.connect(address, origin=origin, compression=None) as socket:  # type: ignore[arg-type]
            await barrier.wait()
            if not connected.is_set():
                used.value = -time.process_time()
                connected.set()
            total = 0
            while total < lines:
                message = json.loads(await socket.recv())
                if "log" in message:
                    await socket.send('{"logged":true}')
                    page = message["log"]
                    last, total = page["first"] + len(page["lines"]), page["total"]
                    if missing := [line for line in range(max(0, total - ROWS_IN_VIEW), total) if line >= last]:
                        (await http.get(f"/jobs/{job_id}/log/?offset={missing[0]}&limit={BLOCK}")).raise_for_status()
                elif "html" in message:
                    await socket.send('{"shown":true}')

    async def read_all() -> None:
        barrier = asyncio.Barrier(readers)
        async with httpx.AsyncClient(base_url=origin) as http:
            await asyncio.gather(*(read(barrier, http) for _ in range(readers)))
        used.value += time.process_time()

    asyncio.run(read_all())


def cpu(cluster: Cluster) -> dict[str, float]:
    """Seconds that each part has used."""
    times = {name: psutil.Process(cluster.processes[name].pid).cpu_times() for name in PARTS}
    return {name: sum(time[:4]) for name, time in times.items()}


def log_config_of_jobs(cluster: Cluster) -> dict[str, Any]:
    """The log driver that the agent gives its containers, so that the bare reader has the same."""
    cluster.wait_status(cluster.submit("sleep", "2"), "RUNNING")
    (container,) = cluster.containers()
    config: dict[str, Any] = container.attrs["HostConfig"]["LogConfig"]
    return docker.types.LogConfig(type=config["Type"], config=config["Config"])


async def delays(cluster: Cluster, lines: int) -> list[float]:
    """Seconds from the printing of each line until a WebSocket client of the job's page had it."""
    script = f"i=0; while [ $i -lt {lines} ]; do read up rest < /proc/uptime; echo $up; i=$((i+1)); usleep 50000; done"
    job_id = cluster.shell(script, cpu_cores=0.5)
    address = f"ws://127.0.0.1:{cluster.web_port}/ws/jobs/{job_id}?log_offset=0"
    found: list[float] = []
    async with websockets.connect(address, origin=cluster.url) as socket:  # type: ignore[arg-type]
        while len(found) < lines:
            message = json.loads(await asyncio.wait_for(socket.recv(), 60))
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            if "log" in message:
                found += [now - float(line.split(" ", 2)[2]) for line in message["log"]["lines"]]
                await socket.send('{"logged": true}')
            elif "html" in message:
                await socket.send('{"shown": true}')
    return found


def measure(lines: int, rounds: int, numbers: list[int]) -> None:
    engine = docker.from_env()
    import_busybox(engine, IMAGE)
    command = ["sh", "-c", f"sleep {WAIT_SECONDS}; yes {LINE} | head -n {lines}"]
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), IMAGE, engine) as cluster:
        cluster.start_web()
        cluster.start_scheduler()
        cluster.start_agent("a", AGENT_CPU_CORES="4")
        idle = psutil.Process(cluster.processes["agent-a"].pid).memory_info().rss
        config = log_config_of_jobs(cluster)
        bare: list[float] = []
        runs: dict[int, list[Run]] = {readers: [] for readers in numbers}
        ratios: dict[int, list[float]] = {readers: [] for readers in numbers}
        for number in range(rounds):
            for readers in numbers:
                if number % 2 == 0:
                    bare.append(bare_attach(engine, command, config))
                runs[readers].append(through_the_system(cluster, command, lines, readers))
                if number % 2 == 1:
                    bare.append(bare_attach(engine, command, config))
                ratios[readers].append(bare[-1] / runs[readers][-1].seconds)
        waits = asyncio.run(delays(cluster, 200))

    print_conditions("Logs", engine, lines=lines, bytes_a_line=len(LINE), rounds=rounds, driver=config["Type"])
    rows: list[list[object]] = [["bare attach", spread([lines / seconds / 1000 for seconds in bare], 0), ""]]
    for readers, of_readers in runs.items():
        speeds = spread([lines / run.seconds / 1000 for run in of_readers], 0)
        rows.append([f"into Redis, {readers} readers", speeds, spread(ratios[readers])])
    print_table(("", "thousand lines a second, median (least to most)", "of bare, pair by pair"), rows)
    parts = (*PARTS, "clients")
    print_table(
        ("CPU, seconds a million lines", "agent", "Redis", "scheduler with archiver", "web", "clients"),
        [
            (f"{readers} readers", *(f"{statistics.median(r.cpu[p] for r in of) * 1e6 / lines:.2f}" for p in parts))
            for readers, of in runs.items()
        ],
    )
    peaks = [run.memory for of_readers in runs.values() for run in of_readers]
    print_table(
        ("", "median (least to most)"),
        [
            ("agent's memory, idle, MiB", f"{idle / 1024**2:.0f}"),
            ("agent's memory, peak, MiB", spread([peak / 1024**2 for peak in peaks], 0)),
            ("line to browser socket, p50", milliseconds(statistics.median(waits))),
            ("line to browser socket, p95", milliseconds(percentile(waits, 95))),
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--readers", type=int, nargs="*", default=[0, 1, 100], help="who follow the log meanwhile")
    arguments = parser.parse_args()
    measure(arguments.lines, arguments.rounds, arguments.readers)
