"""Reading a job's log from Redis: a page of it by offset, or all of it as it grows.

Offsets are absolute: line 0 is the first that the job ever wrote, and stays so when lines are dropped from the front.
A line is `<RFC 3339, microseconds, UTC>Z <stdout|stderr> <text>`.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis
import redis.asyncio
import redis.asyncio.client
from django.utils import timezone

from executors.broker import keys
from jobs.lifecycle import FINAL
from jobs.models import Job

PAGE_LINES = 1000
FOLLOW_IDLE_SECONDS = 5.0
"""How long a follower waits for a hint before it looks by itself: hints are lost while Redis restarts."""
LATE_LINES_SECONDS = 10
"""How long after a job's end its log may still come where the agent never said that it is complete."""

_READ = """
local dropped = tonumber(redis.call('HGET', KEYS[2], 'dropped') or '0')
local complete = redis.call('HGET', KEYS[2], 'complete') == '1'
local total = dropped + redis.call('LLEN', KEYS[1])
local limit = tonumber(ARGV[2])
local first = ARGV[1] == '' and total - limit or tonumber(ARGV[1])
first = math.max(first, dropped)
local lines = {}
if first < total and limit > 0 then
  lines = redis.call('LRANGE', KEYS[1], first - dropped, first - dropped + limit - 1)
end
return {first, total, dropped, complete and 1 or 0, lines}
"""
"""One script, so that a cut at the front between two reads cannot shift the offsets."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of a log. `first` is the offset of the first one, `total` how many the job ever wrote, `dropped` how
    many are gone from the front; `complete` says that the current attempt has ended and all it wrote is here."""

    first: int
    lines: list[str]
    total: int
    dropped: int
    complete: bool

    @property
    def next_offset(self) -> int:
        """The offset to read on from."""
        return self.first + len(self.lines)


def read_log(client: redis.Redis, job_id: UUID | str, offset: int | None = None, limit: int = PAGE_LINES) -> LogPage:
    """At most `limit` lines from `offset` on, or the last `limit` where it is None.

    An offset before the lines that are kept is moved to the first kept one: compare `first`. One beyond the end stays
    where it is, so that a reader skips nothing and repeats nothing while a lost log is written anew. Raises
    RedisUnavailable.
    """
    return _page(client.eval(_READ, 2, *_script_arguments(job_id, offset, limit)))


async def read_log_async(
    client: redis.asyncio.Redis, job_id: UUID | str, offset: int | None = None, limit: int = PAGE_LINES
) -> LogPage:
    """As `read_log`, for an event loop."""
    return _page(await client.eval(_READ, 2, *_script_arguments(job_id, offset, limit)))


async def follow_log(
    client: redis.asyncio.Redis, job_id: UUID | str, offset: int | None = 0, limit: int = PAGE_LINES
) -> AsyncIterator[LogPage]:
    """Pages of a log from `offset` on (None: from its last `limit` lines), each as soon as there are lines for it.

    Ends, with a page that may be empty, when the job has ended and its log is complete; a job that is tried again goes
    on. Raises RedisUnavailable.
    """
    async with client.pubsub() as hints:
        # Subscribed before the first read, so that a line which comes between the two is hinted at.
        await _subscribe(hints, keys().log_channel(str(job_id)), keys().changes_channel)
        ending = await _look_at_job(job_id, None)
        while True:
            page = await read_log_async(client, job_id, offset, limit)
            offset = page.next_offset
            caught_up = offset >= page.total
            over = caught_up and ending is not None and ending.is_over(page.complete)
            if page.lines or over:
                yield page
            if over:
                return
            if caught_up:
                job_may_have_changed = await _wait_for_hint(hints, str(job_id))
                if job_may_have_changed or page.complete:
                    ending = await _look_at_job(job_id, ending)


@dataclass(frozen=True, slots=True)
class _Ending:
    """A job that has ended, and from when on no more of its log is expected."""

    wrote_something: bool
    give_up_at: float

    def is_over(self, complete: bool) -> bool:
        return complete or not self.wrote_something or time.monotonic() >= self.give_up_at


async def _look_at_job(job_id: UUID | str, before: _Ending | None) -> _Ending | None:
    """None for a job that has not ended; what was known `before` keeps its clock."""
    if before is not None:
        return before
    row = await Job.objects.filter(id=job_id).values_list("state", "attempt_number", "finished_at").afirst()
    if row is None:
        return _Ending(wrote_something=False, give_up_at=0)
    state, attempt_number, finished_at = row
    if state not in FINAL:
        return None
    ago = (timezone.now() - finished_at).total_seconds() if finished_at else 0
    return _Ending(attempt_number > 0, time.monotonic() + LATE_LINES_SECONDS - max(0, ago))


async def _subscribe(hints: redis.asyncio.client.PubSub, *channels: str) -> None:
    """Returns when Redis has confirmed each subscription."""
    await hints.subscribe(*channels)
    confirmed = 0
    while confirmed < len(channels):
        message = await hints.get_message(timeout=FOLLOW_IDLE_SECONDS)
        if message is None:
            raise redis.TimeoutError("Redis does not confirm a subscription.")
        confirmed += message["type"] == "subscribe"


async def _wait_for_hint(hints: redis.asyncio.client.PubSub, job_id: str) -> bool:
    """Wait until the log may have grown or the job changed; True where the job may have. Takes all hints there are."""
    deadline = time.monotonic() + FOLLOW_IDLE_SECONDS
    woken = job_may_have_changed = False
    while True:
        left = 0.0 if woken else deadline - time.monotonic()
        message = await hints.get_message(timeout=max(0.0, left))
        if message is None and (woken or left <= 0):
            return job_may_have_changed or not woken
        if message is None or message["type"] != "message":
            continue
        is_change = message["channel"].decode() == keys().changes_channel
        concerns_job = not is_change or job_id in json.loads(message["data"]).get("jobs", ())
        woken |= concerns_job
        job_may_have_changed |= is_change and concerns_job


def _script_arguments(job_id: UUID | str, offset: int | None, limit: int) -> tuple[str, str, str | int, int]:
    log_keys = keys().job_logs(str(job_id)), keys().job_logs_meta(str(job_id))
    return (*log_keys, "" if offset is None else offset, limit)


def _page(answer: list[Any]) -> LogPage:
    first, total, dropped, complete, lines = answer
    return LogPage(first, [line.decode(errors="replace") for line in lines], total, dropped, bool(complete))
