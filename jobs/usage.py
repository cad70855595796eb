"""What a job's containers used over its life, and what that teaches.

The curves come from the samples that agents leave in Redis for a day; peaks and sums also from what each attempt's
agent reported at its end, which stays as long as the job does.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from agent.protocol import AT_LIMIT, Use
from executors import broker
from executors.templatetags.display import cores, memory
from jobs.models import Attempt, Job

MAX_POINTS = 1000
"""Points of a chart; of more samples, the largest of each few is shown."""
ENOUGH_SAMPLES = 5
"""Fewer say nothing about what a job needs."""
MB = 1024**2
FRACTIONS = frozenset({"t", "cpu_seconds", "gpu_percent"})


@dataclass(frozen=True, slots=True)
class Sample:
    """`t` in seconds since 1970; CPU on average since the sample before, memory and GPUs at that moment; network and
    disk since the container's start. `gpu_percent` is the average of the attempt's devices; None where it has none."""

    t: float
    attempt: int
    cpu_millicores: int
    cpu_seconds: float
    memory_bytes: int
    peak_memory_bytes: int
    received_bytes: int = 0
    sent_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    gpu_percent: float | None = None
    gpu_memory_bytes: int | None = None


RATES = {"received": "received_bytes", "sent": "sent_bytes", "read": "read_bytes", "written": "written_bytes"}
"""Curves of what grows, each with the counter it comes from."""
COLUMNS = "t", "cpu", "memory", "gpu", "gpu_memory", *RATES


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
        whole = {name: value if name in FRACTIONS else int(value) for name, value in values.items()}
        return Sample(**whole)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        return None


def thinned(samples: Sequence[Sample], most: int = MAX_POINTS) -> list[Sample]:
    """At most so many: of each few neighbours, the one with the most memory, so that peaks stay."""
    step = -(-len(samples) // most) or 1
    return [max(samples[at : at + step], key=lambda item: item.memory_bytes) for at in range(0, len(samples), step)]


def report(job: Job, samples: Sequence[Sample], attempts: Sequence[Attempt] = ()) -> dict[str, Any]:
    """For the page's charts: columns with a null between attempts, limits, peaks, sums, sentences of advice."""
    peaks = peaks_of(job, samples, attempts)
    return {
        "columns": _columns(thinned(samples)),
        "limits": {
            "cpu": job.cpu_millicores / 1000,
            "memory": job.memory_bytes,
            "gpu": 100 if job.gpu_count else None,
            "gpu_memory": _gpu_memory(job, attempts),
        },
        "peaks": {
            "cpu": peaks.cpu_millicores / 1000 if peaks and peaks.samples else None,
            "memory": peaks.memory_bytes if peaks else None,
            "gpu": peaks.gpu_percent if peaks and job.gpu_count else None,
            "gpu_memory": peaks.gpu_memory_bytes if peaks and job.gpu_count else None,
        },
        "sums": {name: getattr(peaks, counter) if peaks else 0 for name, counter in RATES.items()},
        "advice": advice(job, peaks) if job.finished_at and peaks else [],
    }


def _columns(samples: Sequence[Sample]) -> dict[str, list[float | None]]:
    columns: dict[str, list[float | None]] = {name: [] for name in COLUMNS}
    before: Sample | None = None
    for sample in samples:
        if before and before.attempt != sample.attempt:
            _append(columns, {"t": before.t + 0.001})
            before = None
        point: dict[str, float | None] = {
            "t": sample.t,
            "cpu": sample.cpu_millicores / 1000,
            "memory": sample.memory_bytes,
            "gpu": sample.gpu_percent,
            "gpu_memory": sample.gpu_memory_bytes,
        }
        if before and sample.t > before.t:
            for name, counter in RATES.items():
                point[name] = (getattr(sample, counter) - getattr(before, counter)) / (sample.t - before.t)
        _append(columns, point)
        before = sample
    return columns


def _append(columns: dict[str, list[float | None]], point: Mapping[str, float | None]) -> None:
    for name, column in columns.items():
        value = point.get(name)
        column.append(None if value is None else round(max(0.0, value), 3))


