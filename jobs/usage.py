"""What a job's containers used over its life, from the samples that agents leave in Redis; and what it teaches."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from executors import broker
from executors.templatetags.display import cores, memory
from jobs.models import Job

MAX_POINTS = 1000
"""Points of a chart; of more samples, the largest of each few is shown."""
ENOUGH_SAMPLES = 5
"""Fewer say nothing about what a job needs."""
MB = 1024**2


@dataclass(frozen=True, slots=True)
class Sample:
    """`t` in seconds since 1970; CPU on average since the sample before, memory at that moment."""

    t: float
    attempt: int
    cpu_millicores: int
    cpu_seconds: float
    memory_bytes: int
    peak_memory_bytes: int
    received_bytes: int = 0
    sent_bytes: int = 0


def samples_of(job: Job) -> list[Sample]:
    """All samples that Redis still has, in their order. Raises what RedisUnavailable names where Redis is away."""
    entries: list[tuple[bytes, dict[bytes, bytes]]]
    entries = broker.client().xrange(broker.keys().job_samples(str(job.id)))  # type: ignore[assignment]
    return [sample for _, entry in entries if (sample := _sample(entry))]


def _sample(entry: dict[bytes, bytes]) -> Sample | None:
    try:
        values = {
            field.name: float(entry[field.name.encode()]) for field in fields(Sample) if field.name.encode() in entry
        }
        whole = {name: value if name in ("t", "cpu_seconds") else int(value) for name, value in values.items()}
        return Sample(**whole)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        return None


def thinned(samples: Sequence[Sample], most: int = MAX_POINTS) -> list[Sample]:
    """At most so many: of each few neighbours, the one with the most memory, so that peaks stay."""
    step = -(-len(samples) // most) or 1
    return [max(samples[at : at + step], key=lambda item: item.memory_bytes) for at in range(0, len(samples), step)]


def report(job: Job, samples: Sequence[Sample]) -> dict[str, Any]:
    """For the page's charts: columns with a null between attempts, the limits, the peaks and sentences of advice."""
    columns: dict[str, list[float | None]] = {name: [] for name in ("t", "cpu", "memory", "received", "sent")}
    before: Sample | None = None
    for sample in thinned(samples):
        if before and before.attempt != sample.attempt:
            _append(columns, before.t + 0.001, None, None, None, None)
            before = None
        seconds = sample.t - before.t if before else 0
        received = (sample.received_bytes - before.received_bytes) / seconds if before and seconds > 0 else None
        sent = (sample.sent_bytes - before.sent_bytes) / seconds if before and seconds > 0 else None
        _append(columns, sample.t, sample.cpu_millicores / 1000, sample.memory_bytes, received, sent)
        before = sample
    return {
        "columns": columns,
        "limits": {"cpu": job.cpu_millicores / 1000, "memory": job.memory_bytes},
        "peaks": {
            "cpu": max((item.cpu_millicores / 1000 for item in samples), default=None),
            "memory": max((item.peak_memory_bytes for item in samples), default=None),
        },
        "advice": advice(job, samples) if job.finished_at else [],
    }


def _append(columns: dict[str, list[float | None]], *values: float | None) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(None if value is None else round(max(0.0, value), 3))


def advice(job: Job, samples: Sequence[Sample]) -> list[str]:
    """What the next job of this kind may ask for, where the samples say so."""
    if len(samples) < ENOUGH_SAMPLES:
        return []
    said = []
    peak = max(item.peak_memory_bytes for item in samples)
    if peak < 0.5 * job.memory_bytes and job.memory_bytes - peak > 128 * MB:
        enough = _rounded_up(peak * 1.25)
        said.append(
            f"Asked for {memory(job.memory_bytes)} of memory, peaked at {memory(peak)}: {memory(enough)} would do."
        )
    elif peak > 0.9 * job.memory_bytes:
        said.append(f"Peaked at {100 * peak / job.memory_bytes:.0f} % of its memory: ask for more before it runs out.")
    most = max(item.cpu_millicores for item in samples)
    busy = sum(item.cpu_millicores > 0.93 * job.cpu_millicores for item in samples) / len(samples)
    if most < 0.5 * job.cpu_millicores and job.cpu_millicores > 250:
        said.append(f"Asked for {_cores(job)}, used {cores(most)} at most.")
    elif busy > 0.5:
        said.append(f"Held back by its {_cores(job)} for {100 * busy:.0f} % of the time: with more it would be faster.")
    return said


def _cores(job: Job) -> str:
    return f"{cores(job.cpu_millicores)} core{'' if job.cpu_millicores == 1000 else 's'}"


def _rounded_up(size: float) -> int:
    """To a size that people would write: 64 MB steps below 1 GB, then half GB."""
    step = 64 * MB if size < 1024 * MB else 512 * MB
    return int(-(-size // step) * step)
