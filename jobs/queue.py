"""Reading the queue of PENDING jobs in the order in which they get room, a piece at a time."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Q, QuerySet

from jobs.lifecycle import State
from jobs.models import Job
from jobs.scheduling.placement import PendingJob
from jobs.scheduling.room import Requirements

CHUNK = 500
"""Jobs read at once."""

MAX_EXCLUDED = 500
"""Shapes named in one query at most; any more are skipped after they were read."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last job read: reading goes on behind it."""

    priority: int
    job_id: UUID


def due(now: datetime) -> QuerySet[Job]:
    """The jobs that may be placed now, in their order: priority, then submission (ids are time-ordered)."""
    may_be_placed = Q(not_before__isnull=True) | Q(not_before__lte=now)
    return Job.objects.filter(may_be_placed, state=State.PENDING).order_by("-priority", "id")


def read(
    now: datetime, after: Position | None, blocked: Collection[str], most_cpu: int, most_memory: int
) -> list[PendingJob]:
    """The next jobs behind `after` that could fit: not of a blocked shape, not larger than the largest room."""
    jobs = due(now).filter(cpu_millicores__lte=most_cpu, memory_bytes__lte=most_memory)
    if blocked:
        jobs = jobs.exclude(shape__in=sorted(blocked)[:MAX_EXCLUDED])
    if after is not None:
        jobs = jobs.filter(
            Q(priority__lt=after.priority) | Q(priority=after.priority, id__gt=after.job_id),
            priority__lte=after.priority,
        )
    rows = jobs.values_list(
        "id", "priority", "shape", "executor_id", "cpu_millicores", "memory_bytes", "gpu_type", "gpu_count", "labels"
    )[:CHUNK]
    return [
        PendingJob(job_id, shape, Requirements(*requirements), priority, executor_id)
        for job_id, priority, shape, executor_id, *requirements in rows
    ]
