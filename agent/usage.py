"""What each running container uses, as samples for the charts of its job's page.

Read from the kernel's cgroup files where they are found, a few small reads a container; else the engine is asked.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.errors import APIError

from agent.engine import Engine, EngineAway
from agent.link import Link
from agent.protocol import AT_LIMIT, StartAttempt, Use
from agent.resources import GpuMonitor

logger = logging.getLogger(__name__)

TICK = 1.0
SHORTEST = 2.0
"""Seconds between two samples of one container at least."""
MOST_A_SECOND = 25
"""Containers looked at in a second: of many at once each is looked at less often, so that they cost little together."""
SPREAD = 200
"""A container's samples are this part of its age apart: those of a month are a few thousand, closest at its start."""
MOST_PROCESSES = 64
"""Of one container that are looked at, one by one, where its cgroup does not tell."""

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of a container: CPU, network and disk since its start, memory now (without the page cache that can be
    dropped) and at its highest, in seconds and bytes; None where nobody says."""

    cpu_seconds: float
    memory_bytes: int
    peak_memory_bytes: int
    received_bytes: int | None = None
    sent_bytes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None


@dataclass(slots=True)
class Peaks:
    """What was seen of an attempt's container: the highest of what comes and goes, the last of what only grows."""

    _samples: int = 0
    _held_back: int = 0
    _highest: dict[str, float] = field(default_factory=dict)

    def take(self, reading: Reading, millicores: int | None, limit: int, gpu: "tuple[float, int] | None") -> None:
        """`millicores` since the look before, of `limit`; of its GPUs the use in percent and the memory in bytes."""
        seen: dict[str, float | None] = {
            "cpu_millicores": millicores,
            "memory_bytes": reading.peak_memory_bytes,
            "cpu_seconds": reading.cpu_seconds,
            "received_bytes": reading.received_bytes,
            "sent_bytes": reading.sent_bytes,
            "read_bytes": reading.read_bytes,
            "written_bytes": reading.written_bytes,
            "gpu_percent": gpu[0] if gpu else None,
            "gpu_memory_bytes": gpu[1] if gpu else None,
        }
        for name, value in seen.items():
            if value is not None:
                self._highest[name] = max(value, self._highest.get(name, 0))
        if millicores is not None:
            self._samples += 1
            self._held_back += millicores > AT_LIMIT * limit

    def use(self) -> Use | None:
        """None where it was never looked at."""
        whole = {name: round(value) for name, value in self._highest.items()}
        return Use(samples=self._samples, held_back=self._held_back, **whole) if whole else None


@dataclass(frozen=True, slots=True)
class Running:
    """A container whose use is wanted, and where to note it besides."""

    start: StartAttempt
    container_id: str
    peaks: Peaks


# --- Reading -----------------------------------------------------------------------------------------------------


def read_cgroup(container_id: str, root: Path = CGROUPS) -> Reading | None:
    """What the kernel counts of a container; None where its files are elsewhere, or gone."""
    try:
        for folder in (root / "system.slice" / f"docker-{container_id}.scope", root / "docker" / container_id):
            if (folder / "memory.current").exists():
                return _read_v2(folder)
        if (root / "memory" / "docker" / container_id).exists():
            return _read_v1(root, container_id)
    except (OSError, ValueError, KeyError):
        return None
    return None


def _read_v2(folder: Path) -> Reading:
    memory, peak = _number(folder / "memory.current"), folder / "memory.peak"
    used = max(0, memory - _table(folder / "memory.stat")["inactive_file"])
    highest = _number(peak) if peak.exists() else used
    cpu = _table(folder / "cpu.stat")["usage_usec"] / 1e6
    procs = folder / "cgroup.procs"
    disk = _disk_v2(folder / "io.stat") or _disk_of_processes(procs)
    return Reading(cpu, used, max(used, highest), *_network(procs), *disk)


def _read_v1(root: Path, container_id: str) -> Reading:
    folder = root / "memory" / "docker" / container_id
    used = max(0, _number(folder / "memory.usage_in_bytes") - _table(folder / "memory.stat")["total_inactive_file"])
    cpu = _number(root / "cpuacct" / "docker" / container_id / "cpuacct.usage") / 1e9
    highest = max(used, _number(folder / "memory.max_usage_in_bytes"))
    procs = folder / "cgroup.procs"
    disk = _disk_v1(root / "blkio" / "docker" / container_id / "blkio.throttle.io_service_bytes")
    return Reading(cpu, used, highest, *_network(procs), *(disk or _disk_of_processes(procs)))


def _network(procs: Path) -> tuple[int | None, int | None]:
    """Bytes received and sent through all interfaces but the loopback."""
    try:
        pid = procs.read_text().split()[0]
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except (OSError, IndexError):
        return None, None
    counters = [line.partition(":")[2].split() for line in lines if not line.strip().startswith("lo:")]
    return sum(int(row[0]) for row in counters), sum(int(row[8]) for row in counters)


def _disk_v2(file: Path) -> tuple[int, int] | None:
    """Bytes read and written on all devices, from lines such as `8:0 rbytes=1 wbytes=2 rios=3 …`; None where the
    controller is not on."""
    try:
        words = file.read_text().split()
    except OSError:
        return None
    read = sum(int(word.removeprefix("rbytes=")) for word in words if word.startswith("rbytes="))
    return read, sum(int(word.removeprefix("wbytes=")) for word in words if word.startswith("wbytes="))


