"""Clusters and queues for the benchmarks of placement, made from a seed: the same every time."""

import random
from collections.abc import Callable
from uuid import UUID

from jobs.scheduling.placement import PendingJob
from jobs.scheduling.room import ExecutorView, GpuDevice, Requirements, Room, shape_of

GB = 1024**3
MODELS = ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 PCIe", "Tesla T4")
GPU_TYPES = ("a100", "h100", "t4", "any")
ZONES = "abcdefgh"


def executors(count: int, seed: int = 1) -> list[ExecutorView]:
    """Idle nodes of 16 to 64 cores in eight zones; every fifth has four or eight GPUs of one model."""
    chance = random.Random(seed)
    return [_node(number, chance) for number in range(count)]


def _node(number: int, chance: random.Random) -> ExecutorView:
    cores = chance.choice((16, 32, 64))
    model = chance.choice(MODELS)
    gpus = [GpuDevice(index, model) for index in range(chance.choice((4, 8)))] if number % 5 == 0 else []
    return node(number, cores * 1000, cores * chance.choice((2, 4)) * GB, gpus, zone=chance.choice(ZONES))


def node(number: int, cpu: int, memory: int, gpus: list[GpuDevice] | None = None, **labels: str) -> ExecutorView:
    room = Room(cpu, memory, gpus or [])
    return ExecutorView(f"executor-{number:06}", f"node-{number:06}", room, room, labels)


def lopsided(count: int) -> list[ExecutorView]:
    """Half of the nodes have CPU and hardly any memory, the other half memory and hardly any CPU, in turns."""
    return [
        node(number, *((64_000, GB) if number % 2 else (500, 256 * GB)), zone=ZONES[number % 8])
        for number in range(count)
    ]


def job(
    number: int, cpu: int, memory: int, gpu_type: str = "", gpu_count: int = 0, labels: dict[str, str] | None = None
) -> PendingJob:
    labels = labels or {}
    needs = Requirements(cpu, memory, gpu_type, gpu_count, labels)
    # Milliseconds in the upper 48 bits, as in the UUIDs that jobs have: ten jobs arrive in each.
    job_id = UUID(int=((1_790_000_000_000 + number // 10) << 80) | number)
    return PendingJob(job_id, shape_of(cpu, memory, gpu_type, gpu_count, labels), needs)


def uniform(count: int) -> list[PendingJob]:
    return [job(number, 2000, 4 * GB) for number in range(count)]


def eight_shapes(count: int) -> list[PendingJob]:
    shapes: list[tuple[int, int, str, int, dict[str, str]]] = [
        (1000, 2 * GB, "", 0, {}),
        (2000, 4 * GB, "", 0, {}),
        (4000, 8 * GB, "", 0, {}),
        (1000, 8 * GB, "", 0, {"zone": "a"}),
        (500, 1 * GB, "", 0, {"zone": "c"}),
        (4000, 16 * GB, "a100", 1, {}),
        (8000, 16 * GB, "any", 2, {}),
        (2000, 8 * GB, "t4", 1, {"zone": "b"}),
    ]
    # Jobs with GPUs are rarer, as GPUs are: most of the queue fits.
    chance = random.Random(8)
    picked = chance.choices(shapes, weights=[24, 24, 12, 12, 24, 1, 1, 1], k=count)
    return [job(number, *shape) for number, shape in enumerate(picked)]


def of_any_size(count: int, seed: int = 3, largest_cpu: int = 5000) -> list[PendingJob]:
    """Hardly two alike; every twentieth asks for GPUs, every fifth for a zone."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        gpus = chance.choice((1, 1, 2, 4)) if chance.random() < 0.05 else 0
        labels = {"zone": chance.choice(ZONES)} if chance.random() < 0.2 else {}
        cpu, memory = chance.randint(100, largest_cpu), chance.randint(GB // 4, largest_cpu // 500 * GB)
        made.append(job(number, cpu, memory, chance.choice(GPU_TYPES) if gpus else "", gpus, labels))
    return made


MIXES: dict[str, tuple[Callable[[int], list[ExecutorView]], Callable[[int], list[PendingJob]]]] = {
    "uniform": (executors, uniform),
    "eight shapes": (executors, eight_shapes),
    "random": (executors, of_any_size),
    "saturated": (executors, lambda count: of_any_size(count, largest_cpu=20_000)),
    "adversarial": (lopsided, lambda count: [item for item in of_any_size(2 * count) if _too_large(item)][:count]),
}
"""Nodes and jobs of each mix. `saturated` asks for a few times what there is; of `adversarial` nothing fits, though
some node has enough CPU for each job, and some other enough memory."""


def _too_large(item: PendingJob) -> bool:
    return item.requirements.cpu_millicores > 500 and item.requirements.memory_bytes > GB
