"""The leader's work, pass by pass: receive, apply, expire, place, commit, send.

Commit first, then send, then acknowledge: whatever dies in between, the next pass or the next leader finds in the
database what is to be sent, and in the stream what is to be applied, and doing either twice changes nothing.

One transaction a pass. It begins with the lease, so that a scheduler that no longer leads writes nothing.
"""

import heapq
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from agent.protocol import Event, Heartbeat, Hello, PassRequest
from executors import broker, registry
from executors.models import Executor
from jobs import commands, crashpoints, events, leadership, observing, queue, snapshot
from jobs.applying import apply
from jobs.lifecycle import EndReason, State
from jobs.models import Attempt, Job
from jobs.reconcile import Token
from jobs.scheduling.placement import Placement, Placer, Strategy
from jobs.snapshot import Cluster, LiveAttempt
from jobs.transitions import Ledger

logger = logging.getLogger(__name__)

MAX_BLOCK_SECONDS = 4.0
"""The longest wait for an event; the Redis client gives up on an answer after 5 s."""

PLACEMENTS_PER_PASS = 500
"""Bounds the transaction, which on SQLite keeps every other writer waiting; the next pass follows at once."""

TIMEOUT_MARGIN = timedelta(minutes=5)
"""Time-outs are the agent's business. The scheduler steps in this much later, by its own clock alone: the clocks of
nodes may differ by minutes. An attempt that it told to stop and that never ran is given up after this time again."""

STOP_AGAIN_SECONDS = 20
"""How long after the grace period a container that is still held is told to stop again."""

REPLY_KEPT_SECONDS = 60
REASONS_IN_REPLY = 100


@dataclass(slots=True)
class Pass:
    """What one pass did. `more` says that another should follow at once."""

    placed: list[Attempt] = field(default_factory=list)
    more: bool = False