def _disk_v1(file: Path) -> tuple[int, int] | None:
    """The same from lines such as `8:0 Read 1`; None where nothing is counted: newer kernels, such as
    6.18, count here only what a throttle of the same cgroup concerns."""
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return None
    read = sum(int(row[2]) for row in rows if row[1:2] == ["Read"])
    written = sum(int(row[2]) for row in rows if row[1:2] == ["Write"])
    return (read, written) if read or written else None


def _disk_of_processes(procs: Path) -> tuple[int | None, int | None]:
    """The same as the kernel counts it for each process, with what those had that it waited for; a process that nobody
    waited for is left out. None where that may not be read, or there are too many."""
    files = []
    try:
        pids = procs.read_text().split()
        for pid in pids if len(pids) <= MOST_PROCESSES else []:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                files.append(Path(f"/proc/{pid}/io").read_text())
    except OSError:
        return None, None
    tables = [dict(line.split(": ") for line in file.splitlines()) for file in files]
    if not tables:
        return None, None
    return sum(int(table["read_bytes"]) for table in tables), sum(int(table["write_bytes"]) for table in tables)


def _number(path: Path) -> int:
    return int(path.read_text())


def _table(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


def from_stats(stats: dict[str, Any] | None) -> Reading | None:
    """The same from the engine's answer; None for a container that does not run, of which it may say `null`."""
    memory = (stats or {}).get("memory_stats") or {}
    if not stats or "usage" not in memory:
        return None
    details = memory.get("stats", {})
    used = max(0, memory["usage"] - details.get("total_inactive_file", details.get("inactive_file", 0)))
    networks = stats.get("networks")  # Missing where the container joined the network of another.
    moved = (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive")
    disk = (
        [sum(item["value"] for item in moved if item["op"].lower() == op) for op in ("read", "write")] if moved else []
    )
    return Reading(
        stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        used,
        max(used, memory.get("max_usage", 0)),
        sum(item["rx_bytes"] for item in networks.values()) if networks else None,
        sum(item["tx_bytes"] for item in networks.values()) if networks else None,
        *disk,
    )


# --- Sampling ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Last:
    """When a container was first and last looked at, and what it had used of the CPU by then."""

    first: float
    time: float
    cpu_seconds: float


async def sample_usage(running: Callable[[], Iterable[Running]], engine: Engine, link: Link) -> None:
    """For ever: samples of every running container, into Redis. Whatever fails is left out; the next may succeed."""
    last: dict[str, _Last] = {}
    gpus = GpuMonitor()
    while True:
        await asyncio.sleep(TICK)
        now, containers = time.monotonic(), list(running())
        last = {item.container_id: last[item.container_id] for item in containers if item.container_id in last}
        shortest = max(SHORTEST, len(containers) / MOST_A_SECOND)
        due = [item for item in containers if _is_due(last.get(item.container_id), now, shortest)]
        samples: list[tuple[str, dict[str, float | int]]] = []
        for container, reading in zip(due, await _read_all(due, engine), strict=True):
            if reading is None:
                continue
            state = last.get(container.container_id)
            gpu = gpus.latest(container.start.gpu_indices) if container.start.gpu_indices else None
            millicores = None
            if state:
                cores = max(0.0, reading.cpu_seconds - state.cpu_seconds) / (now - state.time)
                millicores = round(cores * 1000)
            container.peaks.take(reading, millicores, container.start.cpu_millicores, gpu)
            if millicores is not None:
                samples.append((container.start.job_id, _sample(container.start.attempt, millicores, reading, gpu)))
            last[container.container_id] = _Last(state.first if state else now, now, reading.cpu_seconds)
        if samples:
            await link.write_job_samples(samples)


def _is_due(state: _Last | None, now: float, shortest: float) -> bool:
    return state is None or now - state.time >= max(shortest, (now - state.first) / SPREAD)


async def _read_all(containers: list[Running], engine: Engine) -> list[Reading | None]:
    """One look at each: at all that the kernel tells at once, off the event loop."""
    ids = [container.container_id for container in containers]
    readings = await asyncio.to_thread(lambda: [read_cgroup(container_id) for container_id in ids]) if ids else []
    for index, container_id in enumerate(ids):
        if readings[index] is None:
            with contextlib.suppress(APIError, EngineAway, KeyError, TypeError):
                readings[index] = from_stats(await engine.stats(container_id))
    return readings


def _sample(attempt: int, millicores: int, reading: Reading, gpu: tuple[float, int] | None) -> dict[str, float | int]:
    fields: dict[str, float | int | None] = {
        "t": round(time.time(), 3),
        "attempt": attempt,
        "cpu_millicores": millicores,
        "cpu_seconds": round(reading.cpu_seconds, 3),
        "memory_bytes": reading.memory_bytes,
        "peak_memory_bytes": reading.peak_memory_bytes,
        "received_bytes": reading.received_bytes,
        "sent_bytes": reading.sent_bytes,
        "read_bytes": reading.read_bytes,
        "written_bytes": reading.written_bytes,
        "gpu_percent": round(gpu[0], 1) if gpu else None,
        "gpu_memory_bytes": gpu[1] if gpu else None,
    }
    return {name: value for name, value in fields.items() if value is not None}