def _gpu_memory(job: Job, attempts: Sequence[Attempt]) -> int | None:
    """Of the devices that the last attempt had, as far as its executor is known."""
    if not job.gpu_count or job.executor is None or not attempts:
        return None
    indices = attempts[-1].gpu_indices
    return sum(gpu["memory_bytes"] for gpu in job.executor.gpus if gpu["index"] in indices) or None


# --- Peaks -------------------------------------------------------------------------------------------------------


_HIGHEST = frozenset({"cpu_millicores", "memory_bytes", "gpu_percent", "gpu_memory_bytes"})


def peaks_of(job: Job, samples: Sequence[Sample], attempts: Iterable[Attempt] = ()) -> Use | None:
    """Of all attempts: CPU, memory and GPUs at their highest, the rest in all. From the samples and from what the
    attempts' agents reported, whichever knows more of an attempt; None where nobody has seen anything."""
    by_attempt: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_attempt[sample.attempt].append(sample)
    names = [field.name for field in fields(Use)]
    uses = {number: _use(job, some) for number, some in by_attempt.items()}
    for attempt in attempts:
        reported, seen = attempt.use or {}, uses.get(attempt.number, {})
        if reported:
            uses[attempt.number] = {name: max(reported.get(name, 0), seen.get(name, 0)) for name in names}
    if not uses:
        return None
    of_all = {name: [use.get(name, 0) for use in uses.values()] for name in names}
    return Use(**{name: max(values) if name in _HIGHEST else sum(values) for name, values in of_all.items()})


def _use(job: Job, samples: Sequence[Sample]) -> dict[str, int]:
    """What the samples of one attempt tell."""
    last = samples[-1]
    return {
        "samples": len(samples),
        "held_back": sum(item.cpu_millicores > AT_LIMIT * job.cpu_millicores for item in samples),
        "cpu_millicores": max(item.cpu_millicores for item in samples),
        "memory_bytes": max(item.peak_memory_bytes for item in samples),
        "gpu_percent": round(max(item.gpu_percent or 0 for item in samples)),
        "gpu_memory_bytes": max(item.gpu_memory_bytes or 0 for item in samples),
        **{counter: getattr(last, counter) for counter in RATES.values()},
    }


def advice(job: Job, peaks: Use) -> list[str]:
    """What the next job of this kind may ask for, where there was enough to see."""
    if peaks.samples < ENOUGH_SAMPLES:
        return []
    said = []
    peak = peaks.memory_bytes
    if peak < 0.5 * job.memory_bytes and job.memory_bytes - peak > 128 * MB:
        enough = _rounded_up(peak * 1.25)
        said.append(
            f"Asked for {memory(job.memory_bytes)} of memory, peaked at {memory(peak)}: {memory(enough)} would do."
        )
    elif peak > 0.9 * job.memory_bytes:
        said.append(f"Peaked at {100 * peak / job.memory_bytes:.0f} % of its memory: ask for more before it runs out.")
    busy = peaks.held_back / peaks.samples
    if peaks.cpu_millicores < 0.5 * job.cpu_millicores and job.cpu_millicores > 250:
        said.append(f"Asked for {_cores(job)}, used {cores(peaks.cpu_millicores)} at most.")
    elif busy > 0.5:
        said.append(f"Held back by its {_cores(job)} for {100 * busy:.0f} % of the time: with more it would be faster.")
    if job.gpu_count and peaks.gpu_percent < 5:
        said.append(f"Its GPU{'' if job.gpu_count == 1 else 's'} stood idle: used {peaks.gpu_percent} % at most.")
    return said


def _cores(job: Job) -> str:
    return f"{cores(job.cpu_millicores)} core{'' if job.cpu_millicores == 1000 else 's'}"


def _rounded_up(size: float) -> int:
    """To a size that people would write: 64 MB steps below 1 GB, then half GB."""
    step = 64 * MB if size < 1024 * MB else 512 * MB
    return int(-(-size // step) * step)
