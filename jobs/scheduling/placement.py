"""What placement is about: the jobs that wait, the decisions, and the strategies by which they are made."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from jobs.scheduling.room import Requirements


class Strategy(StrEnum):
    FIRST_FIT = "first-fit"
    """The first executor, by name, with room."""
    BEST_FIT = "best-fit"
    """The one that is left with the least: keeps large gaps for large jobs."""
    SPREAD = "spread"
    """The one that is left with the most: evens out the load."""


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job that waits. `avoid_executor` is where its last attempt failed: it goes elsewhere where there is room."""

    id: UUID
    shape: str
    requirements: Requirements
    priority: int = 0
    avoid_executor: str | None = None


class Placement(NamedTuple):
    """The decision 'this job runs on this executor, with these GPUs'."""

    job_id: UUID
    executor_id: str
    gpu_indices: list[int]
