"""Why a job waits, in a sentence, from the same predicate that placement asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter

from jobs.scheduling.room import (
    ExecutorView,
    GpuDevice,
    Lack,
    Requirements,
    Room,
    could_ever_fit,
    has_labels,
    lack,
    suitable_gpus,
)


@dataclass(frozen=True, slots=True)
class Occupant:
    """What a live attempt holds, and when its time-out gives it back at the latest; None where it has not started."""

    cpu_millicores: int
    memory_bytes: int
    gpus: Sequence[GpuDevice]
    free_at: datetime | None


def never_fits(requirements: Requirements, executors: Sequence[ExecutorView]) -> str:
    """'' where at least one executor could fit the job when idle, else a sentence that says what is missing."""
    if not executors:
        return "No executor has registered yet; the job waits for one."
    if any(could_ever_fit(requirements, executor) for executor in executors):
        return ""
    labelled = [executor for executor in executors if has_labels(requirements, executor.labels)]
    if not labelled:
        wanted = _listed([f"{name}={value}" for name, value in sorted(requirements.labels.items())])
        return f"No executor has the label{'s' if len(requirements.labels) > 1 else ''} that it needs: {wanted}."
    whose = "the largest executor with its labels" if requirements.labels else "the largest executor"
    cpu = max(executor.capacity.cpu_millicores for executor in labelled)
    memory = max(executor.capacity.memory_bytes for executor in labelled)
    gpus = max(len(suitable_gpus(requirements, executor.capacity)) for executor in labelled)
    if requirements.cpu_millicores > cpu:
        return f"It needs {_cores(requirements.cpu_millicores)}; {whose} offers {_cores(cpu)}."
    if requirements.memory_bytes > memory:
        return f"It needs {_gigabytes(requirements.memory_bytes)}; {whose} offers {_gigabytes(memory)}."
    if requirements.gpu_count > gpus:
        have = f"the most that one executor has is {gpus}" if gpus else "no executor has one"
        return f"It needs {_gpus(requirements)}; {have}."
    return f"No executor has all of this together: {_everything(requirements)}."


def why_waiting(
    requirements: Requirements,
    executors: Sequence[ExecutorView],
    occupants: Mapping[str, Sequence[Occupant]],
    now: datetime,
) -> str:
    """Why a job with these requirements is not placed on any of these executors; `occupants` by executor id."""
    if text := never_fits(requirements, executors):
        return text
    able = [executor for executor in executors if could_ever_fit(requirements, executor)]
    open_ones = [executor for executor in able if not executor.closed]
    if not open_ones:
        reasons = _listed([f"{executor.name} {executor.closed}" for executor in able[:3]])
        more = f" and {len(able) - 3} more" if len(able) > 3 else ""
        return f"{_executors(len(able))} could fit it, but none takes jobs now: {reasons}{more}."
    lacks = {lack(requirements, executor.labels, executor.free) for executor in open_ones}
    if None in lacks:
        return "There is room for it now; the scheduler places it on its next pass."
    needs = _listed([_need(requirements, item) for item in Lack if item in lacks])
    has = "has" if len(open_ones) == 1 else "have"
    busy = "but it is busy" if len(open_ones) == 1 else "all busy"
    text = f"It needs {needs}; {_executors(len(open_ones))} {has} that, {busy}"
    if closed := len(able) - len(open_ones):
        text += f", and {closed} more {'takes' if closed == 1 else 'take'} no jobs now"
    times = [_free_at_latest(requirements, executor, occupants.get(executor.id, ())) for executor in open_ones]
    if known := [time for time in times if time is not None]:
        text += f"; the first is free at the latest at {_clock(min(known), now)}"
    return f"{text}."


def _free_at_latest(
    requirements: Requirements, executor: ExecutorView, occupants: Sequence[Occupant]
) -> datetime | None:
    """When the executor has room for the job at the latest, should every attempt on it run until its time-out."""
    ending = [(item.free_at, item) for item in occupants if item.free_at is not None]
    if not ending:
        return None
    room = Room(executor.free.cpu_millicores, executor.free.memory_bytes, executor.free.gpus)
    for free_at, occupant in sorted(ending, key=itemgetter(0)):
        room.cpu_millicores += occupant.cpu_millicores
        room.memory_bytes += occupant.memory_bytes
        room.gpus = [*room.gpus, *occupant.gpus]
        if lack(requirements, executor.labels, room) is None:
            return free_at
    return None


def _need(requirements: Requirements, item: Lack) -> str:
    if item is Lack.CPU:
        return _cores(requirements.cpu_millicores)
    if item is Lack.MEMORY:
        return _gigabytes(requirements.memory_bytes)
    if item is Lack.GPUS:
        return _gpus(requirements)
    return _listed([f"{name}={value}" for name, value in sorted(requirements.labels.items())])


def _everything(requirements: Requirements) -> str:
    items = [Lack.CPU, Lack.MEMORY]
    if requirements.gpu_count:
        items.append(Lack.GPUS)
    if requirements.labels:
        items.append(Lack.LABELS)
    return _listed([_need(requirements, item) for item in items])


def _cores(millicores: int) -> str:
    return f"{millicores / 1000:g} core{'' if millicores == 1000 else 's'}"


def _gigabytes(memory_bytes: int) -> str:
    return f"{memory_bytes / 1024**3:.4g} GB"


def _gpus(requirements: Requirements) -> str:
    named = requirements.gpu_type if requirements.gpu_type.lower() not in ("", "any") else "GPU"
    return f"{requirements.gpu_count} × {named}"


def _executors(count: int) -> str:
    return f"{count} executor{'' if count == 1 else 's'}"


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items)


def _clock(time: datetime, now: datetime) -> str:
    utc = time.astimezone(UTC)
    return f"{utc:%H:%M} UTC" if utc.date() == now.astimezone(UTC).date() else f"{utc:%Y-%m-%d %H:%M} UTC"
