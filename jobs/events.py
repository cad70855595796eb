"""The stream of events. Each leader reads it with a consumer group of its own, from the oldest that is there: what its
predecessor applied is deleted, all else is new to it. So one that was deposed and does not know it yet takes nothing
from its successor."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from agent.protocol import FIELD, Event, MalformedMessage, UnknownMessage, decode
from executors import broker

logger = logging.getLogger(__name__)

BATCH = 2000
"""Events applied in one transaction at most."""

CONSUMER = "scheduler"
"""The one consumer of a group, so that a leader that starts over finds what it read and did not acknowledge."""


@dataclass(slots=True)
class Batch:
    """Events in their order. `entry_ids` are all that was read, the unreadable ones too; `drained` says that nothing
    older than `read_at`, a time of the scheduler's clock, is left in the stream."""

    events: list[Event] = field(default_factory=list)
    entry_ids: list[bytes] = field(default_factory=list)
    drained: bool = False
    read_at: float = 0.0


def group_of(term: int) -> str:
    return f"{CONSUMER}:{term}"


def receive_unacknowledged(client: redis.Redis, term: int) -> Batch:
    """What was read before in this term and not acknowledged; empty when there is none."""
    return _read(client, term, b"0", None)


def receive(client: redis.Redis, term: int, block_seconds: float) -> Batch:
    """New events; waits up to `block_seconds` for the first (not at all for 0)."""
    batch = _read(client, term, b">", int(block_seconds * 1000) or None)
    batch.drained = len(batch.entry_ids) < BATCH
    return batch


def ensure_group(client: redis.Redis, term: int) -> None:
    """Make the stream and the term's group where they are missing, and take earlier leaders theirs."""
    stream, group = broker.keys().events, group_of(term)
    try:
        client.xgroup_create(stream, group, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    groups: Any = client.xinfo_groups(stream)
    for other in groups:
        name = other["name"].decode()
        of_term = name.rpartition(":")[2]
        if name != group and not (of_term.isdecimal() and int(of_term) > term):
            client.xgroup_destroy(stream, name)


def acknowledge(client: redis.Redis, term: int, entry_ids: Sequence[bytes]) -> None:
    """Done with these, after the commit that applied them: they are deleted."""
    if entry_ids:
        pipeline = client.pipeline()
        pipeline.xack(broker.keys().events, group_of(term), *entry_ids)
        pipeline.xdel(broker.keys().events, *entry_ids)
        pipeline.execute()


def _read(client: redis.Redis, term: int, after: bytes, block_ms: int | None) -> Batch:
    stream = broker.keys().events
    answer: Any = client.xreadgroup(group_of(term), CONSUMER, {stream: after}, count=BATCH, block=block_ms)
    batch = Batch()
    for entry_id, fields in (entry for _, entries in answer or () for entry in entries):
        batch.entry_ids.append(entry_id)
        # An entry that was deleted but not acknowledged comes back without fields.
        if event := _decode(entry_id, fields or {}):
            batch.events.append(event)
    return batch


def _decode(entry_id: bytes, fields: dict[bytes, bytes]) -> Event | None:
    if not fields:
        return None
    try:
        message = decode(fields.get(FIELD, b""))
    except (MalformedMessage, UnknownMessage) as error:
        logger.warning("event %s skipped: %s", entry_id.decode(), error)
        return None
    if not isinstance(message, Event):
        logger.warning("event %s skipped: %s is a command", entry_id.decode(), message.kind)
        return None
    return message
