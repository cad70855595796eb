"""The sockets of live pages: one WebSocket a page, fed by the hub.

To the browser: `{"html": "…"}`, elements with ids that replace those of the page; `{"live": bool}`, whether changes
arrive at all; `{"pong": n}`. From it: `{"shown": true}` once the last html is in the page, `{"ping": n}`. The next html
goes out only after `shown`: a slow browser gets fewer renderings, never a backlog, and keeps nobody waiting.
"""

import asyncio
import contextlib
import json
import logging
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

from executors import views
from executors.hub import Fragments, Gone, View, hub
from executors.listing import ExecutorFilter
from executors.models import Executor

logger = logging.getLogger(__name__)

LOGIN_REQUIRED = 4401
NOT_FOUND = 4404
NONSENSE = 4400
FAILED = 4500


class LivePage(AsyncWebsocketConsumer):
    """The socket of one open page. A subclass says in `view` what it shows, and may start further tasks in `serve`."""

    async def connect(self) -> None:
        self._fragments: Fragments = {}
        self._status: bool | None = None
        self._gone = False
        self._news = asyncio.Event()
        self._shown = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        await self.accept()
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            await self.close(LOGIN_REQUIRED)
            return
        try:
            views = await database_sync_to_async(self.views)()
        except Gone:
            await self.close(NOT_FOUND)
            return
        self._task = asyncio.create_task(self._run(views))

    async def disconnect(self, code: int) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            message = json.loads(text_data or "")
        except ValueError:
            message = None
        if not isinstance(message, dict):
            await self.close(NONSENSE)
        elif "ping" in message:
            await self.send_json({"pong": message["ping"]})
        else:
            self.on_message(message)

    async def dispatch(self, message: dict[str, Any]) -> None:
        # Before each message channels closes database connections that are too old, by way of a thread. Nothing here
        # touches the database but through `database_sync_to_async`, which does so itself.
        if message["type"] == "websocket.receive":
            await self.websocket_receive(message)
        else:
            await super().dispatch(message)

    async def send_json(self, message: dict[str, Any]) -> None:
        await self.send(json.dumps(message, ensure_ascii=False, separators=(",", ":")))

    # --- what a subclass gives -------------------------------------------------------------------------------------

    def view(self) -> View:
        """What this page shows; called in a thread. Raises Gone where there is nothing to show."""
        raise NotImplementedError

    def views(self) -> list[View]:
        """For a page of several views, which are rendered each in its time; else `view` suffices."""
        return [self.view()]

    async def serve(self) -> None:
        """Send pages as they change; a subclass may do more beside."""
        await self._send_pages()

    def on_message(self, message: dict[str, Any]) -> None:
        """Something the browser said."""
        if message.get("shown"):
            self._shown.set()

    # --- executors.hub.Watcher -------------------------------------------------------------------------------------

    def offer(self, fragments: Fragments) -> None:
        self._fragments.update(fragments)
        self._news.set()

    def offer_status(self, connected: bool) -> None:
        self._status = connected
        self._news.set()

    def offer_gone(self) -> None:
        self._gone = True
        self._news.set()

    # --- its task --------------------------------------------------------------------------------------------------

    async def _run(self, views: list[View]) -> None:
        try:
            with contextlib.ExitStack() as watching:
                for view in views:
                    watching.enter_context(hub().watching(view, self))
                await self.serve()
        except Exception:
            logger.exception("The socket of %s failed", views[0].key)
            await self.close(FAILED)

    async def _send_pages(self) -> None:
        told = None
        while True:
            await self._news.wait()
            self._news.clear()
            if self._gone:
                await self.close(NOT_FOUND)
                return
            if self._status != told:
                told = self._status
                await self.send_json({"live": told})
            if self._fragments:
                message = _as_message(tuple(self._fragments.values()))
                self._fragments = {}
                self._shown.clear()
                await self.send(message)
                await self._shown.wait()


@lru_cache(maxsize=32)
def _as_message(parts: tuple[str, ...]) -> str:
    """Written once for all pages that get the same."""
    return json.dumps({"html": "".join(parts)}, ensure_ascii=False, separators=(",", ":"))


class ExecutorList(LivePage):
    def view(self) -> View:
        wanted = ExecutorFilter.from_query(dict(parse_qsl(self.scope["query_string"].decode())))
        return View(f"executors:{wanted.query()}", lambda: views.list_fragments(wanted), rest_seconds=1)


class ExecutorDetail(LivePage):
    def view(self) -> View:
        executor_id: str = self.scope["url_route"]["kwargs"]["executor_id"]

        def render() -> Fragments:
            try:
                return views.detail_fragments(executor_id)
            except Executor.DoesNotExist:
                raise Gone(executor_id) from None

        return View(f"executor:{executor_id}", render, lambda change: executor_id in change.executors)


class ExecutorJoin(LivePage):
    def view(self) -> View:
        return View("join", views.join_fragments, lambda change: bool(change.executors))


class NoSuchPage(LivePage):
    """What answers at every other address."""

    def view(self) -> View:
        raise Gone(self.scope["path"])
