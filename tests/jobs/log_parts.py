"""A job whose log the agent's own writer puts into Redis, for tests of the archive."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis
import redis.asyncio
from asgiref.sync import async_to_sync

from agent.batch import Batch
from agent.logs import LogWriter, Position
from executors import broker
from executors.broker import keys
from jobs import services
from jobs.archiver import archive_due
from jobs.lifecycle import State
from jobs.logs import read_log
from jobs.models import Job, LogChunk
from jobs.submission import parse_submission

LIMIT = 64 * 1024**2


def make_job() -> Job:
    job = services.submit(parse_submission({"docker_image": "alpine"}))
    Job.objects.filter(id=job.id).update(state=State.RUNNING, attempt_number=1)
    job.refresh_from_db()
    return job


def line(number: int, width: int = 0) -> str:
    """Line `number`, filled up to `width` characters."""
    return f"2026-11-24T13:42:{number // 1_000_000:02}.{number % 1_000_000:06}Z stdout line {number}".ljust(width, ".")


@asynccontextmanager
async def writing(job: Job, attempt: int = 1, limit: int = LIMIT) -> AsyncIterator[LogWriter]:
    """The agent's writer, opened."""

    async def once(call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    async with broker.async_client() as client:
        writer = LogWriter(client, keys(), str(job.id), attempt, limit_bytes=limit, patiently=once)
        await writer.open()
        yield writer


async def append(writer: LogWriter, lines: Sequence[str]) -> None:
    await writer.append(Batch(text.encode() for text in lines), Position(), Position())


@async_to_sync
async def write(
    job: Job, lines: Sequence[str], attempt: int = 1, limit: int = LIMIT, batch: int = 5000, complete: bool = False
) -> None:
    async with writing(job, attempt, limit) as writer:
        for start in range(0, len(lines), batch):
            await append(writer, lines[start : start + batch])
        if complete:
            await writer.close()


def archive_all(client: redis.Redis) -> None:
    """Rounds until all that Redis has is archived, however young it is."""
    while waiting := client.zrange(keys().logs_to_archive, 0, -1):
        client.zadd(keys().logs_to_archive, dict.fromkeys(waiting, 0))
        archive_due(client)


def whole_log(client: redis.Redis, job: Job, limit: int = 1000) -> list[str]:
    """All lines, read page by page."""
    lines: list[str] = []
    page = read_log(client, job.id, 0, limit)
    while page.lines:
        lines += page.lines
        page = read_log(client, job.id, page.next_offset, limit)
    return lines


def spans(job: Job) -> list[tuple[int, int]]:
    """The first line and the count of each chunk."""
    return list(LogChunk.objects.filter(job=job).order_by("first").values_list("first", "count"))
