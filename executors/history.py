"""How the cluster and each executor fared over the last day: written every ten seconds, read for the charts.

The leading scheduler records a `Point` of the whole cluster (`jobs/observing.py`); each agent's own samples tell of its
node. For the charts both become columns of at most some four hundred rows, whatever the range.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from typing import Any

import redis

from executors import broker
from executors.models import Executor

RECORD_SECONDS = 10
KEPT_POINTS = 24 * 3600 // RECORD_SECONDS
RANGES = {"15m": (900, 10), "1h": (3600, 10), "6h": (6 * 3600, 60), "24h": (24 * 3600, 240)}
"""What the charts can show: seconds, and seconds between two rows."""
DEFAULT_RANGE = "1h"
MOST_ATTEMPTS = 5000
GB = 1024**3

Columns = dict[str, list[float | None]]


@dataclass(frozen=True, slots=True)
class Point:
    """The cluster at one moment, and what happened in the ten seconds before. CPU in cores, memory in GB of 1024³
    bytes, waits (from submission to the first start) in seconds. New fields go to the end: rows in Redis have none.
    """

    t: int
    cpu_capacity: float
    cpu_allocated: float
    cpu_used: float | None
    memory_capacity: float
    memory_allocated: float
    memory_used: float | None
    gpu_capacity: float
    gpu_allocated: float
    gpu_used: float | None
    executors: int = 0
    pending: int = 0
    starting: int = 0
    running: int = 0
    wait_p50: float | None = None
    wait_p95: float | None = None
    succeeded: float = 0
    failed: float = 0


NAMES = [field.name for field in fields(Point)]
WORST = {"wait_p95"}
"""Of a longer time the largest counts, where all else is averaged."""
RATES = {"succeeded", "failed"}
"""Counted in ten seconds, shown by the minute."""


# --- Recording ---------------------------------------------------------------------------------------------------


def record(client: redis.Redis, point: Point) -> bool:
    """Write a point; False where this moment's is there already, from this or another scheduler."""
    body = json.dumps(astuple(point), separators=(",", ":"))
    try:
        client.xadd(broker.keys().history, {"p": body}, id=f"{point.t * 1000}-0", maxlen=KEPT_POINTS, approximate=True)
    except redis.ResponseError as error:
        if "equal or smaller" not in str(error):
            raise
        return False
    return True


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of the others lie; None of none."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# --- Reading: the cluster ----------------------------------------------------------------------------------------


def newest(client: redis.Redis) -> dict[str, Any] | None:
    """The last point as the charts append it, or None where there is none."""
    points = _points(client.xrevrange(broker.keys().history, count=1))
    return _as_row(points[0]) if points else None


def cluster_history(range_name: str, now: float | None = None) -> dict[str, Any]:
    """Columns over one of RANGES. Computed once in ten seconds, however many ask. Raises broker.RedisUnavailable."""
    seconds, step = RANGES[range_name]
    until = int(time.time() if now is None else now)
    columns: dict[str, Any] = _cluster_history(
        broker.keys().history, seconds, step, until // RECORD_SECONDS * RECORD_SECONDS
    )
    return columns


@lru_cache(maxsize=8)
def _cluster_history(key: str, seconds: int, step: int, until: int) -> dict[str, Any]:
    points = _points(broker.client().xrange(key, min=max(0, until - seconds) * 1000))
    rows = [_as_row(point) for point in points]
    return {"step": step, "from": until - seconds, "to": until, **downsample(rows, NAMES, step)}


def downsample(rows: Iterable[dict[str, Any]], names: Sequence[str], step: int) -> Columns:
    """Rows, in the order of their time `t`, as columns with one value for each `step` seconds; where nothing was
    recorded for a while, a row of None says so."""
    columns: Columns = {name: [] for name in names}
    group: list[dict[str, Any]] = []
    slot: int | None = None

    def close(next_slot: int | None) -> None:
        if slot is None:
            return
        for name in names:
            columns[name].append(slot if name == "t" else _joined(name, [row.get(name) for row in group]))
        if next_slot is not None and next_slot - slot > 3 * step:
            for name in names:
                columns[name].append(slot + step if name == "t" else None)

    for row in rows:
        begin = int(row["t"]) // step * step
        if begin != slot:
            close(begin)
            slot, group = begin, []
        group.append(row)
    close(None)
    return columns


