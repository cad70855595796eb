"""What the leader keeps between passes: executors, live attempts and the queue, and the decision which job goes where.

A pass costs by what changed since the last one. Two facts make that exact, not a guess. Room only grows where an
attempt ends or an executor changes; so a shape that fitted nowhere can fit only there. And while room only shrinks,
first-fit of one shape only moves right; so it goes on where it stopped. Placements are the same as if every job in
turn had been tried on every executor.

What is free is never counted up and down between passes: an executor that changed gets it anew from the attempts on it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from uuid import UUID

from jobs.scheduling.choosing import Run
from jobs.scheduling.placement import PendingJob, Placement, Strategy
from jobs.scheduling.room import ExecutorView, Requirements, Room, occupy
from jobs.scheduling.table import Table
from jobs.scheduling.waiting import NOT_BLOCKED, Blocked, Shape, Tracked, Untried, entry_of

UNLIMITED = 2**63

FEW_MOVED = 32
"""Executors that join or go are put in place one by one up to this number, else all is laid out anew."""


class ClusterState:
    """All that placement needs to know. Told what changed, `place` decides; nothing else changes it."""

    def __init__(self, strategy: Strategy = Strategy.FIRST_FIT) -> None:
        self._strategy = strategy
        self._views: dict[str, ExecutorView] = {}
        self._tracked: dict[int, Tracked] = {}
        self._held: dict[str, list[Tracked]] = {}  # the live attempts by executor
        self._held_at: list[list[Tracked]] = []  # the same, by the executors' position
        self._shapes: dict[str, Shape] = {}
        self._untried = Untried()
        self._blocked = Blocked()
        self._table = Table([])
        self._changed: set[str] = set()  # executors to be looked at again
        self._moved: set[str] = set()  # executors that joined, went or have another name
        self._grown: set[int] = set()  # positions where room grew and blocked shapes were not tried yet
        self._epoch = 0

    # --- What happened -------------------------------------------------------------------------------------------

    def executor_changed(self, view: ExecutorView) -> None:
        """An executor joined or is not what it was; its `free` is not looked at."""
        known = self._views.get(view.id)
        self._views[view.id] = view
        if known is None or known.name != view.name:
            self._moved.add(view.id)
        elif (known.capacity, known.labels, known.closed) != (view.capacity, view.labels, view.closed):
            self._changed.add(view.id)
        else:
            self._views[view.id] = known

    def executor_removed(self, executor_id: str) -> None:
        """An executor was forgotten; what its attempts held matters no more."""
        if self._views.pop(executor_id, None) is not None:
            self._moved.add(executor_id)

    def attempt_started(self, job_id: UUID, executor_id: str, requirements: Requirements, gpus: list[int]) -> None:
        """A live attempt that `place` did not decide, such as one found in the database. Saying so twice changes
        nothing."""
        known = self._tracked.get(job_id.int)
        if known is not None and _held(known) == (executor_id, gpus, *_amounts(requirements)):
            return
        self.job_removed(job_id)
        self.attempt_ended(job_id)
        job = Tracked(PendingJob(job_id, "", requirements), Shape("", requirements, self._table.undemanding))
        job.executor_id, job.gpu_indices, job.gone = executor_id, gpus, True
        self._tracked[job_id.int] = job
        self._held.setdefault(executor_id, []).append(job)
        self._changed.add(executor_id)

    def attempt_ended(self, job_id: UUID) -> None:
        """The job's attempt holds nothing any more; also for a placement that was not carried out."""
        job = self._tracked.get(job_id.int)
        if job is not None and job.executor_id is not None:
            del self._tracked[job_id.int]
            self._held[job.executor_id].remove(job)
            self._changed.add(job.executor_id)

    def placement_refused(self, job_id: UUID) -> None:
        """A placement was not carried out; the job waits as before."""
        job = self._tracked.get(job_id.int)
        if job is not None and job.executor_id is not None:
            self.attempt_ended(job_id)
            self.job_added(job.job)

    def job_added(self, job: PendingJob) -> None:
        """A job was submitted, or queued again after its attempt ended. Saying so twice changes nothing."""
        known = self._tracked.get(job.id.int)
        if known is not None:
            if known.executor_id is None and known.job == job:
                return
            self.attempt_ended(job.id)
            self.job_removed(job.id)
        shape = self._shapes.get(job.shape)
        if shape is None:
            kind = self._table.kind_of(job.requirements)
            kind.users += 1
            shape = self._shapes[job.shape] = Shape(job.shape, job.requirements, kind)
        shape.live += 1
        added = self._tracked[job.id.int] = Tracked(job, shape)
        if shape.row == NOT_BLOCKED:
            self._untried.add(added)
        else:
            shape.enqueue(entry_of(added))
            self._blocked.look_again(shape)

    def job_removed(self, job_id: UUID) -> None:
        """A job is not PENDING any more, for another reason than a placement. Saying so twice changes nothing."""
        job = self._tracked.get(job_id.int)
        if job is None or job.executor_id is not None:
            return
        del self._tracked[job_id.int]
        job.gone = job.special = True
        shape = job.shape
        shape.live -= 1
        if shape.row != NOT_BLOCKED:
            shape.shrink()
            self._blocked.look_again(shape)
        if not shape.live:
            self._drop(shape)

    # --- What is ------------------------------------------------------------------------------------------------

    def view(self, executor_id: str) -> ExecutorView | None:
        """An executor as it was last described, with nothing running on it."""
        return self._views.get(executor_id)

    def executor_ids(self) -> list[str]:
        return list(self._views)

    def attempts_on(self, executor_id: str) -> list[UUID]:
        """The jobs that have a live attempt there."""
        return [job.job_id for job in self._held.get(executor_id, ())]

    def pending_job(self, job_id: UUID) -> PendingJob | None:
        """The job, if it waits."""
        job = self._tracked.get(job_id.int)
        return job.job if job is not None and job.executor_id is None else None

    def pending(self) -> Iterator[PendingJob]:
        """The jobs that wait, in no order."""
        return (job.job for job in self._tracked.values() if job.executor_id is None)

    def attempts(self) -> Iterator[tuple[UUID, str, list[int]]]:
        """The live attempts: job, executor, GPUs."""
        return (
            (job.job_id, job.executor_id, job.gpu_indices)
            for job in self._tracked.values()
            if job.executor_id is not None
        )

    def executors(self) -> list[ExecutorView]:
        """The executors in the order in which first-fit tries them, each with what is free of it."""
        self._settle()
        return [replace(view, free=self._table.room(position)) for position, view in enumerate(self._table.views)]

    def drifted(self) -> list[str]:
        """The executors on which what counts as free is not capacity less attempts; always empty."""
        self._settle()
        found = enumerate(self._table.views)
        return [view.id for position, view in found if self._table.room(position) != self._free_of(view)]

    # --- The decision --------------------------------------------------------------------------------------------

    def place(self, limit: int = UNLIMITED) -> tuple[list[Placement], bool]:
        """Place what fits, at most `limit` jobs: higher priority first, then earlier submission.

        Returns the placements, which count as live attempts from now on, and whether the limit stopped it.
        """
        self._settle()
        run = Run(
            self._table,
            self._untried,
            self._blocked,
            self._held_at,
            self._grown,
            self._strategy,
            self._epoch,
        )
        placements, more = run.place(limit)
        for shape in run.emptied:
            self._drop(shape)
        if not more:
            self._grown.clear()
        return placements, more

    # --- Within --------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Take in what changed: what is free of the executors concerned, and where room grew."""
        if len(self._moved) > FEW_MOVED:
            self._make_table_anew()
        for executor_id in self._moved:
            self._move(executor_id)
        self._moved.clear()
        for executor_id in self._changed:
            position = self._table.position.get(executor_id)
            if position is None:
                continue
            view = self._views[executor_id]
            if view is not self._table.views[position]:
                self._table.set_view(position, view)
            self._table.set_free(position, self._free_of(view))
            self._epoch += 1
            if not view.closed:
                self._grown.add(position)
        self._changed.clear()
        if not self._blocked.shapes:
            self._grown.clear()

    def _move(self, executor_id: str) -> None:
        """An executor joined, went, or has another place."""
        table, position, view = self._table, self._table.position.get(executor_id), self._views.get(executor_id)
        if position is not None:
            table.remove(position)
            del self._held_at[position]
            self._grown = {other - (other > position) for other in self._grown if other != position}
        if view is not None:
            position = table.insert(view)
            self._held_at.insert(position, self._held.setdefault(executor_id, []))
            self._grown = {other + (other >= position) for other in self._grown}
            self._changed.add(executor_id)
        self._epoch += 1

    def _make_table_anew(self) -> None:
        """Many joined, as at first: every shape is tried again everywhere."""
        self._moved.clear()
        self._table = Table(list(self._views.values()))
        self._held_at = [self._held.setdefault(executor_id, []) for executor_id in self._table.ids]
        self._blocked = Blocked()
        self._untried = Untried()
        self._epoch += 1
        self._changed = {executor_id for executor_id, held in self._held.items() if held}
        for shape in self._shapes.values():
            shape.kind = self._table.kind_of(shape.requirements)
            shape.kind.users += 1
            shape.unblock()
        self._untried.sorted = sorted(entry_of(job) for job in self._tracked.values() if job.executor_id is None)

    def _free_of(self, view: ExecutorView) -> Room:
        free = Room(view.capacity.cpu_millicores, view.capacity.memory_bytes, view.capacity.gpus)
        for job in self._held.get(view.id, ()):
            occupy(free, job.requirements.cpu_millicores, job.requirements.memory_bytes, job.gpu_indices)
        return free

    def _drop(self, shape: Shape) -> None:
        """The shape's last job has gone."""
        shape.kind.users -= 1
        del self._shapes[shape.digest]


def _held(job: Tracked) -> tuple[str | None, list[int], int, int]:
    return job.executor_id, job.gpu_indices, *_amounts(job.requirements)


def _amounts(requirements: Requirements) -> tuple[int, int]:
    return requirements.cpu_millicores, requirements.memory_bytes


def new_state(
    views: Iterable[ExecutorView], jobs: Iterable[PendingJob] = (), strategy: Strategy = Strategy.FIRST_FIT
) -> ClusterState:
    """The state of idle executors and these pending jobs."""
    state = ClusterState(strategy)
    for view in views:
        state.executor_changed(view)
    for job in jobs:
        state.job_added(job)
    return state
