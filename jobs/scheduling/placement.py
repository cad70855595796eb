"""The decision which executor a job gets.

Within one pass room only shrinks. Two things follow that keep the cost of a pass from growing with the queue times the
executors: a shape that did not fit anywhere is not tried again, and first-fit need not look again at an executor that
one of the same shape did not fit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from jobs.scheduling.room import ExecutorView, Requirements, fits, take


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


class Placer:
    """One pass over the queue. Takes what it places from the `free` of the executors it was given.

    `blocked` has the shapes that fitted nowhere.
    """

    def __init__(self, executors: Sequence[ExecutorView], strategy: Strategy = Strategy.FIRST_FIT) -> None:
        self.blocked: set[str] = set()
        self._executors = executors
        self._strategy = strategy
        self._cursors: dict[str, int] = {}

    def place(self, job: PendingJob) -> Placement | None:
        """Where the job goes, or None where nothing has room for it. Jobs come in the order they should get room."""
        if job.shape in self.blocked:
            return None
        chosen = self._first_fit(job) if self._strategy is Strategy.FIRST_FIT else self._by_rank(job)
        if chosen is None:
            self.blocked.add(job.shape)
            return None
        return Placement(job.id, chosen.id, take(job.requirements, chosen))

    def largest_room(self) -> tuple[int, int]:
        """The most CPU and the most memory free on any one executor: no job that asks for more can be placed."""
        rooms = [executor.free for executor in self._executors if not executor.closed]
        cpu = max((room.cpu_millicores for room in rooms), default=0)
        return cpu, max((room.memory_bytes for room in rooms), default=0)

    def _first_fit(self, job: PendingJob) -> ExecutorView | None:
        index = self._next_fit(job.requirements, self._cursors.get(job.shape, 0))
        self._cursors[job.shape] = index
        if index == len(self._executors):
            return None
        first = self._executors[index]
        if first.id == job.avoid_executor:
            other = self._next_fit(job.requirements, index + 1)
            return self._executors[other] if other < len(self._executors) else first
        return first

    def _next_fit(self, requirements: Requirements, start: int) -> int:
        for index in range(start, len(self._executors)):
            if fits(requirements, self._executors[index]):
                return index
        return len(self._executors)

    def _by_rank(self, job: PendingJob) -> ExecutorView | None:
        candidates = [executor for executor in self._executors if fits(job.requirements, executor)]
        candidates = [executor for executor in candidates if executor.id != job.avoid_executor] or candidates
        if not candidates:
            return None
        return (min if self._strategy is Strategy.BEST_FIT else max)(candidates, key=_free_share)


def place(
    jobs: Iterable[PendingJob], executors: Sequence[ExecutorView], strategy: Strategy = Strategy.FIRST_FIT
) -> list[Placement]:
    """Place what fits: higher priority first, then earlier submission (ids are time-ordered)."""
    placer = Placer(executors, strategy)
    ordered = sorted(sorted(jobs, key=attrgetter("id")), key=attrgetter("priority"), reverse=True)
    return [placement for job in ordered if (placement := placer.place(job)) is not None]


def _free_share(executor: ExecutorView) -> float:
    """How much of the executor is free, all resources alike: 0 for full, 1 for idle. GPUs count where it has any, so
    that best-fit keeps jobs without GPUs off the machines with them."""
    free, capacity = executor.free, executor.capacity
    shares = [
        free.cpu_millicores / max(capacity.cpu_millicores, 1),
        free.memory_bytes / max(capacity.memory_bytes, 1),
    ]
    if capacity.gpus:
        shares.append(len(free.gpus) / len(capacity.gpus))
    return sum(shares) / len(shares)
