"""What a leader reads from Redis and says to it, beside its passes where one follows another.

The order of a pass stays: commit, send, acknowledge. Only, while the database works for one pass, the one before is
sent and acknowledged, and the events of the one after are read. Those count for nothing until they are received: a
leader that starts over forgets them and reads them again, as it does with all that was not acknowledged.
"""

import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Threads
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

import redis

from agent.protocol import Command, Event, Heartbeat, Hello, PassRequest
from executors import broker
from jobs import commands, crashpoints, events
from jobs.models import Attempt

logger = logging.getLogger(__name__)

REPLY_KEPT_SECONDS = 60


@dataclass(slots=True)
class Delivery:
    """What is to be said after a pass was committed. `lost` executors must never see their commands up to these
    numbers, `strangers` are to introduce themselves; `waiting` is for whoever asked for the pass."""

    batch: events.Batch
    placed: Sequence[Attempt]
    commands: dict[str, list[Command]]
    lost: dict[str, int]
    strangers: set[str]
    changed_jobs: set[Any]
    changed_executors: set[str]
    waiting: dict[str, Any] = field(default_factory=dict)


class AtOnce(Threads):
    """In place of a thread: does what it is given before it goes on, and raises what that raises."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Wire:
    """`beside` is one thread, which does one thing after the other; `clock` says when a batch was read."""

    def __init__(self, term: int, clock: Callable[[], float], beside: Threads) -> None:
        self._term, self._clock, self._beside = term, clock, beside
        self._ahead: Future[events.Batch] | None = None
        self._delivery: Future[None] | None = None

    def receive(self, block_seconds: float) -> events.Batch:
        """The next events: those that were read ahead, or else new ones; waits up to `block_seconds` for the first."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and (batch := ahead.result()).entry_ids:
            return batch
        return self._read(block_seconds)

    def read_ahead(self) -> None:
        """Read beside the pass what `receive` will return next."""
        self._ahead = self._beside.submit(self._read, 0.0)

    def deliver(self, delivery: Delivery, *, beside: bool) -> None:
        """Say all this, `beside` the next pass or before anything else. Raises what went wrong with it, or with the one
        before it; then all that is outstanding has to be sent again."""
        last, self._delivery = self._delivery, None
        if last is not None:
            last.result()
        if beside:
            self._delivery = self._beside.submit(_say, self._term, delivery)
        else:
            _say(self._term, delivery)

    def forget(self) -> None:
        """Wait for what is under way; what was read ahead counts as not read, and what went wrong is nobody's."""
        under_way: list[Future[Any]] = [future for future in (self._ahead, self._delivery) if future is not None]
        wait(under_way)
        self._ahead = self._delivery = None

    def _read(self, block_seconds: float) -> events.Batch:
        batch = events.receive(broker.client(), self._term, block_seconds)
        batch.read_at = self._clock()
        return batch


def _say(term: int, delivery: Delivery) -> None:
    client, batch = broker.client(), delivery.batch
    reach("before-send", batch.events, delivery.placed)
    commands.trim(client, _passed(batch.events) | delivery.lost)
    commands.send(client, delivery.commands)
    commands.ask_for_hello(client, delivery.strangers)
    reach("before-acknowledge", batch.events, delivery.placed)
    events.acknowledge(client, term, batch.entry_ids)
    _answer(client, delivery)
    if delivery.changed_jobs or delivery.changed_executors:
        broker.publish_changes(jobs=delivery.changed_jobs, executors=delivery.changed_executors)


def reach(moment: str, batch: Sequence[Event], placed: Sequence[Attempt] = ()) -> None:
    """Where a test may have the process killed: at a moment of a pass that places, runs or finishes an attempt."""
    if placed:
        crashpoints.reach(f"placing-{moment}")
    for kind in {event.kind for event in batch}:
        crashpoints.reach(f"{kind}-{moment}")


def _passed(batch: Sequence[Event]) -> dict[str, int]:
    """The last command each agent says it has passed."""
    return {event.executor_id: event.last_command for event in batch if isinstance(event, Hello | Heartbeat)}


def _answer(client: redis.Redis, delivery: Delivery) -> None:
    """Answer whoever asked for a pass."""
    requests = [event for event in delivery.batch.events if isinstance(event, PassRequest)]
    if not requests:
        return
    placed = [
        {
            "job_id": str(attempt.job_id),
            "attempt": attempt.number,
            "executor_id": attempt.executor_id,
            "executor_name": attempt.executor_name,
            "gpu_indices": attempt.gpu_indices,
        }
        for attempt in delivery.placed
    ]
    body = json.dumps({"placed": placed, **delivery.waiting})
    for request in requests:
        if not request.reply_to.startswith(broker.keys().reply("")):
            logger.warning("pass request skipped: %r is not a key for replies", request.reply_to)
            continue
        with client.pipeline() as pipeline:
            pipeline.rpush(request.reply_to, body)
            pipeline.expire(request.reply_to, REPLY_KEPT_SECONDS)
            pipeline.execute()
