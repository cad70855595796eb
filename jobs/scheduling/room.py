"""What jobs need, what executors have, and the one predicate that says whether one fits the other.

CPU in millicores, memory in bytes.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

ANY_GPU = "any"


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a job asks of an executor. `gpu_type` is '' for none, 'any', or part of a model's name."""

    cpu_millicores: int
    memory_bytes: int
    gpu_type: str = ""
    gpu_count: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuDevice:
    index: int
    model: str


@dataclass(slots=True)
class Room:
    """An amount of resources: what an executor can give at all, or what of it is free. Free may be negative where an
    executor came back smaller than what runs on it."""

    cpu_millicores: int
    memory_bytes: int
    gpus: list[GpuDevice] = field(default_factory=list)


@dataclass(slots=True)
class ExecutorView:
    """An executor as placement sees it. `closed` says in words why it takes no jobs now; '' when it does."""

    id: str
    name: str
    capacity: Room
    free: Room
    labels: Mapping[str, str] = field(default_factory=dict)
    closed: str = ""


class Lack(StrEnum):
    """The first thing that an executor lacks for a job."""

    LABELS = "labels"
    CPU = "cpu"
    MEMORY = "memory"
    GPUS = "gpus"


def lack(requirements: Requirements, labels: Mapping[str, str], room: Room) -> Lack | None:
    """What keeps a job with these requirements out of this room, or None where it fits."""
    if requirements.cpu_millicores > room.cpu_millicores:
        return Lack.CPU
    if requirements.memory_bytes > room.memory_bytes:
        return Lack.MEMORY
    if requirements.gpu_count and len(suitable_gpus(requirements, room)) < requirements.gpu_count:
        return Lack.GPUS
    if requirements.labels and not has_labels(requirements, labels):
        return Lack.LABELS
    return None


def fits(requirements: Requirements, executor: ExecutorView) -> bool:
    """Whether the executor takes jobs and has room for this one now."""
    return not executor.closed and lack(requirements, executor.labels, executor.free) is None


def could_ever_fit(requirements: Requirements, executor: ExecutorView) -> bool:
    """Whether the executor would have room if it were idle and took jobs."""
    return lack(requirements, executor.labels, executor.capacity) is None


def has_labels(requirements: Requirements, labels: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in requirements.labels.items())


def suitable_gpus(requirements: Requirements, room: Room) -> list[int]:
    """The indices of all GPUs in the room of the type asked for, in order."""
    gpu_type = requirements.gpu_type
    return [gpu.index for gpu in room.gpus if is_of_type(gpu_type, gpu.model)]


@functools.lru_cache(maxsize=4096)
def is_of_type(gpu_type: str, model: str) -> bool:
    """Whether a device of this model will do: `gpu_type` is '' or 'any', or part of the model's name in any case."""
    return gpu_type.lower() in ("", ANY_GPU) or gpu_type.lower() in model.lower()


def take(requirements: Requirements, executor: ExecutorView) -> list[int]:
    """Take the job's share of what is free, and say which GPUs it gets. Only for a job that fits."""
    indices = suitable_gpus(requirements, executor.free)[: requirements.gpu_count] if requirements.gpu_count else []
    occupy(executor.free, requirements.cpu_millicores, requirements.memory_bytes, indices)
    return indices


def occupy(room: Room, cpu_millicores: int, memory_bytes: int, gpu_indices: list[int]) -> None:
    room.cpu_millicores -= cpu_millicores
    room.memory_bytes -= memory_bytes
    if gpu_indices:
        room.gpus = [gpu for gpu in room.gpus if gpu.index not in gpu_indices]


def shape_of(cpu_millicores: int, memory_bytes: int, gpu_type: str, gpu_count: int, labels: Mapping[str, str]) -> str:
    """A digest, 32 characters, of all that placement compares: jobs with the same shape fit the same executors."""
    compared = [cpu_millicores, memory_bytes, gpu_type.lower() if gpu_count else "", gpu_count, dict(labels)]
    text = json.dumps(compared, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
