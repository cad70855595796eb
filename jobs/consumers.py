"""The sockets of the jobs list and of a job's page; the latter carries the job's log as well.

Log lines travel as data, by offset, as `jobs.log_views.as_json` writes them: `{"log": {"first", "lines", "total", …}}`.
The browser answers `{"logged": true}` when it shows them, and only then gets more; paused, it just does not answer. A
page that opens with `?log_offset=N` goes on there, one without begins with the end of the log. `{"follow": N}` goes on
at N; `{"follow": false}`, or `?log_offset=off`, asks for no lines any more, only how many there are. Where there are
more lines than a message brings, it brings the newest: the page fetches what lies between when somebody looks there.

A message without lines may bring another `tail`: what was printed of lines that have not ended, such as progress bars.
"""

import asyncio
import uuid
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from executors import broker
from executors.broker import RedisUnavailable
from executors.consumers import LivePage
from executors.hub import Fragments, Gone, View, hub
from jobs import list_views, views
from jobs.archive import ArchiveUnavailable
from jobs.listing import JobFilter
from jobs.log_views import as_json, shortened
from jobs.logs import LogPage, read_log_async
from jobs.models import Job

LOG_PAGE_LINES = 250
"""The most that one message brings: more than a page draws, so that who follows a flood has nothing to fetch."""
LOG_TICK_SECONDS = 0.1
"""Between two messages to one reader passes at least the end of a tick: those who are equally far read together."""
SKIPPING_TICK_SECONDS = 0.25
"""The same for who gets no lines, or not all of them: nobody reads so fast, and each message costs."""
LOG_LOOK_SECONDS = 5.0
"""How often to look without a hint: hints are lost while Redis restarts."""


class JobList(LivePage):
    def view(self) -> View:
        query = _query(self.scope)
        job_filter, before, after = JobFilter.from_query(query), query.get("before", ""), query.get("after", "")
        return View(
            f"jobs{job_filter.query(before=before, after=after)}",
            lambda: list_views.list_fragments(job_filter, before, after),
            lambda change: bool(change.jobs),
        )


class JobDetail(LivePage):
    async def connect(self) -> None:
        self._job_id: uuid.UUID = self.scope["url_route"]["kwargs"]["job_id"]
        wish = _query(self.scope).get("log_offset", "")
        self._offset, self._following, self._wished = _offset(wish), wish != "off", False
        self._logged, self._grown = asyncio.Event(), asyncio.Event()
        await super().connect()

    def view(self) -> View:
        job_id = self._job_id

        def render() -> Fragments:
            try:
                return views.detail_fragments(job_id)
            except Job.DoesNotExist:
                raise Gone(str(job_id)) from None

        return View(f"job:{job_id}", render, lambda change: str(job_id) in change.jobs)

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_pages())
            tasks.create_task(self._send_log())

    def on_message(self, message: dict[str, Any]) -> None:
        if "logged" in message:
            self._logged.set()
        wish = message.get("follow")
        if wish is False:
            self._follow(None, False)
        elif type(wish) is int and wish >= 0:
            self._follow(wish, True)
        super().on_message(message)

    def _follow(self, offset: int | None, following: bool) -> None:
        self._offset, self._following, self._wished = offset, following, True
        self._grown.set()

    async def _send_log(self) -> None:
        told: tuple[int, bool, tuple[str, str]] | None = None
        async with hub().listening(broker.keys().log_channel(str(self._job_id))) as grown:
            self._grown = grown
            while True:
                grown.clear()
                self._wished = False
                offset, following = self._offset, self._following
                try:
                    page, text = await _read(str(self._job_id), offset, LOG_PAGE_LINES if following else 0)
                except (*RedisUnavailable, ArchiveUnavailable):
                    await _wait(grown, LOG_LOOK_SECONDS)
                    continue
                news = page.total, page.complete, page.tails
                if page.lines or told != news:
                    told = news
                    self._logged.clear()
                    await self.send(text)
                    skipping = not following or offset not in (None, page.first)
                    await _next(SKIPPING_TICK_SECONDS if skipping else LOG_TICK_SECONDS)
                    await self._logged.wait()
                if self._wished:
                    continue
                self._offset = page.next_offset if following else None
                if page.next_offset >= page.total or not page.lines:
                    await _wait(grown, LOG_LOOK_SECONDS)


_reads: dict[tuple[str, int | None, int, int], asyncio.Task[tuple[LogPage, str]]] = {}


async def _read(job_id: str, offset: int | None, limit: int) -> tuple[LogPage, str]:
    """A page of the log and the message that carries it.

    Readers that are equally far share one read, but never one that was begun before the newest hint: it may lack the
    lines that the hint is about.
    """
    key = job_id, offset, limit, hub().hints(broker.keys().log_channel(job_id))
    task = _reads.get(key)
    if task is None:
        task = _reads[key] = asyncio.create_task(_read_alone(job_id, offset, limit))
        task.add_done_callback(lambda _: _reads.pop(key, None))
    return await asyncio.shield(task)


async def _read_alone(job_id: str, offset: int | None, limit: int) -> tuple[LogPage, str]:
    page = await read_log_async(hub().client, job_id, offset, limit)
    if limit and page.total - page.first > limit:
        page = await read_log_async(hub().client, job_id, None, limit)
    page = shortened(page)
    return page, f'{{"log":{as_json(page)}}}'


async def _next(tick_seconds: float) -> None:
    """Wait for the tick's end, which is the same for all readers."""
    await asyncio.sleep(tick_seconds - asyncio.get_running_loop().time() % tick_seconds)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    # Not asyncio.wait_for: in Python 3.11 it forgets that it was cancelled where the event comes at the same moment.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _query(scope: dict[str, Any]) -> dict[str, str]:
    return dict(parse_qsl(scope["query_string"].decode("latin1")))


def _offset(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 16 else None
