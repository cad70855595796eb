"""The leader's copy of the rows that placement needs, kept in step with them; the database remains the truth.

It is read once, when a scheduler takes the lead, and from then on changed by what is known to have changed. Nobody but
the leader writes attempts, so those are known from its own transactions (`take`). Jobs and executors are changed by
web processes, too, which say so in a wake: what it names is read again (`look_at_jobs`, `look_at_executors`). Reading
anything twice changes nothing, and what no wake named is found by the audit (`jobs/audit.py`).

Whoever changes it in a transaction throws it away where that fails.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from heapq import heappop, heappush
from itertools import islice
from typing import TypeVar
from uuid import UUID

from django.db.models import Q

from executors.models import Executor
from executors.writes import one_of
from jobs import snapshot, timeouts
from jobs.lifecycle import State
from jobs.models import Attempt
from jobs.scheduling import explain
from jobs.scheduling.cluster import ClusterState
from jobs.scheduling.placement import PendingJob, Strategy
from jobs.snapshot import Cluster, LiveAttempt, Waiting, view_of
from jobs.transitions import Outcome

EXECUTORS_READ = 50
JOBS_READ = 2000
"""Rows read by one query at most, so that none takes long."""

MOST_AT_HAND = 10_000
"""Attempts kept as rows; each takes some 4 KB. Those that live longer than so many others are read when they end."""

T = TypeVar("T")


class Mirror:
    """`state` decides on placement. `aborting` are jobs whose attempt is to be stopped at a person's wish, `orphans`
    those whose executor was forgotten, `present` the executors that are not lost, `doubted` the jobs to be read again.
    `at_hand` are the rows of the attempts that were written last, for the Ledger.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.state = ClusterState(strategy)
        self.live: dict[UUID, LiveAttempt] = {}
        self.at_hand: dict[UUID, Attempt] = {}
        self.aborting: set[UUID] = set()
        self.orphans: set[UUID] = set()
        self.present: set[str] = set()
        self.doubted: set[UUID] = set()
        self.whole = False
        """Whether the queue was read to its end."""
        self._last_read: PendingJob | None = None
        self._later: dict[UUID, Waiting] = {}  # jobs that are not due yet
        self._due: list[tuple[datetime, UUID]] = []  # when they are
        self._deadlines: list[tuple[datetime, UUID]] = []

    # --- Reading -------------------------------------------------------------------------------------------------

    def read_queue(self, limit: int, now: datetime) -> None:
        """Read on in the queue. It is read in its order, so that what was read can be placed meanwhile."""
        read = snapshot.waiting_after(self._last_read, limit)
        for waiting in read:
            self.set_waiting(waiting, now)
        if read:
            self._last_read = read[-1].job
        self.whole = len(read) < limit

    def look_at_range(self, first: UUID, last: UUID, now: datetime) -> None:
        """Read the PENDING jobs with ids from `first` to `last`."""
        while True:
            read = snapshot.waiting_between(first, last, JOBS_READ)
            for waiting in read:
                self.set_waiting(waiting, now)
            if len(read) < JOBS_READ:
                return
            first = read[-1].job.id

    def look_at_jobs(self, job_ids: Iterable[UUID], now: datetime) -> list[UUID]:
        """Read these jobs; returns those that were not as they were known."""
        differing = []
        for chunk in in_chunks(job_ids, JOBS_READ):
            for job_id, found in read_jobs(chunk).items():
                if self.differs(job_id, found, now):
                    differing.append(job_id)
                    self._set(job_id, found, now)
            self.doubted.difference_update(chunk)
        return differing

    def look_at_executors(self, executor_ids: Iterable[str]) -> list[str]:
        """Read these executors; returns those that were not as they were known."""
        differing = []
        for chunk in in_chunks(executor_ids, EXECUTORS_READ):
            rows = Executor.objects.in_bulk(chunk)
            for executor_id in chunk:
                if not self.agrees(executor_id, rows.get(executor_id)):
                    differing.append(executor_id)
                    self.set_executor(executor_id, rows.get(executor_id))
        return differing

    # --- What the leader's own transactions did ------------------------------------------------------------------

    def take(self, outcome: Outcome, now: datetime) -> None:
        """The rows that a transaction wrote."""
        for executor in outcome.executors.values():
            self.set_executor(executor.id, executor)
        for attempt in outcome.touched.values():
            self.take_attempt(attempt, now)

    def take_attempt(self, attempt: Attempt, now: datetime) -> None:
        """An attempt that was made or changed, with its job."""
        job = attempt.job
        if attempt.finished_at is None:
            self._set_live(snapshot.live_of(attempt))
            self.at_hand[job.id] = attempt
            if len(self.at_hand) > MOST_AT_HAND:
                del self.at_hand[next(iter(self.at_hand))]
        elif job.state == State.PENDING:
            self.set_waiting(snapshot.waiting_of(job), now)
        else:
            self._drop(job.id)

    # --- What is known -------------------------------------------------------------------------------------------

    def known(self, job_id: UUID) -> LiveAttempt | Waiting | None:
        """The job's live attempt, or the job that waits, or None: it has ended."""
        if live := self.live.get(job_id):
            return live
        if later := self._later.get(job_id):
            return later
        pending = self.state.pending_job(job_id)
        return Waiting(pending, None) if pending is not None else None

    def differs(self, job_id: UUID, found: LiveAttempt | Waiting | None, now: datetime) -> bool:
        """Whether `found`, as read from the database, is not what is known."""
        return _comparable(self.known(job_id), now) != _comparable(found, now)

    def agrees(self, executor_id: str, row: Executor | None) -> bool:
        """Whether the executor is known as its row is; None for one that was forgotten."""
        known = self.state.view(executor_id)
        if known is None or row is None:
            return known is None and row is None
        view = view_of(row)
        there = row.state != Executor.State.LOST
        return there == (executor_id in self.present) and (
            (known.name, known.capacity, known.labels, known.closed)
            == (view.name, view.capacity, view.labels, view.closed)
        )

    def waits(self, job_id: UUID) -> bool:
        """Whether the job is known as one that waits."""
        return job_id in self._later or self.state.pending_job(job_id) is not None

    def waiting_ids(self) -> list[UUID]:
        """The jobs that wait, in no order."""
        return [*self._later, *(job.id for job in self.state.pending())]

    def cluster(self) -> Cluster:
        """What why a job waits is asked of."""
        executors = self.state.executors()
        occupants: dict[str, list[explain.Occupant]] = {}
        for executor in executors:
            gpus = {gpu.index: gpu for gpu in executor.capacity.gpus}
            occupants[executor.id] = [
                explain.Occupant(
                    attempt.cpu_millicores,
                    attempt.memory_bytes,
                    [gpus[index] for index in attempt.gpu_indices if index in gpus],
                    attempt.ends_by,
                )
                for job_id in self.state.attempts_on(executor.id)
                if (attempt := self.live.get(job_id)) is not None
            ]
        return Cluster(executors, occupants)

    # --- What its time has come for ------------------------------------------------------------------------------

    def release_due(self, now: datetime) -> None:
        """Jobs that may be placed from now on."""
        while self._due and self._due[0][0] <= now:
            _, job_id = heappop(self._due)
            waiting = self._later.get(job_id)
            if waiting is not None and waiting.not_before is not None and waiting.not_before <= now:
                self.set_waiting(waiting, now)

    def seconds_to_next_due(self, now: datetime) -> float:
        """How long until a re-queued job may be placed again; infinite where none waits for its time."""
        return max(0.0, (self._due[0][0] - now).total_seconds()) if self._due else float("inf")

    def overdue(self, now: datetime) -> list[LiveAttempt]:
        """The attempts whose deadline has passed. Each is told once, until something of it changes."""
        found: dict[UUID, LiveAttempt] = {}
        while self._deadlines and self._deadlines[0][0] < now:
            _, job_id = heappop(self._deadlines)
            attempt = self.live.get(job_id)
            deadline = timeouts.next_deadline(attempt) if attempt is not None else None
            if attempt is not None and deadline is not None:
                if deadline < now:
                    found[job_id] = attempt
                else:
                    heappush(self._deadlines, (deadline, job_id))
        return list(found.values())

    # --- Setting -------------------------------------------------------------------------------------------------

    def doubt(self, job_id: UUID) -> None:
        """The database did not have the job as it is known: it counts for nothing until it is read again."""
        self._drop(job_id)
        self.doubted.add(job_id)

    def set_executor(self, executor_id: str, row: Executor | None) -> None:
        """What the executor is like; None: it was forgotten, and any attempt on it is nobody's now."""
        if row is None:
            self.present.discard(executor_id)
            self.doubted.update(self.state.attempts_on(executor_id))
            self.state.executor_removed(executor_id)
            return
        self.state.executor_changed(view_of(row))
        if row.state == Executor.State.LOST:
            self.present.discard(executor_id)
        else:
            self.present.add(executor_id)

    def set_waiting(self, waiting: Waiting, now: datetime) -> None:
        job_id = waiting.job.id
        self._end(job_id)
        if waiting.not_before is None or waiting.not_before <= now:
            self._later.pop(job_id, None)
            self.state.job_added(waiting.job)
        elif self._later.get(job_id) != waiting:
            self.state.job_removed(job_id)
            self._later[job_id] = waiting
            heappush(self._due, (waiting.not_before, job_id))

    def _set(self, job_id: UUID, found: LiveAttempt | Waiting | None, now: datetime) -> None:
        self.at_hand.pop(job_id, None)
        if isinstance(found, LiveAttempt):
            self._set_live(found)
        elif found is not None:
            self.set_waiting(found, now)
        else:
            self._drop(job_id)

    def _set_live(self, attempt: LiveAttempt) -> None:
        job_id, before = attempt.job_id, self.live.get(attempt.job_id)
        self.live[job_id] = attempt
        self._later.pop(job_id, None)
        if attempt.executor_id is None:
            self.state.attempt_ended(job_id)
            self.state.job_removed(job_id)
            self.orphans.add(job_id)
        else:
            self.orphans.discard(job_id)
            needs = snapshot.amounts(attempt)
            self.state.attempt_started(job_id, attempt.executor_id, needs, attempt.gpu_indices)
        if attempt.abort_requested_at is not None and attempt.stop_command is None:
            self.aborting.add(job_id)
        else:
            self.aborting.discard(job_id)
        deadline = timeouts.next_deadline(attempt)
        if deadline is not None and (before is None or timeouts.next_deadline(before) != deadline):
            heappush(self._deadlines, (deadline, job_id))

    def _drop(self, job_id: UUID) -> None:
        """The job has ended, or does not exist any more."""
        self._end(job_id)
        self._later.pop(job_id, None)
        self.state.job_removed(job_id)

    def _end(self, job_id: UUID) -> None:
        """The job has no live attempt."""
        self.at_hand.pop(job_id, None)
        if self.live.pop(job_id, None) is not None:
            self.aborting.discard(job_id)
            self.orphans.discard(job_id)
        self.state.attempt_ended(job_id)


