"""Database rows as the plain values of `jobs/scheduling`, and why a job waits, asked from them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.utils import timezone

from executors.models import Executor
from jobs import leadership
from jobs.lifecycle import State
from jobs.models import Attempt, Job
from jobs.scheduling import explain
from jobs.scheduling.room import ExecutorView, GpuDevice, Requirements, Room, occupy


class LiveAttempt(NamedTuple):
    """What a pass needs to know of an attempt that holds resources."""

    id: int
    job_id: UUID
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


@dataclass(slots=True)
class Cluster:
    """All executors, in the order first-fit tries them, and what live attempts hold of them, by executor id."""

    executors: list[ExecutorView]
    occupants: dict[str, list[explain.Occupant]] = field(default_factory=dict)

    def why_waiting(self, job: Job, now: datetime) -> str:
        """As the module's `why_waiting`, for many jobs over one look at the database."""
        if job.state != State.PENDING:
            return ""
        if job.not_before is not None and job.not_before > now:
            return f"It is tried again at {job.not_before:%H:%M:%S} UTC. The last attempt: {job.reason_text}"
        return explain.why_waiting(requirements_of(job), self.executors, self.occupants, now)


def load_live() -> list[LiveAttempt]:
    """Every attempt that holds resources."""
    rows = Attempt.objects.filter(finished_at__isnull=True).values_list(
        "id",
        "job_id",
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


def why_waiting(job: Job) -> str:
    """Why a PENDING job has not been placed, in a sentence for a person; '' for a job that is not PENDING."""
    if job.state != State.PENDING:
        return ""
    lease = leadership.lease_status()
    if lease is None or lease.expired:
        return "No scheduler is running; jobs are placed as soon as one is."
    return build_cluster(load_executors(), load_live()).why_waiting(job, timezone.now())


def never_fits(job: Job) -> str:
    """A sentence where no registered executor could ever fit the job, even idle; '' where one could."""
    return explain.never_fits(requirements_of(job), [view_of(executor) for executor in Executor.objects.all()])


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


def requirements_of(job: Job) -> Requirements:
    return Requirements(job.cpu_millicores, job.memory_bytes, job.gpu_type, job.gpu_count, job.labels)
