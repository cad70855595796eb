"""Reading a job's log by offset, and following it until the job ends."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from asgiref.sync import sync_to_async
from django.utils import timezone

from executors import broker
from executors.broker import keys
from jobs import logs, services
from jobs.lifecycle import State
from jobs.logs import LogPage, follow_log, read_log
from jobs.models import Job
from jobs.submission import parse_submission

JOB = "0190a000-0000-7000-8000-000000000001"


def line(number: int) -> str:
    return f"2026-11-24T13:42:48.{number:06}Z stdout line {number}"


def write(client: redis.Redis, job_id: object, *numbers: int, dropped: int = 0, complete: bool = False) -> None:
    """Lines as the agent ships them: list and meta in one step, then the hint."""
    with client.pipeline() as pipe:
        if numbers:
            pipe.rpush(keys().job_logs(str(job_id)), *[line(number) for number in numbers])
        if dropped:
            pipe.ltrim(keys().job_logs(str(job_id)), dropped, -1)
            pipe.hincrby(keys().job_logs_meta(str(job_id)), "dropped", dropped)
        pipe.hset(keys().job_logs_meta(str(job_id)), "complete", int(complete))
        pipe.publish(keys().log_channel(str(job_id)), "grown")
        pipe.execute()


# --- By offset -------------------------------------------------------------------------------------------------


def test_a_log_is_read_from_any_line_on(db: None, redis_client: redis.Redis) -> None:
    write(redis_client, JOB, *range(10))
    page = read_log(redis_client, JOB, offset=4, limit=3)
    assert page == LogPage(first=4, lines=[line(4), line(5), line(6)], total=10, dropped=0, complete=False)
    assert page.next_offset == 7


def test_without_an_offset_the_tail_is_read(db: None, redis_client: redis.Redis) -> None:
    write(redis_client, JOB, *range(10))
    page = read_log(redis_client, JOB, limit=2)
    assert (page.first, page.lines) == (8, [line(8), line(9)])
    assert read_log(redis_client, JOB, limit=100).first == 0


def test_offsets_stay_when_lines_are_dropped_from_the_front(db: None, redis_client: redis.Redis) -> None:
    write(redis_client, JOB, *range(10), dropped=6)
    assert read_log(redis_client, JOB, offset=7).lines == [line(7), line(8), line(9)]
    page = read_log(redis_client, JOB, offset=0)
    assert (page.first, page.dropped, page.total, page.next_offset) == (6, 6, 10, 10)
    assert read_log(redis_client, JOB, limit=100).first == 6


def test_reading_beyond_the_end_gives_nothing_and_stays_there(db: None, redis_client: redis.Redis) -> None:
    write(redis_client, JOB, 0, 1)
    page = read_log(redis_client, JOB, offset=5)
    assert (page.lines, page.next_offset, page.total) == ([], 5, 2)


def test_a_job_without_a_log_has_an_empty_page(db: None, redis_client: redis.Redis) -> None:
    assert read_log(redis_client, JOB) == LogPage(first=0, lines=[], total=0, dropped=0, complete=False)


def test_a_complete_log_says_so(db: None, redis_client: redis.Redis) -> None:
    write(redis_client, JOB, 0, complete=True)
    assert read_log(redis_client, JOB).complete


def test_bytes_that_are_no_text_do_not_stop_the_reader(db: None, redis_client: redis.Redis) -> None:
    redis_client.rpush(keys().job_logs(JOB), b"t stdout \xff\xfe")
    assert read_log(redis_client, JOB).lines == ["t stdout \ufffd\ufffd"]


# --- Following -------------------------------------------------------------------------------------------------


@pytest.fixture
def job(transactional_db: None, redis_client: redis.Redis) -> Job:
    job = services.submit(parse_submission({"docker_image": "alpine"}))
    Job.objects.filter(id=job.id).update(state=State.RUNNING, attempt_number=1)
    return job


def end(job: Job, state: State = State.SUCCEEDED) -> None:
    Job.objects.filter(id=job.id).update(state=state, finished_at=timezone.now())
    broker.publish_changes(jobs=[job.id])


async def lines_of(pages: AsyncIterator[LogPage], count: int) -> list[str]:
    lines: list[str] = []
    while len(lines) < count:
        lines += (await anext(pages)).lines
    return lines


async def test_a_follower_gets_each_line_once_and_ends_with_the_job(job: Job, redis_client: redis.Redis) -> None:
    write(redis_client, job.id, 0, 1)
    async with broker.async_client() as client, asyncio.timeout(4):
        pages = follow_log(client, job.id)
        assert await lines_of(pages, 2) == [line(0), line(1)]
        write(redis_client, job.id, 2)
        assert await lines_of(pages, 1) == [line(2)]
        write(redis_client, job.id, 3, complete=True)
        assert await lines_of(pages, 1) == [line(3)]
        await sync_to_async(end)(job)
        assert [page.lines async for page in pages] == [[]]


async def test_a_log_longer_than_a_page_is_followed_whole(job: Job, redis_client: redis.Redis) -> None:
    write(redis_client, job.id, *range(25), complete=True)
    await sync_to_async(end)(job)
    async with broker.async_client() as client, asyncio.timeout(4):
        pages = [page async for page in follow_log(client, job.id, limit=10)]
    assert [len(page.lines) for page in pages] == [10, 10, 5]
    assert [text for page in pages for text in page.lines] == [line(number) for number in range(25)]


async def test_a_follower_may_begin_with_the_tail(job: Job, redis_client: redis.Redis) -> None:
    write(redis_client, job.id, *range(25), complete=True)
    await sync_to_async(end)(job)
    async with broker.async_client() as client, asyncio.timeout(4):
        pages = [page async for page in follow_log(client, job.id, None, limit=3)]
    assert [text for page in pages for text in page.lines] == [line(22), line(23), line(24)]


async def test_a_job_that_is_tried_again_is_followed_on(job: Job, redis_client: redis.Redis) -> None:
    write(redis_client, job.id, 0, complete=True)
    async with broker.async_client() as client, asyncio.timeout(4):
        pages = follow_log(client, job.id)
        assert await lines_of(pages, 1) == [line(0)]
        write(redis_client, job.id, 1, complete=False)
        assert await lines_of(pages, 1) == [line(1)]
        await pages.aclose()  # type: ignore[attr-defined]


async def test_a_job_aborted_before_it_ran_has_nothing_to_wait_for(job: Job, redis_client: redis.Redis) -> None:
    await Job.objects.filter(id=job.id).aupdate(attempt_number=0, state=State.PENDING)
    async with broker.async_client() as client, asyncio.timeout(4):
        pages = follow_log(client, job.id)
        following = asyncio.create_task(anext(pages))  # type: ignore[arg-type]
        await sync_to_async(end)(job, State.ABORTED)
        assert (await following).lines == []
        assert [page async for page in pages] == []


async def test_a_log_that_never_became_complete_is_given_up(
    job: Job, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LATE_LINES_SECONDS", 0.2)
    monkeypatch.setattr(logs, "FOLLOW_IDLE_SECONDS", 0.1)
    write(redis_client, job.id, 0)
    await sync_to_async(end)(job, State.FAILED)
    async with broker.async_client() as client, asyncio.timeout(4):
        pages = [page async for page in follow_log(client, job.id)]
    assert [text for page in pages for text in page.lines] == [line(0)]
    assert not pages[-1].complete


async def test_lines_are_found_even_where_their_hint_was_lost(
    job: Job, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FOLLOW_IDLE_SECONDS", 0.1)
    async with broker.async_client() as client, asyncio.timeout(4):
        pages = follow_log(client, job.id)
        following = asyncio.create_task(anext(pages))  # type: ignore[arg-type]
        redis_client.rpush(keys().job_logs(str(job.id)), line(0))
        assert (await following).lines == [line(0)]
        await pages.aclose()  # type: ignore[attr-defined]