def _joined(name: str, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return round(max(known) if name in WORST else sum(known) / len(known), 3)


def _points(entries: Any) -> list[Point]:
    points = []
    for _, entry in entries:
        try:
            points.append(Point(*json.loads(entry[b"p"])[: len(NAMES)]))
        except (ValueError, KeyError, TypeError):
            continue
    return points


def _as_row(point: Point) -> dict[str, Any]:
    row = dict(zip(NAMES, astuple(point), strict=True))
    for name in RATES:
        row[name] = row[name] * 60 / RECORD_SECONDS
    return row


# --- Reading: one executor ---------------------------------------------------------------------------------------

SAMPLE_NAMES = ["t", "cpu_used", "memory_used", "gpu_used", "held"]


def executor_history(executor: Executor, range_name: str, now: float | None = None) -> dict[str, Any]:
    """As `cluster_history`, of one node: what it used by its own samples, what attempts held of it by the database.

    Raises broker.RedisUnavailable.
    """
    seconds, step = RANGES[range_name]
    until = int(time.time() if now is None else now)
    since = until - seconds
    entries: Any = broker.client().xrange(broker.keys().samples(executor.id), min=max(0, since) * 1000)
    rows = [row for _, entry in entries if (row := _sample(entry, executor.cpu_millicores / 1000))]
    columns = downsample(rows, SAMPLE_NAMES, step)
    held = _held_over_time(executor, since)
    moments = [moment for moment in columns["t"] if moment is not None]
    constant = {
        "cpu_capacity": executor.allocatable_cpu_millicores / 1000,
        "memory_capacity": executor.allocatable_memory_bytes / GB,
        "gpu_capacity": float(len(executor.gpus)),
    }
    for place, name in enumerate(("cpu_allocated", "memory_allocated", "gpu_allocated")):
        columns[name] = _at(moments, [(at, row[place]) for at, row in held])
    for name, value in constant.items():
        columns[name] = [value] * len(moments)
    return {"step": step, "from": since, "to": until, **columns}


def _sample(entry: dict[bytes, bytes], cores: float) -> dict[str, Any] | None:
    try:
        gpus = json.loads(entry[b"gpus"])
        return {
            "t": float(entry[b"t"]),
            "cpu_used": float(entry[b"cpu_percent"]) / 100 * cores,
            "memory_used": int(entry[b"memory_bytes"]) / GB,
            "gpu_used": sum(gpu["percent"] or 0 for gpu in gpus) / 100,
            "held": int(entry[b"held"]),
        }
    except (ValueError, KeyError, TypeError):
        return None


def _held_over_time(executor: Executor, since: int) -> list[tuple[float, list[float]]]:
    """What attempts held, cores, GB and GPUs, as steps: from each moment on, until the next."""
    attempts = executor.attempts.order_by("-id").values_list(
        "placed_at", "finished_at", "job__cpu_millicores", "job__memory_bytes", "job__gpu_count"
    )
    changes: list[tuple[float, int, int, int]] = []
    for placed_at, finished_at, cpu, memory, gpus in attempts[:MOST_ATTEMPTS]:
        if finished_at is not None and finished_at.timestamp() < since:
            continue
        changes.append((placed_at.timestamp(), cpu, memory, gpus))
        if finished_at is not None:
            changes.append((finished_at.timestamp(), -cpu, -memory, -gpus))
    steps: list[tuple[float, list[float]]] = []
    total = [0, 0, 0]
    for at, *change in sorted(changes):
        total = [held + more for held, more in zip(total, change, strict=True)]
        steps.append((at, [total[0] / 1000, total[1] / GB, float(total[2])]))
    return steps


def _at(moments: Sequence[float], steps: Sequence[tuple[float, float]]) -> list[float | None]:
    """The value of a step function at each of these moments, all in order."""
    values: list[float | None] = []
    place, value = 0, 0.0
    for moment in moments:
        while place < len(steps) and steps[place][0] <= moment:
            value = steps[place][1]
            place += 1
        values.append(round(max(0.0, value), 3))
    return values
