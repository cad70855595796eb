"""What the node has and how much of it is in use: CPU, memory, GPUs, address."""

import asyncio
import csv
import logging
import shutil
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from agent.protocol import Gpu

logger = logging.getLogger(__name__)

NVIDIA_SMI_TIMEOUT = 20
GPU_SECONDS = 5.0
MIB = 1024**2
VMSTAT = Path("/proc/vmstat")


async def detect_gpus() -> list[Gpu]:
    """The node's NVIDIA GPUs; none where nvidia-smi is missing, or fails, which is logged."""
    rows = await _nvidia_smi("index,uuid,name,memory.total")
    gpus = []
    for row in rows:
        try:
            gpus.append(Gpu(int(row[0]), row[1], row[2], _mib(row[3])))
        except (ValueError, IndexError):
            logger.warning("nvidia-smi printed a line that is no GPU, skipped: %s", ", ".join(row))
    return gpus


class GpuMonitor:
    """The use of the GPUs as it last was: nvidia-smi is asked beside whoever wants it, every GPU_SECONDS at most."""

    def __init__(self) -> None:
        self._use: dict[int, tuple[float, int]] = {}
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def latest(self, indices: Iterable[int]) -> tuple[float, int] | None:
        """Of these devices the average use in percent, and their memory in use together; None where nobody knows."""
        if time.monotonic() - self._asked_at >= GPU_SECONDS and (self._asking is None or self._asking.done()):
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._ask(), name="use of GPUs")
        found = [self._use[index] for index in indices if index in self._use]
        if not found:
            return None
        return sum(percent for percent, _ in found) / len(found), sum(memory for _, memory in found)

    async def _ask(self) -> None:
        use = await _gpu_use()
        self._use = {item["index"]: (item["percent"] or 0.0, item["memory_bytes"]) for item in use}  # type: ignore[misc]


async def sample(held: int, gpus: list[Gpu]) -> dict[str, object]:
    """One utilisation sample: what the charts draw. CPU is the share since the last call."""
    memory = psutil.virtual_memory()
    return {
        "t": round(time.time(), 3),
        "cpu_percent": psutil.cpu_percent(),
        "memory_bytes": memory.total - memory.available,
        "gpus": await _gpu_use() if gpus else [],
        "held": held,
    }


def oom_kills() -> int:
    """How many processes this node's kernel has killed for want of memory since it started; 0 where it does not say.

    From `oom_kill` of /proc/vmstat (Linux 4.13), which counts all of the node, also when it is read in a container.
    """
    try:
        fields = (line.split() for line in VMSTAT.read_bytes().splitlines() if line.startswith(b"oom_kill "))
        return int(next(fields, (b"", b"0"))[1])
    except OSError:
        return 0


def address(configured: str, redis_url: str) -> str:
    """EXECUTOR_IP where set, else this node's address on the way to Redis, else ''. Blocks while it resolves a name."""
    if configured:
        return configured
    parts = urlsplit(redis_url)
    if parts.scheme == "unix" or not parts.hostname:
        return "127.0.0.1"
    try:
        family, kind, _, _, target = socket.getaddrinfo(parts.hostname, parts.port or 6379, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


async def _gpu_use() -> list[dict[str, float | int | None]]:
    rows = await _nvidia_smi("index,utilization.gpu,memory.used")
    use: list[dict[str, float | int | None]] = []
    for row in rows:
        try:
            use.append({"index": int(row[0]), "percent": _float(row[1]), "memory_bytes": _mib(row[2])})
        except (ValueError, IndexError):
            continue
    return use


async def _nvidia_smi(query: str) -> list[list[str]]:
    binary = shutil.which("nvidia-smi")
    if binary is None:
        return []
    process = await asyncio.create_subprocess_exec(
        binary,
        f"--query-gpu={query}",
        "--format=csv,noheader,nounits",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(NVIDIA_SMI_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        logger.warning("nvidia-smi did not answer within %d s: going on without GPUs", NVIDIA_SMI_TIMEOUT)
        return []
    text = output.decode(errors="replace").strip()
    if process.returncode != 0:
        logger.warning("nvidia-smi failed (exit code %d), going on without GPUs: %s", process.returncode, text)
        return []
    return [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]


def _mib(text: str) -> int:
    """MiB as nvidia-smi prints them, in bytes; 0 where it does not know ('[N/A]')."""
    return 0 if text.startswith("[") else int(text) * MIB


def _float(text: str) -> float | None:
    return None if text.startswith("[") else float(text)
