"""The sockets of the jobs list and of a job's page; the latter carries the job's log as well.

Log lines travel as data, by offset: `{"log": {"first", "lines", "total", "dropped", "complete", "cut"}}`; where `cut`
is not 0, the last line stands for as many that are missing. The browser answers `{"logged": next offset}` when it shows
them, and only then gets more; paused, it just does not answer. A page that opens with `?log_offset=N` goes on there.
"""

import asyncio
import json
import uuid
from typing import Any
from urllib.parse import parse_qsl

from executors import broker
from executors.broker import RedisUnavailable
from executors.consumers import LivePage
from executors.hub import Fragments, Gone, View, hub
from jobs import views
from jobs.archive import ArchiveUnavailable
from jobs.listing import JobFilter
from jobs.logs import LogPage, read_log_async
from jobs.models import Job

LOG_PAGE_LINES = 1000
KEPT_LINES = 5000
"""As many lines as the browser keeps (static/js/log.js). Who is further behind than that goes on at the end of the log:
what lies between would be dropped unseen, and can be fetched by offset."""
LOG_INTERVAL_SECONDS = 0.05
"""The shortest time between two reads for one reader."""
LOG_LOOK_SECONDS = 5.0
"""How often to look without a hint: hints are lost while Redis restarts."""


class JobList(LivePage):
    def view(self) -> View:
        query = _query(self.scope)
        job_filter, before, after = JobFilter.from_query(query), query.get("before", ""), query.get("after", "")
        return View(
            f"jobs{job_filter.query(before=before, after=after)}",
            lambda: views.list_fragments(job_filter, before, after),
            lambda change: bool(change.jobs),
        )


class JobDetail(LivePage):
    async def connect(self) -> None:
        self._job_id: uuid.UUID = self.scope["url_route"]["kwargs"]["job_id"]
        self._logged = asyncio.Event()
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
        super().on_message(message)

    async def _send_log(self) -> None:
        offset = _offset(_query(self.scope).get("log_offset", ""))
        told: tuple[int, bool] | None = None
        async with hub().listening(broker.keys().log_channel(str(self._job_id))) as grown:
            while True:
                grown.clear()
                try:
                    page, text = await _read(str(self._job_id), offset)
                except (*RedisUnavailable, ArchiveUnavailable):
                    await _wait(grown, LOG_LOOK_SECONDS)
                    continue
                if page.lines or told != (page.total, page.complete):
                    told = page.total, page.complete
                    self._logged.clear()
                    await self.send(text)
                    await asyncio.gather(self._logged.wait(), asyncio.sleep(LOG_INTERVAL_SECONDS))
                offset = page.next_offset
                if offset >= page.total or not page.lines:
                    await _wait(grown, LOG_LOOK_SECONDS)


_reads: dict[tuple[str, int | None, int], asyncio.Task[tuple[LogPage, str]]] = {}


async def _read(job_id: str, offset: int | None) -> tuple[LogPage, str]:
    """A page of the log and the message that carries it.

    Readers that are equally far share one read, but never one that was begun before the newest hint: it may lack the
    lines that the hint is about.
    """
    key = job_id, offset, hub().hints(broker.keys().log_channel(job_id))
    task = _reads.get(key)
    if task is None:
        task = _reads[key] = asyncio.create_task(_read_alone(job_id, offset))
        task.add_done_callback(lambda _: _reads.pop(key, None))
    return await asyncio.shield(task)


async def _read_alone(job_id: str, offset: int | None) -> tuple[LogPage, str]:
    page = await read_log_async(hub().client, job_id, offset, LOG_PAGE_LINES)
    if page.total - page.first > KEPT_LINES:
        page = await read_log_async(hub().client, job_id, None, LOG_PAGE_LINES)
    body = {
        "first": page.first,
        "lines": page.lines,
        "total": page.total,
        "dropped": page.dropped,
        "complete": page.complete,
        "cut": page.cut,
    }
    return page, json.dumps({"log": body}, ensure_ascii=False, separators=(",", ":"))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def _query(scope: dict[str, Any]) -> dict[str, str]:
    return dict(parse_qsl(scope["query_string"].decode("latin1")))


def _offset(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 16 else None