def _comparable(known: LiveAttempt | Waiting | None, now: datetime) -> LiveAttempt | Waiting | None:
    """A time that has passed is none."""
    if isinstance(known, Waiting) and known.not_before is not None and known.not_before <= now:
        return Waiting(known.job, None)
    return known


# --- From the database -------------------------------------------------------------------------------------------


def read_jobs(job_ids: Sequence[UUID]) -> dict[UUID, LiveAttempt | Waiting | None]:
    """Each job as the database has it: its live attempt, or the job that waits, or None."""
    found: dict[UUID, LiveAttempt | Waiting | None] = dict.fromkeys(job_ids)
    for waiting in snapshot.waiting_named(job_ids):
        found[waiting.job.id] = waiting
    others = [job_id for job_id, item in found.items() if item is None]
    if others:
        found.update((attempt.job_id, attempt) for attempt in snapshot.load_live(one_of("job_id", others)))
    return found


def load(strategy: Strategy, keep_lease: Callable[[], None]) -> Mirror:
    """The executors and all that runs, read anew; the queue is read afterwards, by `read_queue`.

    Calls `keep_lease` between pieces. Only for a scheduler that has the lease: nobody else writes attempts then.
    """
    mirror = Mirror(strategy)
    for attempt in snapshot.load_live(Q(executor_id__isnull=True)):
        mirror._set_live(attempt)
    last = ""
    while rows := snapshot.executors_after(last, EXECUTORS_READ):
        for row in rows:
            mirror.set_executor(row.id, row)
        for attempt in snapshot.load_live(Q(executor_id__in=[row.id for row in rows])):
            mirror._set_live(attempt)
        last = rows[-1].id
        keep_lease()
    return mirror


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
