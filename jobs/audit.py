"""What the leader remembers is compared with the database, round after round, a small piece at a time.

It finds what no wake named, such as a row that somebody changed by hand. A round begins every JOB_POLL_INTERVAL where
that is enough; it takes at most a twenty-fifth of the time, so that a round over a million jobs takes minutes and
keeps nobody waiting. What differs is looked at once more, after the wakes that were on their way, and only then is it
said and mended.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from jobs import snapshot
from jobs.scheduling.placement import PendingJob
from jobs.snapshot import LiveAttempt
from jobs.tracking import EXECUTORS_READ, JOBS_READ, Mirror, in_chunks

logger = logging.getLogger(__name__)

STEP_SECONDS = 0.01
"""After so long a step begins no other piece."""

SHARE = 25
"""After a step, so many times as long as it took passes before the next."""

NAMED_IN_LOG = 5


class Audit:
    """Of one mirror. Whoever makes passes calls `step` when `next_at`, by `clock`, has come."""

    def __init__(self, mirror: Mirror, clock: Callable[[], float]) -> None:
        self._mirror, self._clock = mirror, clock
        self._round: Iterator[None] | None = None
        self._begin_at = self.next_at = clock() + settings.JOB_POLL_INTERVAL
        self._jobs: list[UUID] = []  # that were not as they were known
        self._executors: list[str] = []

    def begin(self) -> None:
        """Somebody says that there is something new, and not what."""
        self._round = None
        self._begin_at = self.next_at = self._clock()

    def step(self, now: datetime) -> None:
        """Look again at what differed in the last step, and compare what comes next. Raises database errors."""
        step_began = self._clock()
        self._mend(now)
        if self._round is None and step_began >= self._begin_at:
            self._begin_at, self._round = step_began + settings.JOB_POLL_INTERVAL, self._pieces()
        while self._round is not None and self._clock() - step_began < STEP_SECONDS:
            if next(self._round, "over") == "over":
                self._round = None
        step_ended = self._clock()
        self.next_at = step_ended + SHARE * (step_ended - step_began)
        if self._round is None and not self._jobs and not self._executors:
            self.next_at = max(self.next_at, self._begin_at)

    def _mend(self, now: datetime) -> None:
        executors = self._mirror.look_at_executors(self._executors)
        jobs = self._mirror.look_at_jobs(self._jobs, now)
        self._executors, self._jobs = [], []
        _say("executors", executors)
        _say("jobs", jobs)

    # --- The pieces of a round -----------------------------------------------------------------------------------

    def _pieces(self) -> Iterator[None]:
        """Compares a piece, then yields."""
        yield from self._executors_and_attempts()
        yield from self._jobs_in_the_queue()
        yield from self._jobs_taken_for_waiting()

    def _executors_and_attempts(self) -> Iterator[None]:
        mirror, last = self._mirror, ""
        gone = set(mirror.state.executor_ids())
        while rows := snapshot.executors_after(last, EXECUTORS_READ):
            ids = [row.id for row in rows]
            gone.difference_update(ids)
            self._executors += [row.id for row in rows if not mirror.agrees(row.id, row)]
            held = {job_id for executor_id in ids for job_id in mirror.state.attempts_on(executor_id)}
            self._compare_live(held, snapshot.load_live(Q(executor_id__in=ids)))
            yield
            last = ids[-1]
        self._executors += sorted(gone)
        self._compare_live(mirror.orphans, snapshot.load_live(Q(executor_id__isnull=True)))
        yield

    def _compare_live(self, held: Collection[UUID], attempts: Collection[LiveAttempt]) -> None:
        now, found = timezone.now(), {attempt.job_id: attempt for attempt in attempts}
        concerned = {*held, *found}
        self._jobs += [job_id for job_id in concerned if self._mirror.differs(job_id, found.get(job_id), now)]

    def _jobs_in_the_queue(self) -> Iterator[None]:
        last: PendingJob | None = None
        while read := snapshot.waiting_after(last, JOBS_READ):
            now = timezone.now()
            self._jobs += [item.job.id for item in read if self._mirror.differs(item.job.id, item, now)]
            yield
            last = read[-1].job

    def _jobs_taken_for_waiting(self) -> Iterator[None]:
        for chunk in in_chunks(self._mirror.waiting_ids(), JOBS_READ):
            pending = snapshot.pending_among(chunk)
            self._jobs += [job_id for job_id in chunk if job_id not in pending and self._mirror.waits(job_id)]
            yield


def _say(what: str, found: Collection[object]) -> None:
    if not found:
        return
    named = ", ".join(str(item) for item in list(found)[:NAMED_IN_LOG])
    more = f" and {len(found) - NAMED_IN_LOG} more" if len(found) > NAMED_IN_LOG else ""
    logger.warning("%s had changed and nothing said so, taken in now: %s%s", what, named, more)
