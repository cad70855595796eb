"""The sockets of the pages, through the whole ASGI application and a real Redis."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.db import close_old_connections
from django.test import Client
from pytest_django import Settings

from executors import broker, consumers, hub
from executors.broker import keys
from jobs import consumers as job_consumers
from jobs import services
from jobs.lifecycle import State
from jobs.models import Job, new_job_id
from tests.rows import make_executor, make_job
from webapp.asgi import application

pytestmark = pytest.mark.django_db(transaction=True)

HEADERS = [(b"host", b"localhost"), (b"origin", b"http://localhost")]


@pytest.fixture(autouse=True)
def open_to_local_user(redis_client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.OPEN_TO_LOCAL_USER = True
    monkeypatch.setattr(hub, "REFRESH_SECONDS", 3600)
    monkeypatch.setattr(job_consumers, "LOG_LOOK_SECONDS", 3600)  # so that only hints bring lines


class Browser:
    """One open page: answers as static/js/live.js does, unless told not to."""

    def __init__(self, socket: WebsocketCommunicator) -> None:
        self.socket = socket
        self.answers = True

    async def receive(self, kind: str, seconds: float = 10) -> Any:
        """The next message of this kind; those of other kinds are answered and skipped."""
        async with asyncio.timeout(seconds):
            while True:
                message = json.loads(await self.socket.receive_from(timeout=seconds))
                await self._answer(message)
                if kind in message:
                    return message[kind]

    async def html_with(self, words: str) -> str:
        """The next html that has these words in it."""
        while words not in (html := await self.receive("html")):
            pass
        return str(html)

    async def _answer(self, message: dict[str, Any]) -> None:
        if not self.answers:
            return
        if "html" in message:
            await self.say(shown=True)
        if "log" in message:
            await self.say(logged=True)

    async def say(self, **message: Any) -> None:
        await self.socket.send_to(json.dumps(message))

    async def silence(self, kind: str, seconds: float = 0.4) -> None:
        """Fails where a message of this kind comes."""
        with pytest.raises(TimeoutError):
            message = await self.receive(kind, seconds)
            pytest.fail(f"did not expect {message}")


@asynccontextmanager
async def opened(path: str, headers: list[tuple[bytes, bytes]] = HEADERS) -> AsyncIterator[Browser]:
    socket = WebsocketCommunicator(application, path, headers=headers)
    socket.scope["client"] = ("127.0.0.1", 50000)
    connected, _ = await socket.connect(timeout=10)
    assert connected
    try:
        yield Browser(socket)
    finally:
        await socket.disconnect()
        await sync_to_async(close_old_connections)()  # Channels' communicator has them kept while it receives.


async def in_thread(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await consumers.database_sync_to_async(work)(*args, **kwargs)


def print_lines(client: redis.Redis, job_id: object, *texts: str, complete: bool = False) -> None:
    """As an agent does: lines, counts, a hint."""
    pipeline = client.pipeline()
    pipeline.rpush(keys().job_logs(str(job_id)), *(f"2026-01-01T00:00:00.000000Z stdout {text}" for text in texts))
    pipeline.hincrby(keys().job_logs_meta(str(job_id)), "lines", len(texts))
    pipeline.hset(keys().job_logs_meta(str(job_id)), "complete", int(complete))
    pipeline.publish(keys().log_channel(str(job_id)), "")
    pipeline.execute()


def texts(page: dict[str, Any]) -> list[str]:
    return [line.split(" ", 2)[2] for line in page["lines"]]


# --- Pages -------------------------------------------------------------------------------------------------------


async def test_a_page_gets_everything_at_first_and_then_what_changes() -> None:
    job = await in_thread(make_job)
    async with opened(f"/ws/jobs/{job.id}") as browser:
        assert await browser.receive("live") is True
        first = await browser.receive("html")
        assert 'id="job-head"' in first
        assert 'id="job-facts"' in first
        await in_thread(services.abort, job.id)
        news = await browser.html_with("Aborted")
        assert 'id="job-head"' in news
        assert "Environment" not in news


@pytest.mark.parametrize(
    ("path", "words"),
    [("/ws/dashboard", "dashboard-queue"), ("/ws/jobs", "job-list"), ("/ws/jobs?state=PENDING", "job-list")],
)
async def test_lists_show_a_new_job_by_themselves(path: str, words: str) -> None:
    async with opened(path) as browser:
        assert words in await browser.receive("html")
        await in_thread(services.submit, services.JobSubmission(docker_image="alpine", name="brand-new"))
        await browser.html_with("brand-new")


async def test_a_filtered_list_does_not_show_what_does_not_match() -> None:
    async with opened("/ws/jobs?state=RUNNING") as browser:
        assert "No job matches" in await browser.receive("html")
        await in_thread(services.submit, services.JobSubmission(docker_image="alpine", name="brand-new"))
        await browser.silence("html")


async def test_the_executor_pages_show_a_change_of_theirs() -> None:
    node = await in_thread(make_executor)
    async with opened("/ws/executors") as listing, opened(f"/ws/executors/{node.id}") as page:
        await listing.receive("html")
        await page.receive("html")
        node.state, node.problem = "LOST", "No heartbeat for 94 s."
        await node.asave()
        broker.publish_changes(executors=[node.id])
        assert "Lost" in await listing.receive("html")
        assert "No heartbeat for 94 s." in await page.receive("html")


async def test_a_browser_that_does_not_answer_gets_only_the_newest_when_it_does() -> None:
    node = await in_thread(make_executor)
    async with opened("/ws/executors") as browser:
        browser.answers = False
        await browser.receive("html")
        for problem in ("one", "two", "three"):
            node.problem = node.name = problem
            await node.asave()
            broker.publish_changes(executors=[node.id])
            await asyncio.sleep(2 * hub.TICK_SECONDS)
        await browser.silence("html")
        await browser.say(shown=True)
        html = await browser.receive("html")
        assert "three" in html
        assert "two" not in html


async def test_a_ping_is_answered_and_nonsense_ends_the_socket() -> None:
    async with opened("/ws/dashboard") as browser:
        await browser.say(ping=7)
        assert await browser.receive("pong") == 7
        await browser.socket.send_to("][")
        async with asyncio.timeout(10):
            while (await browser.socket.receive_output(10))["type"] != "websocket.close":
                pass


# --- Who may look ------------------------------------------------------------------------------------------------


async def test_a_page_of_another_site_cannot_open_a_socket() -> None:
    for origin in ([(b"origin", b"http://evil.example")], []):
        socket = WebsocketCommunicator(application, "/ws/dashboard", headers=[(b"host", b"localhost"), *origin])
        socket.scope["client"] = ("127.0.0.1", 50000)
        connected, _ = await socket.connect(timeout=10)
        assert not connected


async def close_code(path: str) -> int:
    async with opened(path) as browser, asyncio.timeout(10):
        while (message := await browser.socket.receive_output(10))["type"] != "websocket.close":
            pass
        return int(message["code"])


async def test_who_is_not_logged_in_is_told_so_and_sees_nothing(settings: Settings) -> None:
    settings.OPEN_TO_LOCAL_USER = False
    assert await close_code("/ws/dashboard") == consumers.LOGIN_REQUIRED


async def test_a_page_of_something_that_is_gone_is_told_so() -> None:
    assert await close_code(f"/ws/jobs/{new_job_id()}") == consumers.NOT_FOUND
    assert await close_code("/ws/executors/nobody") == consumers.NOT_FOUND
    assert await close_code("/ws/nothing/here") == consumers.NOT_FOUND


# --- The log -----------------------------------------------------------------------------------------------------


async def test_lines_come_as_they_are_printed(redis_client: redis.Redis) -> None:
    job = await in_thread(make_job, State.RUNNING, await in_thread(make_executor))
    async with opened(f"/ws/jobs/{job.id}") as browser:
        empty = await browser.receive("log")
        assert (empty["first"], empty["lines"], empty["total"]) == (0, [], 0)
        print_lines(redis_client, job.id, "one")
        assert texts(await browser.receive("log")) == ["one"]
        print_lines(redis_client, job.id, "two", "<b>three</b>", complete=True)
        page = await browser.receive("log")
        assert (page["first"], texts(page), page["complete"]) == (1, ["two", "<b>three</b>"], True)


async def test_a_page_that_comes_back_goes_on_where_it_was(redis_client: redis.Redis) -> None:
    job = await in_thread(make_job)
    print_lines(redis_client, job.id, *(str(number) for number in range(10)))
    async with opened(f"/ws/jobs/{job.id}?log_offset=7") as browser:
        page = await browser.receive("log")
        assert (page["first"], texts(page), page["total"]) == (7, ["7", "8", "9"], 10)


@pytest.mark.parametrize("offset", ["", "-1", "x", "1" * 30, "5_0"])
async def test_a_page_that_is_new_begins_with_the_end_of_the_log(redis_client: redis.Redis, offset: str) -> None:
    job = await in_thread(make_job)
    print_lines(redis_client, job.id, *(str(number) for number in range(1500)))
    async with opened(f"/ws/jobs/{job.id}?log_offset={offset}") as browser:
        page = await browser.receive("log")
        assert page["first"] == 1500 - job_consumers.LOG_PAGE_LINES
        assert (texts(page)[-1], page["first"] + len(page["lines"]), page["total"]) == ("1499", 1500, 1500)


async def test_every_line_comes_once_and_in_order_as_long_as_a_message_brings_all(redis_client: redis.Redis) -> None:
    job = await in_thread(make_job)
    async with opened(f"/ws/jobs/{job.id}?log_offset=0") as browser:
        got: list[str] = []
        for start in range(0, 2000, 200):
            print_lines(redis_client, job.id, *(str(number) for number in range(start, start + 100)))
            print_lines(redis_client, job.id, *(str(number) for number in range(start + 100, start + 200)))
            while len(got) < start + 200:
                page = await browser.receive("log")
                assert page["first"] == len(got)
                got += texts(page)
    assert got == [str(number) for number in range(2000)]


async def test_who_follows_a_flood_gets_its_end_and_can_fetch_what_lies_between(
    redis_client: redis.Redis, local_client: Client
) -> None:
    job = await in_thread(make_job)
    lines: dict[int, str] = {}
    async with opened(f"/ws/jobs/{job.id}?log_offset=0") as browser:
        for start in range(0, 20_000, 2000):
            print_lines(redis_client, job.id, *(str(number) for number in range(start, start + 2000)))
        while 19_999 not in lines:
            page = await browser.receive("log")
            assert len(page["lines"]) <= job_consumers.LOG_PAGE_LINES
            assert page["first"] + len(page["lines"]) == page["total"], "the end is there, whatever is not"
            lines |= dict(enumerate(texts(page), page["first"]))
    assert len(lines) < 20_000
    while (missing := next((number for number in range(20_000) if number not in lines), None)) is not None:
        page = (await in_thread(local_client.get, f"/jobs/{job.id}/log/?offset={missing}")).json()
        lines |= dict(enumerate(texts(page), page["first"]))
    assert lines == {number: str(number) for number in range(20_000)}


async def test_who_comes_back_far_behind_goes_on_at_the_end(redis_client: redis.Redis) -> None:
    job = await in_thread(make_job)
    print_lines(redis_client, job.id, *(str(number) for number in range(1500)))
    async with opened(f"/ws/jobs/{job.id}?log_offset=100") as browser:
        page = await browser.receive("log")
        assert page["first"] == 1500 - job_consumers.LOG_PAGE_LINES
        assert page["first"] + len(page["lines"]) == page["total"]


async def test_a_flood_is_read_once_for_all_who_follow_it(redis_client: redis.Redis) -> None:
    job, ended, received = await in_thread(make_job), 40_000, 0

    async def follow(browser: Browser) -> None:
        nonlocal received
        while (await browser.receive("log"))["total"] < ended:
            received += 1

    async with contextlib.AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(opened(f"/ws/jobs/{job.id}")) for _ in range(10)]
        for page in pages:
            await page.receive("log")
        before = redis_client.info("commandstats")["cmdstat_eval"]["calls"]
        async with asyncio.TaskGroup() as tasks:
            for page in pages:
                tasks.create_task(follow(page))
            for _ in range(40):
                await in_thread(print_lines, redis_client, job.id, *(["line"] * (ended // 40)))
                await asyncio.sleep(0.02)
        reads = redis_client.info("commandstats")["cmdstat_eval"]["calls"] - before
    assert received >= len(pages), "it was followed while it came"
    assert reads < received / 2


async def test_a_paused_browser_gets_no_more_lines_and_keeps_no_other_waiting(redis_client: redis.Redis) -> None:
    job = await in_thread(make_job)
    async with opened(f"/ws/jobs/{job.id}") as paused, opened(f"/ws/jobs/{job.id}") as reading:
        paused.answers = False
        await paused.receive("log")
        await reading.receive("log")
        for number in range(5):
            print_lines(redis_client, job.id, str(number))
            assert texts(await reading.receive("log")) == [str(number)]
        await paused.silence("log")
        await paused.say(logged=True)
        assert texts(await paused.receive("log")) == ["0", "1", "2", "3", "4"]


async def test_the_beginning_of_a_line_comes_while_it_is_printed_and_goes_when_it_ends(
    redis_client: redis.Redis,
) -> None:
    job = await in_thread(make_job)
    print_lines(redis_client, job.id, "one")
    async with opened(f"/ws/jobs/{job.id}") as browser:
        assert "tail" not in await browser.receive("log")
        redis_client.hset(keys().job_logs_meta(str(job.id)), "tail_stderr", "\r 45 %")
        redis_client.publish(keys().log_channel(str(job.id)), "")
        page = await browser.receive("log")
        assert (page["lines"], page["total"], page["tail"]) == ([], 1, ["", "\r 45 %"])
        redis_client.publish(keys().log_channel(str(job.id)), "")
        await browser.silence("log")
        print_lines(redis_client, job.id, "two", complete=True)
        page = await browser.receive("log")
        assert (texts(page), "tail" in page) == (["two"], False), "what is complete has no unfinished line"


async def test_who_does_not_follow_hears_how_many_lines_there_are_and_gets_none(redis_client: redis.Redis) -> None:
    job = await in_thread(make_job)
    print_lines(redis_client, job.id, "0", "1")
    async with opened(f"/ws/jobs/{job.id}?log_offset=off") as browser:
        page = await browser.receive("log")
        assert (page["lines"], page["total"]) == ([], 2)
        print_lines(redis_client, job.id, "2", complete=True)
        page = await browser.receive("log")
        assert (page["lines"], page["total"], page["complete"]) == ([], 3, True)
        await browser.say(follow=1)
        page = await browser.receive("log")
        assert (page["first"], texts(page)) == (1, ["1", "2"])
        await browser.say(follow=False)
        print_lines(redis_client, job.id, "3")
        page = await browser.receive("log")
        assert (page["lines"], page["total"]) == ([], 4)


@pytest.mark.parametrize("wish", [-1, None, True, "1", 1.5, [1]])
async def test_a_wish_that_makes_no_sense_changes_nothing(redis_client: redis.Redis, wish: Any) -> None:
    job = await in_thread(make_job)
    async with opened(f"/ws/jobs/{job.id}") as browser:
        await browser.receive("log")
        await browser.say(follow=wish)
        print_lines(redis_client, job.id, "0")
        assert texts(await browser.receive("log")) == ["0"]


@pytest.mark.parametrize("text", ["x" * 60_000, "\x1b[1m" * 15_000, "\u0001" * 60_000, "é" * 30_000, "😀" * 15_000])
async def test_no_message_is_larger_than_a_socket_takes(redis_client: redis.Redis, text: str) -> None:
    job = await in_thread(make_job)
    print_lines(redis_client, job.id, *(text for _ in range(40)))
    async with opened(f"/ws/jobs/{job.id}?log_offset=0") as browser:
        next_line = 0
        while next_line < 40:
            page = await browser.receive("log")
            assert page["first"] == next_line
            assert page["lines"]
            assert len(json.dumps(page, ensure_ascii=False).encode()) < 2**20
            next_line += len(page["lines"])


async def test_many_readers_of_one_job_share_the_subscription_and_the_reads(redis_client: redis.Redis) -> None:
    job = await in_thread(make_job)
    async with opened(f"/ws/jobs/{job.id}") as one, opened(f"/ws/jobs/{job.id}") as two, opened(
        f"/ws/jobs/{job.id}"
    ) as three:  # fmt: skip
        for browser in (one, two, three):
            await browser.receive("log")
        assert redis_client.pubsub_numsub(keys().log_channel(str(job.id)))[0][1] == 1
        await asyncio.sleep(0.2)
        before = redis_client.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"]
        print_lines(redis_client, job.id, "shared")
        for browser in (one, two, three):
            assert texts(await browser.receive("log")) == ["shared"]
        assert redis_client.info("commandstats")["cmdstat_eval"]["calls"] - before < 3


@pytest.mark.parametrize("turns", range(4))
async def test_a_page_that_closes_just_as_a_hint_comes_ends(turns: int) -> None:
    hint = asyncio.Event()
    waiting = asyncio.create_task(job_consumers._wait(hint, 60))
    await asyncio.sleep(0.01)
    hint.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    had_ended = not waiting.cancel()
    await asyncio.wait([waiting])
    assert had_ended or waiting.cancelled()


async def test_when_the_last_page_closes_nothing_is_left_subscribed(redis_client: redis.Redis) -> None:
    job = await in_thread(make_job)
    async with opened(f"/ws/jobs/{job.id}") as browser:
        await browser.receive("log")
    async with asyncio.timeout(10):
        while redis_client.pubsub_channels():  # noqa: ASYNC110  Redis is asked
            await asyncio.sleep(0.01)
    assert not job_consumers._reads


async def test_a_job_that_does_not_exist_any_more_does_not_end_the_other_pages(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone, stays = await in_thread(make_job), await in_thread(make_job)
    async with opened(f"/ws/jobs/{gone.id}") as first, opened(f"/ws/jobs/{stays.id}") as second:
        await first.receive("html")
        await second.receive("html")
        await Job.objects.filter(id=gone.id).adelete()
        broker.publish_changes(jobs=[gone.id])
        async with asyncio.timeout(10):
            while (message := await first.socket.receive_output(10))["type"] != "websocket.close":
                pass
        assert message["code"] == consumers.NOT_FOUND
        await in_thread(services.abort, stays.id)
        await second.html_with("Aborted")
