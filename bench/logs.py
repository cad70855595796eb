"""Logs: lines a second into Redis beside a bare `attach`, the delay from a line to a browser, the agent's memory.

    python -m bench.logs --lines 1000000 --rounds 3

Throughput: the same container (same image, command, limits and log driver) is read twice in turn, once by a bare reader
of docker-py's attach socket that only counts bytes, once by the system; the time is from the engine's `StartedAt` until
the last byte was read, or until the last line lay in Redis. Delay: a job prints the machine's uptime every 50 ms; a
WebSocket client of its page compares it with the uptime at which the line arrived (the kernel prints it to 10 ms).
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import docker
import psutil
import websockets

from bench.overhead import engine_time
from bench.report import milliseconds, percentile, print_conditions, print_table, spread
from script.sample_image import import_busybox
from tests.cluster import Cluster, wait_for

IMAGE = "workload-runner-bench:latest"
LINE = "0123456789" * 10
CPU_CORES, MEMORY_GB = 2, 0.25


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
    seconds = time.time() - engine_time(api.inspect_container(container)["State"]["StartedAt"])
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


def through_the_system(cluster: Cluster, command: list[str], lines: int) -> tuple[float, int]:
    """Seconds until the last line lay in Redis, and the agent's peak memory in bytes."""
    with PeakMemory(cluster.processes["agent-a"].pid) as memory:
        job_id = cluster.submit(*command, cpu_cores=CPU_CORES, memory_gb=MEMORY_GB)
        meta = cluster.keys.job_logs_meta(job_id)
        wait_for("all lines", lambda: int(cluster.redis.hget(meta, "lines") or 0) >= lines, timeout=300, interval=0.005)
        arrived = time.time()
    written = int(cluster.redis.hget(meta, "lines") or 0)
    if written != lines:
        raise RuntimeError(f"{written} lines came of {lines}")
    started = cluster.wait_final(job_id)["started_at"]
    return arrived - engine_time(started), memory.peak


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


def measure(lines: int, rounds: int) -> None:
    engine = docker.from_env()
    import_busybox(engine, IMAGE)
    command = ["sh", "-c", f"yes {LINE} | head -n {lines}"]
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), IMAGE, engine) as cluster:
        cluster.start_web()
        cluster.start_scheduler()
        cluster.start_agent("a", AGENT_CPU_CORES="4")
        idle = psutil.Process(cluster.processes["agent-a"].pid).memory_info().rss
        config = log_config_of_jobs(cluster)
        bare, ours, peaks = [], [], []
        for _ in range(rounds):
            bare.append(lines / bare_attach(engine, command, config))
            seconds, peak = through_the_system(cluster, command, lines)
            ours.append(lines / seconds)
            peaks.append(peak)
        waits = asyncio.run(delays(cluster, 200))

    print_conditions("Logs", engine, lines=lines, bytes_a_line=len(LINE), rounds=rounds, driver=config["Type"])
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    print_table(
        ("", "median (least to most)"),
        [
            ("bare attach, thousand lines a second", spread([n / 1000 for n in bare], 0)),
            ("into Redis, thousand lines a second", spread([n / 1000 for n in ours], 0)),
            ("ratio, round by round", spread(ratios)),
            ("agent's memory, idle, MiB", f"{idle / 1024**2:.0f}"),
            ("agent's memory, peak, MiB", spread([peak / 1024**2 for peak in peaks], 0)),
            ("line to browser socket, p50", milliseconds(statistics.median(waits))),
            ("line to browser socket, p95", milliseconds(percentile(waits, 95))),
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    measure(arguments.lines, arguments.rounds)
