"""The leader's work, pass by pass: receive, catch up, apply, expire, place, commit, send.

Commit first, then send, then acknowledge: whatever dies in between, the next pass or the next leader finds in the
database what is to be sent, and in the stream what is to be applied, and doing either twice changes nothing.

One transaction a pass. It begins with the lease, so that a scheduler that no longer leads writes nothing. What is
placed is decided from memory (`jobs/tracking.py`), so that a pass costs by what changed; before the commit the rows
that the decision rests on are locked, and memory that was wrong places nothing.

Where one pass follows another, what is said to Redis and read from it goes on beside them, while they wait for the
database: the next events are read before the pass commits, and what it decided is sent while the next one applies.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Threads
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import redis
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from agent.protocol import PassRequest, Wake
from executors import broker, registry
from executors.models import Executor
from executors.writes import one_of
from jobs import commands, events, leadership, observing, snapshot, timeouts, tracking
from jobs.applying import apply
from jobs.audit import Audit
from jobs.lifecycle import EndReason, State
from jobs.models import Attempt, Job
from jobs.reconcile import Stops, Token
from jobs.scheduling.placement import Strategy
from jobs.snapshot import Cluster
from jobs.tracking import Mirror
from jobs.transitions import Ledger
from jobs.wire import AtOnce, Delivery, Wire, reach

logger = logging.getLogger(__name__)

MAX_BLOCK_SECONDS = 4.0
"""The longest wait for an event; the Redis client gives up on an answer after 5 s."""

PLACEMENTS_PER_PASS = 500 if connection.vendor == "sqlite" else 1000
"""Bounds the transaction, which on SQLite keeps every other writer waiting; the next pass follows at once."""

QUEUE_READ_PER_PASS = 5000
"""Bounds the time between two renewals of the lease while a new leader reads a long queue."""

STOP_AGAIN_SECONDS = 20
"""How long after the grace period a container that is still held is told to stop again."""

REASONS_IN_REPLY = 100


class WrongMemory(RuntimeError):
    """What the leader remembers does not agree with the database; nothing was written, and it has to start over."""


@dataclass(slots=True)
class Pass:
    """What one pass did. `more` says that another should follow at once."""

    placed: list[Attempt] = field(default_factory=list)
    more: bool = False


class Scheduler:
    """The leader's memory between passes; everything in it can be lost without harm.

    `interruptible` wraps the wait for events, the one moment at which the process may be told to stop. `beside` is the
    one thread that speaks to Redis where passes follow each other; without it there is none.
    """

    _audit: Audit

    def __init__(
        self,
        holder: str,
        term: int,
        clock: Callable[[], float] = time.monotonic,
        interruptible: Callable[[], AbstractContextManager[None]] = nullcontext,
        beside: Threads | None = None,
    ) -> None:
        self.holder, self.term = holder, term
        self._clock, self._interruptible = clock, interruptible
        self._wire = Wire(term, clock, beside or AtOnce())
        self._heard: dict[str, float] = {}
        self._stops = Stops()
        self.start_over()

    def start_over(self) -> None:
        """After anything went wrong, and at first: read again what was not acknowledged and all that is remembered,
        send again what is outstanding, and give every executor a full period before it counts as lost."""
        self._wire.forget()
        self._busy = False
        self._unacknowledged = True
        self._resend = True
        self._mirror: Mirror | None = None
        self._quiet_since = self._read_at = self._renewed = self._clock()
        self._none_lost_before = 0.0

    def finish(self) -> None:
        """Wait until all that passes decided is said."""
        self._wire.forget()

    def run_pass(self, block_seconds: float = 0) -> Pass:
        """One pass; waits up to `block_seconds` for something to happen first.

        Raises LostLeadership, WrongMemory, redis.RedisError or a database error: nothing is lost then, and after
        `start_over` the next pass takes it up again.
        """
        batch = self._receive(block_seconds)
        asked = any(isinstance(event, PassRequest) for event in batch.events)
        now = timezone.now()
        reach("received", batch.events)
        mirror = self._catch_up([event for event in batch.events if isinstance(event, Wake)], now)
        with transaction.atomic():
            leadership.renew(self.holder, self.term)
            outcome = apply(batch.events, now, self._may_stop, mirror.at_hand)
            mirror.take(outcome, now)
            ledger = Ledger(now, mirror.at_hand)
            lost = self._lose_silent(mirror, ledger) if batch.drained else []
            self._expire(mirror, lost, ledger)
            if self._busy:
                self._wire.read_ahead()
            placed, more = self._place(mirror, ledger)
            waiting = _waiting(mirror.cluster(), now) if asked else {}
            outcome.add(ledger.outcome)
            if self._resend:
                commands.merge(outcome.commands, commands.outstanding())
            reach("before-commit", batch.events, placed)
        self._mirror = mirror
        self._renewed = self._clock()
        observing.tally.add(outcome.waits, outcome.ended)
        if outcome.lines:
            logger.info("%s", "\n".join(outcome.lines))

        more = more or not batch.drained or not mirror.whole or bool(mirror.doubted)
        self._busy = more and not self._unacknowledged
        self._resend = False
        delivery = Delivery(
            batch,
            placed,
            outcome.commands,
            {executor.id: executor.last_command for executor in lost},
            outcome.strangers,
            outcome.changed_jobs,
            outcome.changed_executors,
            waiting,
        )
        self._wire.deliver(delivery, beside=self._busy)
        return Pass(placed, more)

    # --- Receive ---------------------------------------------------------------------------------------------

    def _receive(self, block_seconds: float) -> events.Batch:
        if self._unacknowledged:
            client = broker.client()
            events.ensure_group(client, self.term)
            batch = events.receive_unacknowledged(client, self.term)
            if batch.entry_ids:
                return batch
            self._unacknowledged = False
        block_seconds = min(block_seconds, MAX_BLOCK_SECONDS, settings.LEASE_SECONDS / 3, self._seconds_to_next_due())
        try:
            with self._interruptible():
                batch = self._wire.receive(block_seconds)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            leadership.renew(self.holder, self.term)  # A successor would have taken it away.
            logger.warning("Redis was emptied; everything outstanding is sent again")
            self.start_over()
            events.ensure_group(broker.client(), self.term)
            return events.Batch()
        before, self._read_at = self._read_at, batch.read_at
        if self._read_at - before > block_seconds + settings.HEARTBEAT_INTERVAL:
            logger.warning("this process, or the database, stood still; every executor gets a full period again")
            self._quiet_since = self._read_at
        self._heard.update(
            (executor_id, self._read_at)
            for event in batch.events
            if (executor_id := getattr(event, "executor_id", None))
        )
        return batch

    def _seconds_to_next_due(self) -> float:
        """How long until a re-queued job may be placed again, or the next piece is to be audited."""
        if self._mirror is None:
            return 0.0
        to_audit = max(0.0, self._audit.next_at - self._clock())
        return min(to_audit, self._mirror.seconds_to_next_due(timezone.now()))

    # --- Catch up ------------------------------------------------------------------------------------------------

    def _catch_up(self, wakes: Sequence[Wake], now: datetime) -> Mirror:
        """What is remembered, with what others changed since the last pass. Until the pass is committed nothing counts
        as remembered: whatever fails, the next one reads everything again."""
        mirror, self._mirror = self._mirror, None
        if mirror is None:
            mirror = tracking.load(Strategy(settings.PLACEMENT_STRATEGY), self._keep_lease)
            self._audit = Audit(mirror, self._clock)
        else:
            self._read_named(mirror, wakes, now)
        if not mirror.whole:
            mirror.read_queue(QUEUE_READ_PER_PASS, now)
        elif self._clock() >= self._audit.next_at:
            self._audit.step(now)
        self._keep_lease()
        return mirror

    def _read_named(self, mirror: Mirror, wakes: Sequence[Wake], now: datetime) -> None:
        job_ids, executor_ids = set(mirror.doubted), set()
        for wake in wakes:
            job_ids.update(filter(None, map(_uuid, wake.job_ids)))
            executor_ids.update(wake.executor_ids)
            first, last = _uuid(wake.first_job_id), _uuid(wake.last_job_id)
            if first is not None and last is not None:
                mirror.look_at_range(first, last, now)
            elif not wake.job_ids and not wake.executor_ids:
                self._audit.begin()
        if changed := mirror.look_at_executors(executor_ids):
            self._none_lost_before = 0.0
        mirror.look_at_jobs(job_ids | set(mirror.doubted) if changed else job_ids, now)

    def _keep_lease(self) -> None:
        """Reading a lot takes longer than the lease lasts. Raises LostLeadership."""
        if self._clock() - self._renewed > settings.LEASE_SECONDS / 3:
            leadership.renew(self.holder, self.term)
            self._renewed = self._clock()

    # --- Apply -----------------------------------------------------------------------------------------------

    def _may_stop(self, executor_id: str, token: Token, at_once: bool) -> bool:
        """Whether to tell an agent now to stop what it should not hold: again only after it had time to obey, and for
        the first time, too, unless `at_once`."""
        patience = settings.ABORT_GRACE_SECONDS + STOP_AGAIN_SECONDS
        forget = patience + settings.MISSED_HEARTBEATS_TO_LOSE * settings.HEARTBEAT_INTERVAL
        now = self._clock()
        return self._stops.may_tell(executor_id, token, now, at_once=at_once, patience=patience, forget=forget)

    # --- Expire ----------------------------------------------------------------------------------------------

    def _lose_silent(self, mirror: Mirror, ledger: Ledger) -> list[Executor]:
        """The executors of which nothing was heard for three heartbeats, now marked as lost. All are looked at only
        when one of them can have been silent for so long. What counts is the time up to which the stream was read: the
        database may have hung since."""
        patience = settings.MISSED_HEARTBEATS_TO_LOSE * settings.HEARTBEAT_INTERVAL
        now = self._read_at
        if now <= self._none_lost_before:
            return []
        heard = {name: max(self._heard.get(name, 0.0), self._quiet_since) for name in mirror.present}
        silent = [name for name, at in heard.items() if now - at > patience]
        self._heard = heard
        self._none_lost_before = min((at for at in heard.values() if now - at <= patience), default=now) + patience
        lost = list(Executor.objects.select_for_update().filter(id__in=silent).order_by("name", "id")) if silent else []
        ledger.outcome.lines += registry.lose(lost, ledger.now)
        ledger.outcome.changed_executors |= {executor.id for executor in lost}
        ledger.outcome.executors |= {executor.id: executor for executor in lost}
        return lost

    def _expire(self, mirror: Mirror, lost: Sequence[Executor], ledger: Ledger) -> None:
        """Close the attempts on lost executors, stop those that overran or that a person wants ended."""
        overdue = mirror.overdue(ledger.now)
        concerned = {attempt.job_id for attempt in overdue} | mirror.aborting | mirror.orphans
        if not concerned and not lost:
            return
        lost_ids = {executor.id for executor in lost} | {None}
        attempts = ledger.load(Q(executor_id__in=lost_ids)) if lost else []
        concerned -= {attempt.job_id for attempt in attempts}
        attempts += ledger.load(one_of("job_id", concerned))
        for attempt in attempts:
            concerned.discard(attempt.job_id)
            seen = snapshot.live_of(attempt)
            if attempt.executor_id in lost_ids:
                forgotten = "" if attempt.executor_id else f"The executor {attempt.executor_name} was forgotten."
                ledger.close(attempt, EndReason.EXECUTOR_LOST, forgotten)
            elif timeouts.is_given_up(seen, ledger.now):
                ledger.close(attempt, EndReason.START_TIMEOUT)
            elif why := timeouts.why_stop(seen, ledger.now):
                ledger.request_stop(attempt, why)
        ledger.write()
        mirror.take(ledger.outcome, ledger.now)
        for attempt in attempts:
            mirror.take_attempt(attempt, ledger.now)
        for job_id in concerned:
            mirror.doubt(job_id)

    # --- Place -----------------------------------------------------------------------------------------------

    def _place(self, mirror: Mirror, ledger: Ledger) -> tuple[list[Attempt], bool]:
        """Place what fits, and say whether there may be more.

        Decided from memory, then held against the rows, which are locked until the commit: an executor that is not as
        it was remembered gets nothing, a job that is not PENDING any more no attempt. Last, what the database counts
        on those executors is held against what they have. Raises WrongMemory where that is more.
        """
        mirror.release_due(ledger.now)
        placements, more = mirror.state.place(PLACEMENTS_PER_PASS)
        if not placements:
            return [], more
        names = {placement.executor_id for placement in placements}
        rows = dict(ledger.lock_executors(names))
        changed = {name for name in names if not mirror.agrees(name, rows.get(name))}
        placed = ledger.place([item for item in placements if item.executor_id not in changed])
        for attempt in placed:
            mirror.take_attempt(attempt, ledger.now)
        made = {attempt.job_id for attempt in placed}
        refused = [item for item in placements if item.job_id not in made]
        for item in refused:
            if item.executor_id in changed:
                mirror.state.placement_refused(item.job_id)
            else:
                mirror.doubt(item.job_id)
        for name in changed:
            mirror.set_executor(name, rows.get(name))
        _check_room([row for name, row in rows.items() if name not in changed], placed)
        return placed, more or bool(refused)


def _check_room(executors: Sequence[Executor], placed: Sequence[Attempt]) -> None:
    """Holds what was placed against what the database counts on those executors. Raises WrongMemory."""
    if placed and (over := snapshot.overcommitted(executors)):
        raise WrongMemory(f"{over[0].name} would have got more than it has; nothing was placed.")
    gpus_given = {attempt.executor_id for attempt in placed if attempt.gpu_indices and attempt.executor_id}
    if gpus_given and (shared := snapshot.sharing_gpus(gpus_given)):
        raise WrongMemory(f"A GPU of executor {shared[0]} would have been given twice; nothing was placed.")


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _waiting(cluster: Cluster, now: datetime) -> dict[str, Any]:
    """The jobs that still wait, after this pass, and why."""
    pending = Job.objects.filter(state=State.PENDING).order_by("-priority", "id")
    reasons = [{"job_id": str(job.id), "reason": cluster.why_waiting(job, now)} for job in pending[:REASONS_IN_REPLY]]
    return {"waiting": reasons, "waiting_count": pending.count()}
