"""Reading a job's log by offset, or all of it as it grows, from Redis and the archive as if they were one.

Offsets are absolute: line 0 is the first that the job ever wrote, wherever it is now. Redis has the newest lines, the
archive what Redis no longer has. A line is `<RFC 3339, microseconds, UTC>Z <stdout|stderr> <text>`.

How a page is put together is said once, by `_page`, which asks for what it needs; who reads in a thread and who reads
in an event loop answer it in their own way.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis
import redis.asyncio
import redis.asyncio.client
from channels.db import database_sync_to_async
from django.utils import timezone

from agent.protocol import NOTED
from executors.broker import keys
from jobs import archive
from jobs.archive import ChunkGone
from jobs.lifecycle import FINAL
from jobs.models import Job, LogArchive, LogChunk

PAGE_LINES = 1000
FOLLOW_IDLE_SECONDS = 5.0
"""How long a follower waits for a hint before it looks by itself: hints are lost while Redis restarts."""
LATE_LINES_SECONDS = 10
"""How long after a job's end its log may still come where the agent never said that it is complete."""

_READ = """
local known = redis.call('HMGET', KEYS[2], 'dropped', 'complete', 'archived', 'lines', 'tail_stdout', 'tail_stderr')
local dropped = tonumber(known[1] or '0')
local total = dropped + redis.call('LLEN', KEYS[1])
local limit = tonumber(ARGV[2])
local first = ARGV[1] == '' and math.max(0, total - limit) or tonumber(ARGV[1])
local lines = {}
if first >= dropped and first < total and limit > 0 then
  lines = redis.call('LRANGE', KEYS[1], first - dropped, first - dropped + limit - 1)
end
local done = known[2] == '1'
local tails = {not done and known[5] or '', not done and known[6] or ''}
return {first, total, dropped, done and 1 or 0, tonumber(known[3] or '-1'), known[4] and 1 or 0, lines, tails}
"""
"""One script, so that a cut at the front between two reads cannot shift the offsets."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of a log. `first` is the offset of the first one, `total` how many the job ever wrote, `dropped` how
    many are gone from the front; `complete` says that the current attempt has ended and all it wrote is here.

    Where lines are missing from the middle, because the log grew over the archive's limit, the page ends with a line
    that says so and stands for `cut` lines.

    `tails`: what stdout and stderr have printed behind their last newlines so far; no lines yet, and not in `total`.
    """

    first: int
    lines: list[str]
    total: int
    dropped: int
    complete: bool
    cut: int = 0
    tails: tuple[str, str] = ("", "")

    @property
    def next_offset(self) -> int:
        """The offset to read on from."""
        return self.first + len(self.lines) + max(0, self.cut - 1)


def read_log(client: redis.Redis, job_id: UUID | str, offset: int | None = None, limit: int = PAGE_LINES) -> LogPage:
    """At most `limit` lines from `offset` on, or the last `limit` where it is None.

    An offset before the lines that are kept is moved to the first kept one, and one among lines that were cut from the
    middle to the first of these: compare `first`. One beyond the end stays where it is, so that a reader skips nothing
    and repeats nothing while a lost log is written anew. Raises RedisUnavailable and ArchiveUnavailable.
    """
    reading = _page(str(job_id), offset, limit)
    answer: Any = None
    while True:
        try:
            wanted = reading.send(answer)
        except StopIteration as end:
            page: LogPage = end.value
            return page
        match wanted:
            case _FromRedis():
                answer = client.eval(_READ, 2, *_script_arguments(job_id, wanted))
            case _Where():
                answer = _find(wanted)
            case _FromArchive():
                answer = _load(wanted)


async def read_log_async(
    client: redis.asyncio.Redis, job_id: UUID | str, offset: int | None = None, limit: int = PAGE_LINES
) -> LogPage:
    """As `read_log`, for an event loop."""
    reading = _page(str(job_id), offset, limit)
    answer: Any = None
    while True:
        try:
            wanted = reading.send(answer)
        except StopIteration as end:
            page: LogPage = end.value
            return page
        match wanted:
            case _FromRedis():
                answer = await client.eval(_READ, 2, *_script_arguments(job_id, wanted))
            case _Where():
                answer = await database_sync_to_async(_find)(wanted)
            case _FromArchive():
                answer = await asyncio.to_thread(_load, wanted)


