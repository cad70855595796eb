"""The stream of events, read by one consumer group whose one consumer bears the same name whoever leads."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from agent.protocol import CONSUMER_GROUP, FIELD, Event, MalformedMessage, UnknownMessage, decode
from executors import broker

logger = logging.getLogger(__name__)

BATCH = 1000
"""Events applied in one transaction at most."""


@dataclass(slots=True)
class Batch:
    """Events in their order. `entry_ids` are all that was read, the unreadable ones too; `drained` says that nothing
    older than now is left in the stream."""

    events: list[Event] = field(default_factory=list)
    entry_ids: list[bytes] = field(default_factory=list)
    drained: bool = False


def receive_unacknowledged(client: redis.Redis) -> Batch:
    """What was read before and not acknowledged, by us or by the last leader; empty when there is none."""
    return _read(client, b"0", None)


def receive(client: redis.Redis, block_seconds: float) -> Batch:
    """New events; waits up to `block_seconds` for the first (not at all for 0)."""
    batch = _read(client, b">", int(block_seconds * 1000) or None)
    batch.drained = len(batch.entry_ids) < BATCH
    return batch


def ensure_group(client: redis.Redis) -> bool:
    """Make the stream and its group where they are missing. True where they were: Redis was new, or was emptied."""
    try:
        client.xgroup_create(broker.keys().events, CONSUMER_GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
        return False
    return True


def acknowledge(client: redis.Redis, entry_ids: Sequence[bytes]) -> None:
    """Done with these, after the commit that applied them: they are deleted."""
    if entry_ids:
        pipeline = client.pipeline()
        pipeline.xack(broker.keys().events, CONSUMER_GROUP, *entry_ids)
        pipeline.xdel(broker.keys().events, *entry_ids)
        pipeline.execute()


def _read(client: redis.Redis, after: bytes, block_ms: int | None) -> Batch:
    stream = broker.keys().events
    answer: Any = client.xreadgroup(CONSUMER_GROUP, CONSUMER_GROUP, {stream: after}, count=BATCH, block=block_ms)
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
