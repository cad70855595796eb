"""Database rows as the plain values of `jobs/scheduling`: read a piece at a time, each piece by an index."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db.models import Q, QuerySet, Sum

from executors.models import Executor
from executors.rows import values
from executors.writes import one_of
from jobs.lifecycle import State
from jobs.models import Attempt, Job
from jobs.scheduling import explain
from jobs.scheduling.placement import PendingJob
from jobs.scheduling.room import ExecutorView, GpuDevice, Requirements, Room, occupy


class LiveAttempt(NamedTuple):
    """What the scheduler needs to know of an attempt that holds resources."""

    job_id: UUID
    number: int
    executor_id: str | None
    gpu_indices: list[int]
    cpu_millicores: int
    memory_bytes: int
    timeout_seconds: int
    state: str
    placed_at: datetime
    running_since: datetime | None
    stop_command: int | None
    abort_requested_at: datetime | None

    @property
    def ends_by(self) -> datetime | None:
        """When its time-out ends it; None where it has not started."""
        return self.running_since + timedelta(seconds=self.timeout_seconds) if self.running_since else None


class Waiting(NamedTuple):
    """A PENDING job, and the time before which it is not placed; None for any time."""

    job: PendingJob
    not_before: datetime | None


# --- Executors ---------------------------------------------------------------------------------------------------


def executors_after(executor_id: str, limit: int) -> list[Executor]:
    """The next executors in the order of their ids."""
    return list(Executor.objects.filter(id__gt=executor_id).order_by("id")[:limit])


def view_of(executor: Executor) -> ExecutorView:
    """The executor with nothing running on it."""
    gpus = sorted((GpuDevice(gpu["index"], gpu["model"]) for gpu in executor.gpus), key=lambda gpu: gpu.index)
    cpu, memory = executor.allocatable_cpu_millicores, executor.allocatable_memory_bytes
    return ExecutorView(
        executor.id,
        executor.name,
        Room(cpu, memory, gpus),
        Room(cpu, memory, gpus),
        executor.placement_labels,
        closed(executor),
    )


def closed(executor: Executor) -> str:
    """Why nothing is placed on the executor, in words that follow its name; '' where something may be."""
    if executor.state == Executor.State.LOST:
        return "is lost"
    if executor.state == Executor.State.UNHEALTHY:
        return f"is unhealthy ({executor.problem.rstrip('.')})"
    return "" if executor.schedulable else "is closed to new jobs by an operator"


# --- Live attempts -----------------------------------------------------------------------------------------------


def load_live(which: Q | None = None) -> list[LiveAttempt]:
    """The attempts that hold resources: all, or those that `which` (over Attempt) selects."""
    attempts = Attempt.objects.filter(which or Q(), finished_at__isnull=True).order_by()
    rows = attempts.values_list(
        "job_id",
        "number",
        "executor_id",
        "gpu_indices",
        "job__cpu_millicores",
        "job__memory_bytes",
        "job__timeout_seconds",
        "state",
        "placed_at",
        "running_since",
        "stop_command",
        "job__abort_requested_at",
    )
    return [LiveAttempt(*row) for row in rows.iterator(chunk_size=5000)]


def live_of(attempt: Attempt) -> LiveAttempt:
    """The same from an attempt at hand, with its job."""
    job = attempt.job
    return LiveAttempt(
        job.id,
        attempt.number,
        attempt.executor_id,
        attempt.gpu_indices,
        job.cpu_millicores,
        job.memory_bytes,
        job.timeout_seconds,
        attempt.state,
        attempt.placed_at,
        attempt.running_since,
        attempt.stop_command,
        job.abort_requested_at,
    )


def amounts(attempt: LiveAttempt) -> Requirements:
    """What the attempt holds of its executor, but for the GPUs."""
    return Requirements(attempt.cpu_millicores, attempt.memory_bytes)


def overcommitted(executors: Iterable[Executor]) -> list[Executor]:
    """Those of the executors whose live attempts, as the database counts them now, ask for more than they have."""
    by_id = {executor.id: executor for executor in executors}
    live = Attempt.objects.filter(executor_id__in=by_id, finished_at__isnull=True).order_by().values_list("executor_id")
    return [
        by_id[executor_id]
        for executor_id, cpu, memory in live.annotate(Sum("job__cpu_millicores"), Sum("job__memory_bytes"))
        if cpu > by_id[executor_id].allocatable_cpu_millicores or memory > by_id[executor_id].allocatable_memory_bytes
    ]


def sharing_gpus(executor_ids: Collection[str]) -> list[str]:
    """Those of the executors on which two live attempts have the same GPU."""
    live = Attempt.objects.filter(executor_id__in=executor_ids, finished_at__isnull=True).order_by()
    held = Counter(
        (executor_id, index)
        for executor_id, indices in live.values_list("executor_id", "gpu_indices")
        for index in indices
    )
    return sorted({executor_id for (executor_id, _), holders in held.items() if holders > 1})


# --- The queue ---------------------------------------------------------------------------------------------------


def waiting_after(last: PendingJob | None, limit: int) -> list[Waiting]:
    """The next PENDING jobs in the order of the queue: priority, then submission (ids are time-ordered)."""
    jobs = _pending().order_by("-priority", "id")
    if last is None:
        return _read(jobs[:limit])
    found = _read(jobs.filter(priority=last.priority, id__gt=last.id)[:limit])
    if len(found) < limit:
        found += _read(jobs.filter(priority__lt=last.priority)[: limit - len(found)])
    return found


def waiting_between(first: UUID, last: UUID, limit: int) -> list[Waiting]:
    """The first PENDING jobs, in the order of their ids, of those from `first` to `last`."""
    return _read(_pending().filter(id__gte=first, id__lte=last).order_by("id")[:limit])


def waiting_named(job_ids: Collection[UUID]) -> list[Waiting]:
    """Those of the jobs that are PENDING."""
    return _read(_pending().filter(one_of("id", job_ids)).order_by())


def pending_among(job_ids: Collection[UUID]) -> set[UUID]:
    """Those of the jobs that are PENDING, and nothing else of them."""
    return set(_pending().filter(one_of("id", job_ids)).order_by().values_list("id", flat=True))


def waiting_of(job: Job) -> Waiting:
    """The same from a PENDING job at hand."""
    pending = PendingJob(job.id, job.shape, requirements_of(job), job.priority, job.executor_id)
    return Waiting(pending, job.not_before)


def requirements_of(job: Job) -> Requirements:
    return Requirements(job.cpu_millicores, job.memory_bytes, job.gpu_type, job.gpu_count, job.labels)


def _pending() -> QuerySet[Job]:
    return Job.objects.filter(state=State.PENDING)


_READ = (
    "id", "priority", "executor_id", "not_before", "shape",
    "cpu_millicores", "memory_bytes", "gpu_type", "gpu_count", "labels",
)  # fmt: skip


def _read(jobs: QuerySet[Job]) -> list[Waiting]:
    """Jobs of one shape share what they need: of a million, that is half of the memory."""
    rows = values(jobs, _READ)
    shapes: dict[str, tuple[str, Requirements]] = {}
    found = []
    for job_id, priority, executor_id, not_before, digest, *needs in rows:
        shape = shapes.get(digest)
        if shape is None:
            shape = shapes[digest] = digest, Requirements(*needs)
        found.append(Waiting(PendingJob(job_id, *shape, priority, executor_id), not_before))
    return found


# --- All of it at once -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cluster:
    """All executors, in the order first-fit tries them, and what live attempts hold of them, by executor id."""

    executors: list[ExecutorView]
    occupants: dict[str, list[explain.Occupant]] = field(default_factory=dict)

    def why_waiting(self, job: Job, now: datetime) -> str:
        """Why a PENDING job has not been placed, in a sentence for a person; '' for a job that is not PENDING."""
        if job.state != State.PENDING:
            return ""
        if job.not_before is not None and job.not_before > now:
            return f"It is tried again at {job.not_before:%H:%M:%S} UTC. The last attempt: {job.reason_text}"
        return explain.why_waiting(requirements_of(job), self.executors, self.occupants, now)


def load_executors() -> list[Executor]:
    """All executors, in the order first-fit tries them."""
    return list(Executor.objects.order_by("name", "id"))


def build_cluster(executors: Sequence[Executor], live: Sequence[LiveAttempt]) -> Cluster:
    """The executors with what `live` leaves free of them."""
    cluster = Cluster([view_of(executor) for executor in executors])
    by_id = {executor.id: executor for executor in cluster.executors}
    occupants = defaultdict(list)
    for attempt in live:
        executor = by_id.get(attempt.executor_id or "")
        if executor is None:
            continue
        held = [gpu for gpu in executor.free.gpus if gpu.index in attempt.gpu_indices]
        occupy(executor.free, attempt.cpu_millicores, attempt.memory_bytes, attempt.gpu_indices)
        occupants[executor.id].append(
            explain.Occupant(attempt.cpu_millicores, attempt.memory_bytes, held, attempt.ends_by)
        )
    cluster.occupants = dict(occupants)
    return cluster
