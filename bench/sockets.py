"""What open pages cost one web process: dashboards, and readers of a log, while about three changes a second happen.

    python -m bench.sockets

A change is a job submitted through another web process, or a batch of lines added to the log, every third time with an
executor's change beside it. The delay is from just before the request (or the write to Redis) to the moment that a
client has the message that shows it: HTTP, commit, hint, rendering and sending are all within. The clients are Python
on the same machine, answering as the page does; their own CPU is shown because they compete for the same cores.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
from websockets.asyncio.client import ClientConnection, connect

from bench.demo import Demo
from bench.report import milliseconds, percentile, print_machine, print_table

CHANGES_PER_SECOND = 3
CONNECTING_AT_ONCE = 10
MARK = re.compile(r"probe-(\d+)")
LOG_LINES = 10
SETTLE_SECONDS = 3
LAST_SECONDS = 5


@dataclass
class Probes:
    """When each numbered change was made, and how long after it each client saw it."""

    expected: int
    made: dict[int, float] = field(default_factory=dict)
    delays: list[float] = field(default_factory=list)
    all_seen: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, number: int, now: float) -> None:
        self.delays.append(now - self.made[number])
        if len(self.delays) == self.expected:
            self.all_seen.set()


async def answer(socket: ClientConnection, probes: Probes, numbered_before: int) -> None:
    """Do as the page does until the socket is closed, noting what is seen for the first time."""
    seen = numbered_before
    async for text in socket:
        now = time.monotonic()
        await socket.send('{"logged":true}' if str(text).startswith('{"log"') else '{"shown":true}')
        numbers = {int(number) for number in MARK.findall(str(text))}
        for number in numbers:
            if number > seen and number in probes.made:
                probes.see(number, now)
        seen = max(numbers | {seen})


async def look(
    demo: Demo, path: str, clients: int, seconds: float, change: Callable[[int], Awaitable[None]], first: int
) -> tuple[object, ...]:
    """Open as many sockets, make changes numbered from `first` for so long, and return the table's row."""
    numbers = range(first, first + round(seconds * CHANGES_PER_SECOND))
    probes, gate = Probes(expected=clients * len(numbers)), asyncio.Semaphore(CONNECTING_AT_ONCE)
    web, own = psutil.Process(demo.processes["web"].pid), psutil.Process()
    resting = web.memory_info().rss
    async with AsyncExitStack() as stack:

        async def open_one() -> ClientConnection:
            async with gate:
                url = f"ws://127.0.0.1:{demo.web_port}{path}"
                return await stack.enter_async_context(
                    connect(url, origin=demo.url, compression=None, max_size=None, proxy=None, open_timeout=60)  # type: ignore[arg-type]
                )

        sockets = await asyncio.gather(*(open_one() for _ in range(clients)))
        readers = [asyncio.create_task(answer(socket, probes, first - 1)) for socket in sockets]
        await asyncio.sleep(SETTLE_SECONDS)
        began, web_cpu, own_cpu = time.monotonic(), sum(web.cpu_times()[:2]), sum(own.cpu_times()[:2])
        for number in numbers:
            probes.made[number] = time.monotonic()
            await change(number)
            if number % 3 == 0:
                hint = {"jobs": [], "executors": ["demo-0001"]}
                demo.redis.publish(demo.keys.changes_channel, json.dumps(hint))
            await asyncio.sleep(max(0, began + (number - first + 1) / CHANGES_PER_SECOND - time.monotonic()))
        took = time.monotonic() - began
        web_share, own_share = (sum(web.cpu_times()[:2]) - web_cpu) / took, (sum(own.cpu_times()[:2]) - own_cpu) / took
        held = web.memory_info().rss
        with suppress(TimeoutError):
            await asyncio.wait_for(probes.all_seen.wait(), LAST_SECONDS)
        for reader in readers:
            reader.cancel()
    delays = probes.delays or [float("nan")]
    return (
        f"{100 * web_share:.0f} %",
        f"{100 * own_share:.0f} %",
        f"{held / 1024**2:.0f} MB",
        f"{(held - resting) / clients / 1024:.0f} kB" if clients >= 100 else "",
        milliseconds(percentile(delays, 50)),
        milliseconds(percentile(delays, 95)),
        f"{100 * len(probes.delays) / probes.expected:.1f} %",
    )


def append_lines(demo: Demo, job_id: str, number: int) -> None:
    """As an agent ships them."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    lines = [f"{stamp} stdout probe-{number} line {line} of a batch, as long as many are" for line in range(LOG_LINES)]
    meta = demo.keys.job_logs_meta(job_id)
    with demo.redis.pipeline() as pipeline:
        pipeline.rpush(demo.keys.job_logs(job_id), *lines)
        pipeline.hincrby(meta, "lines", len(lines))
        pipeline.hset(meta, mapping={"dropped": 0, "complete": 0})
        pipeline.publish(demo.keys.log_channel(job_id), "")
        pipeline.execute()


async def measure(demo: Demo, dashboards: list[int], readers: int, seconds: float) -> None:
    rows: list[tuple[object, ...]] = []
    writer = await asyncio.to_thread(demo.start_second_web)
    first = itertools.count(1_000_000, 1_000_000)
    async with httpx.AsyncClient(base_url=writer, timeout=30) as api:

        async def submit(number: int) -> str:
            response = await api.post("/jobs", json={"docker_image": "probe", "name": f"probe-{number}"})
            response.raise_for_status()
            return str(response.json()["job_id"])

        async def submit_probe(number: int) -> None:
            await submit(number)

        async def write_log(number: int) -> None:
            append_lines(demo, job_id, number)

        job_id = await submit(0)
        for clients in dashboards:
            await asyncio.to_thread(demo.start_web)
            row = await look(demo, "/ws/dashboard", clients, seconds, submit_probe, next(first))
            rows.append((f"{clients} dashboard{'s' if clients > 1 else ''}", *row))
            demo.kill("web")
        await asyncio.to_thread(demo.start_web)
        row = await look(demo, f"/ws/jobs/{job_id}", readers, seconds, write_log, next(first))
        rows.append((f"{readers} readers of a log", *row))
    print_machine(
        "Open pages on one web process",
        changes_a_second=CHANGES_PER_SECOND,
        seconds_each=f"{seconds:g}",
        load=f"{os.getloadavg()[0]:.1f}",
    )
    header = ("pages", "CPU of web", "CPU of clients", "web's memory", "a connection", "delay p50", "p95", "seen")
    print_table(header, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dashboards", type=int, nargs="+", default=[1, 100, 500])
    parser.add_argument("--readers", type=int, default=100, help="of one log (default 100)")
    parser.add_argument("--seconds", type=float, default=30, help="of changes, each time (default 30)")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="workload-runner-bench-") as made, Demo(Path(made)) as cluster:
        cluster.seed(executors=100, jobs=10_000, days=7)
        asyncio.run(measure(cluster, arguments.dashboards, arguments.readers, arguments.seconds))