async def follow_log(
    client: redis.asyncio.Redis, job_id: UUID | str, offset: int | None = 0, limit: int = PAGE_LINES
) -> AsyncIterator[LogPage]:
    """Pages of a log from `offset` on (None: from its last `limit` lines), each as soon as there are lines for it.

    Ends, with a page that may be empty, when the job has ended and its log is complete; a job that is tried again goes
    on. Raises RedisUnavailable and ArchiveUnavailable.
    """
    async with client.pubsub() as hints:
        # Subscribed before the first read, so that a line which comes between the two is hinted at.
        await _subscribe(hints, keys().log_channel(str(job_id)), keys().changes_channel)
        ending = await _look_at_job(job_id, None)
        while True:
            page = await read_log_async(client, job_id, offset, limit)
            offset = page.next_offset
            caught_up = offset >= page.total or not page.lines
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


# --- One page ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _FromRedis:
    """Wanted: lines from `offset` on (None: the last), with what Redis knows of the log. Answer: as _READ."""

    offset: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class _Where:
    """Wanted: what the archive has of the job, and which chunk holds the line. Answer: a _Place."""

    job_id: str
    line: int | None


@dataclass(frozen=True, slots=True)
class _FromArchive:
    """Wanted: the chunk's lines. Answer: a list of bytes, or None where the file is gone."""

    chunk: LogChunk


@dataclass(frozen=True, slots=True)
class _Place:
    lines: int
    complete: bool
    chunk: LogChunk | None


_Wanted = _FromRedis | _Where | _FromArchive


def _page(job_id: str, offset: int | None, limit: int) -> Generator[_Wanted, Any, LogPage]:
    """Puts a page together from the answers to what it yields."""
    first, held, dropped, complete, archived, exists, lines, unfinished = yield _FromRedis(offset, limit)
    stdout, stderr = _texts(unfinished)
    tails = stdout, stderr
    if first >= dropped and held >= archived >= 0:
        return LogPage(first, _texts(lines), held, 0, bool(complete), tails=tails)
    place: _Place = yield _Where(job_id, None)
    if not place.lines:
        if first < dropped:
            first, held, dropped, complete, archived, exists, lines, _ = yield _FromRedis(dropped, limit)
        return LogPage(first, _texts(lines), held, dropped, bool(complete), tails=tails)
    if archived < 0:
        held = 0  # Until the archiver has looked at a log that Redis has anew, its line numbers are not sure.
    total = max(held, place.lines)
    complete = bool(complete) if exists else place.complete
    position = first = max(0, total - limit) if offset is None else offset
    collected: list[bytes] = []
    while len(collected) < limit and position < total:
        wanted = limit - len(collected)
        if dropped <= position < held:
            _, held, dropped, _, _, _, lines, _ = yield _FromRedis(position, wanted)
            if not lines and dropped <= position:
                break
        else:
            chunk: LogChunk | None = (yield _Where(job_id, position)).chunk
            if chunk is None:
                break
            known: list[bytes] | None = (yield _FromArchive(chunk)) if chunk.name else None
            if known is None and offset is not None:
                if collected:
                    break
                return LogPage(chunk.first, [_note(chunk)], total, 0, complete, cut=chunk.count)
            if known is None:
                position = first = chunk.end
                collected.clear()
                continue
            lines = known[position - chunk.first :][:wanted]
        collected += lines
        position += len(lines)
    return LogPage(first, _texts(collected), total, 0, complete, tails=tails)


def _find(wanted: _Where) -> _Place:
    log = LogArchive.objects.filter(job_id=wanted.job_id).values_list("lines", "complete").first()
    lines, complete = log or (0, False)
    chunk = None
    if wanted.line is not None:
        chunks = LogChunk.objects.filter(job_id=wanted.job_id, first__lte=wanted.line)
        chunk = chunks.order_by("-first").first()
    return _Place(lines, complete, chunk if chunk and chunk.end > (wanted.line or 0) else None)


def _load(wanted: _FromArchive) -> list[bytes] | None:
    try:
        return archive.read(wanted.chunk.name)
    except ChunkGone:
        return None


def _note(chunk: LogChunk) -> str:
    """The line in the place of lines that are missing."""
    count = f"{chunk.count:,} lines" if chunk.count > 1 else "1 line"
    size = f" ({chunk.bytes / 1024**2:,.1f} MB)" if chunk.bytes else ""
    are = "are" if chunk.count > 1 else "is"
    if chunk.name:
        why = f"the archive no longer has {chunk.name}"
    elif chunk.bytes:
        why = "the log grew over its limit, and its middle was cut"
    else:
        why = "they were lost before they were archived"
    return f"{chunk.began} {NOTED} {count}{size} {are} missing here: {why}"


def _texts(lines: list[bytes]) -> list[str]:
    return [line.decode(errors="replace") for line in lines]


def _script_arguments(job_id: UUID | str, wanted: _FromRedis) -> tuple[str, str, str | int, int]:
    log_keys = keys().job_logs(str(job_id)), keys().job_logs_meta(str(job_id))
    return (*log_keys, "" if wanted.offset is None else wanted.offset, wanted.limit)
