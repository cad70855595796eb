"""What executors really use, from the newest sample that each agent left in Redis."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from executors import broker
from executors.broker import RedisUnavailable
from executors.models import Executor

FRESH_SECONDS = 120
"""An older sample says nothing about now."""


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """One device: busy share in percent and memory in bytes, None where nvidia-smi does not know."""

    percent: float | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """One sample: the whole node's use, not only that of jobs. CPU in millicores, memory in bytes."""

    cpu_millicores: float
    memory_bytes: int
    gpus: dict[int, GpuUsage] = field(default_factory=dict)


_NEWEST = """
local newest = {}
for number, key in ipairs(KEYS) do
  local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  newest[number] = entry and entry[2] or {}
end
return newest
"""
"""The fields of each stream's newest entry. One answer for a thousand executors is read far faster than a thousand."""


def latest_usage(executors: Sequence[Executor]) -> dict[str, Usage]:
    """Executor id → its newest sample. Executors without a fresh one are left out; all where Redis is away."""
    keys = [broker.keys().samples(executor.id) for executor in executors]
    try:
        answers: Any = broker.client().eval(_NEWEST, len(keys), *keys) if keys else []
    except RedisUnavailable:
        return {}
    usage = {}
    for executor, pairs in zip(executors, answers, strict=True):
        entry = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if entry and (sample := _usage(entry, executor.cpu_millicores)):
            usage[executor.id] = sample
    return usage


def _usage(entry: dict[bytes, bytes], cpu_millicores: int) -> Usage | None:
    try:
        if time.time() - float(entry[b"t"]) > FRESH_SECONDS:
            return None
        devices: list[dict[str, Any]] = json.loads(entry[b"gpus"])
        gpus = {gpu["index"]: GpuUsage(gpu["percent"], gpu["memory_bytes"]) for gpu in devices}
        return Usage(float(entry[b"cpu_percent"]) / 100 * cpu_millicores, int(entry[b"memory_bytes"]), gpus)
    except (ValueError, KeyError, TypeError):
        return None


def cached_images(executor_id: str) -> list[tuple[str, int]] | None:
    """Names and bytes of the images in the node's cache, largest first; None where its agent has not said lately."""
    try:
        told = broker.client().get(broker.keys().images(executor_id))
        return [(str(name), int(size)) for name, size in json.loads(told)] if told else None
    except (*RedisUnavailable, ValueError, TypeError):
        return None