class Scheduler:
    """The leader's memory between passes; everything in it can be lost without harm.

    `interruptible` wraps the wait for events, the one moment at which the process may be told to stop.
    """

    def __init__(
        self,
        holder: str,
        term: int,
        clock: Callable[[], float] = time.monotonic,
        interruptible: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.holder, self.term = holder, term
        self._clock, self._interruptible = clock, interruptible
        self._strategy = Strategy(settings.PLACEMENT_STRATEGY)
        self._heard: dict[str, float] = {}
        self._stopped: dict[tuple[str, Token], float] = {}
        self.start_over()

    def start_over(self) -> None:
        """After anything went wrong, and at first: read again what was not acknowledged, send again what is
        outstanding, and give every executor a full period before it counts as lost."""
        self._unacknowledged = True
        self._resend = True
        self._due: list[datetime] | None = None
        self._quiet_since = self._last_pass = self._clock()

    def run_pass(self, block_seconds: float = 0) -> Pass:
        """One pass; waits up to `block_seconds` for something to happen first.

        Raises LostLeadership, redis.RedisError or a database error: nothing is lost then, and after `start_over` the
        next pass takes it up again.
        """
        client = broker.client()
        batch = self._receive(client, block_seconds)
        requests = [event for event in batch.events if isinstance(event, PassRequest)]
        now = timezone.now()
        _reach("received", batch.events)
        with transaction.atomic():
            leadership.renew(self.holder, self.term)
            outcome = apply(batch.events, now, self._may_stop)
            ledger = Ledger(now)
            executors = snapshot.load_executors()
            lost = self._lose_silent(executors, ledger) if batch.drained else []
            live = self._expire(snapshot.load_live(), lost, ledger)
            cluster = snapshot.build_cluster(executors, live)
            placements, more = self._choose(cluster, now)
            placed = ledger.place(placements) if placements else []
            waiting = _waiting(cluster, now) if requests else {}
            outcome.add(ledger.outcome)
            if self._due is None:
                self._due = _due_later(now)
            if self._resend:
                commands.merge(outcome.commands, commands.outstanding())
            _reach("before-commit", batch.events, placed)
        self._last_pass = self._clock()
        observing.tally.add(outcome.waits, outcome.ended)
        if outcome.lines:
            logger.info("%s", "\n".join(outcome.lines))
        for time_due in outcome.requeued:
            heapq.heappush(self._due, time_due)

        _reach("before-send", batch.events, placed)
        commands.trim(client, _passed(batch.events) | {executor.id: executor.last_command for executor in lost})
        commands.send(client, outcome.commands)
        self._resend = False
        commands.ask_for_hello(client, outcome.strangers)
        _reach("before-acknowledge", batch.events, placed)
        events.acknowledge(client, batch.entry_ids)
        _answer(client, requests, placed, waiting)
        if outcome.changed_jobs or outcome.changed_executors:
            broker.publish_changes(jobs=outcome.changed_jobs, executors=outcome.changed_executors)
        return Pass(placed, more=more or not batch.drained)

    # --- Receive ---------------------------------------------------------------------------------------------

    def _receive(self, client: redis.Redis, block_seconds: float) -> events.Batch:
        if self._unacknowledged:
            events.ensure_group(client)
            batch = events.receive_unacknowledged(client)
            if batch.entry_ids:
                return batch
            self._unacknowledged = False
        block_seconds = min(block_seconds, MAX_BLOCK_SECONDS, settings.LEASE_SECONDS / 3, self._seconds_to_next_due())
        try:
            with self._interruptible():
                batch = events.receive(client, block_seconds)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            logger.warning("Redis was emptied; everything outstanding is sent again")
            self.start_over()
            events.ensure_group(client)
            return events.Batch()
        if self._clock() - self._last_pass > block_seconds + settings.HEARTBEAT_INTERVAL:
            logger.warning("this process stood still; every executor gets a full period again")
            self._quiet_since = self._clock()
        heard = self._clock()
        self._heard.update(
            (executor_id, heard) for event in batch.events if (executor_id := getattr(event, "executor_id", None))
        )
        return batch

    def _seconds_to_next_due(self) -> float:
        """How long until a re-queued job may be placed again; infinite where none waits for its time."""
        if not self._due:
            return float("inf")
        return max(0.0, (self._due[0] - timezone.now()).total_seconds())

    # --- Apply -----------------------------------------------------------------------------------------------

    def _may_stop(self, executor_id: str, token: Token, at_once: bool) -> bool:
        """Whether to tell an agent now to stop what it should not hold: again only after it had time to obey, and for
        the first time, too, unless `at_once`."""
        now, name = self._clock(), (executor_id, token)
        patience = settings.ABORT_GRACE_SECONDS + STOP_AGAIN_SECONDS
        forget = patience + settings.MISSED_HEARTBEATS_TO_LOSE * settings.HEARTBEAT_INTERVAL
        self._stopped = {key: at for key, at in self._stopped.items() if now - at < forget}
        told = self._stopped.get(name)
        if told is not None and now - told < patience:
            return False
        self._stopped[name] = now
        return at_once or told is not None

    # --- Expire ----------------------------------------------------------------------------------------------

    def _lose_silent(self, executors: Sequence[Executor], ledger: Ledger) -> list[Executor]:
        """The executors of which nothing was heard for three heartbeats, now marked as lost."""
        patience = settings.MISSED_HEARTBEATS_TO_LOSE * settings.HEARTBEAT_INTERVAL
        now = self._clock()
        silent = [
            executor
            for executor in executors
            if executor.state != Executor.State.LOST
            and now - max(self._heard.get(executor.id, self._quiet_since), self._quiet_since) > patience
        ]
        ledger.outcome.lines += registry.lose(silent, ledger.now)
        ledger.outcome.changed_executors |= {executor.id for executor in silent}
        return silent

    def _expire(self, live: Sequence[LiveAttempt], lost: Sequence[Executor], ledger: Ledger) -> list[LiveAttempt]:
        """Close the attempts on lost executors, stop those that overran or that a person wants ended; returns those
        that still hold resources."""
        lost_ids = {executor.id for executor in lost} | {None}
        closing = {attempt.id for attempt in live if attempt.executor_id in lost_ids}
        given_up = {attempt.id for attempt in live if _starts_for(attempt, ledger.now, TIMEOUT_MARGIN)} - closing
        closed = closing | given_up
        stopping = {
            attempt.id: why for attempt in live if attempt.id not in closed and (why := _to_stop(attempt, ledger.now))
        }
        if closed:
            for attempt in ledger.load(Q(id__in=closed)):
                forgotten = "" if attempt.executor_id else f"The executor {attempt.executor_name} was forgotten."
                lost_or_stuck = EndReason.EXECUTOR_LOST if attempt.id in closing else EndReason.START_TIMEOUT
                ledger.close(attempt, lost_or_stuck, forgotten)
        if stopping:
            for attempt in ledger.load(Q(id__in=stopping)):
                ledger.request_stop(attempt, stopping[attempt.id])
        ledger.write()
        return [attempt for attempt in live if attempt.id not in closed]

    # --- Place -----------------------------------------------------------------------------------------------

    def _choose(self, cluster: Cluster, now: datetime) -> tuple[list[Placement], bool]:
        """The placements of this pass, taken from what is free in `cluster`, and whether there may be more."""
        while self._due and self._due[0] <= now:
            heapq.heappop(self._due)
        placer = Placer(cluster.executors, self._strategy)
        placements: list[Placement] = []
        after: queue.Position | None = None
        while True:
            cpu, memory = placer.largest_room()
            if cpu <= 0 or memory <= 0:
                return placements, False
            chunk = queue.read(now, after, placer.blocked, cpu, memory)
            placements += [placement for job in chunk if (placement := placer.place(job)) is not None]
            if len(chunk) < queue.CHUNK:
                return placements, False
            if len(placements) >= PLACEMENTS_PER_PASS:
                return placements, True
            after = queue.Position(chunk[-1].priority, chunk[-1].id)


def _reach(moment: str, batch: Sequence[Event], placed: Sequence[Attempt] = ()) -> None:
    """Where a test may have the process killed: at a moment of a pass that places, runs or finishes an attempt."""
    if placed:
        crashpoints.reach(f"placing-{moment}")
    for kind in {event.kind for event in batch}:
        crashpoints.reach(f"{kind}-{moment}")


def _to_stop(attempt: LiveAttempt, now: datetime) -> str:
    """Why to stop the attempt, as StopAttempt has it; '' where it may go on or was told already."""
    if attempt.stop_command is not None:
        return ""
    if attempt.abort_requested_at is not None:
        return "abort"
    if _starts_for(attempt, now):
        return "start_timeout"
    return "timeout" if _is_overdue(attempt, now) else ""


def _starts_for(attempt: LiveAttempt, now: datetime, longer: timedelta = timedelta(0)) -> bool:
    """Whether it has been STARTING for longer than it may, or that much longer."""
    most = timedelta(seconds=settings.STARTING_TIMEOUT_SECONDS) + longer
    return attempt.state == State.STARTING and now > attempt.placed_at + most


def _is_overdue(attempt: LiveAttempt, now: datetime) -> bool:
    if attempt.running_since is None:
        return False
    most = timedelta(seconds=attempt.timeout_seconds + settings.ABORT_GRACE_SECONDS) + TIMEOUT_MARGIN
    return now > attempt.running_since + most


def _due_later(now: datetime) -> list[datetime]:
    """When the re-queued jobs that wait for their time may be placed: a heap."""
    times = Job.objects.filter(state=State.PENDING, not_before__gt=now).values_list("not_before", flat=True)
    return sorted(time_due for time_due in times if time_due is not None)


def _passed(batch: Iterable[Event]) -> dict[str, int]:
    """The last command each agent says it has passed."""
    return {event.executor_id: event.last_command for event in batch if isinstance(event, Hello | Heartbeat)}


# --- Answering whoever asked for a pass --------------------------------------------------------------------------


def _waiting(cluster: Cluster, now: datetime) -> dict[str, Any]:
    """The jobs that still wait, after this pass, and why."""
    pending = Job.objects.filter(state=State.PENDING).order_by("-priority", "id")
    reasons = [{"job_id": str(job.id), "reason": cluster.why_waiting(job, now)} for job in pending[:REASONS_IN_REPLY]]
    return {"waiting": reasons, "waiting_count": pending.count()}


def _answer(
    client: redis.Redis, requests: Sequence[PassRequest], placed: Sequence[Attempt], waiting: dict[str, Any]
) -> None:
    body = {
        "placed": [
            {
                "job_id": str(attempt.job_id),
                "attempt": attempt.number,
                "executor_id": attempt.executor_id,
                "executor_name": attempt.executor_name,
                "gpu_indices": attempt.gpu_indices,
            }
            for attempt in placed
        ],
        **waiting,
    }
    for request in requests:
        if not request.reply_to.startswith(broker.keys().reply("")):
            logger.warning("pass request skipped: %r is not a key for replies", request.reply_to)
            continue
        with client.pipeline() as pipeline:
            pipeline.rpush(request.reply_to, json.dumps(body))
            pipeline.expire(request.reply_to, REPLY_KEPT_SECONDS)
            pipeline.execute()
