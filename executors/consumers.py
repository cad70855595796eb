"""The sockets of live pages: one WebSocket a page, fed by the hub.

To the browser: `{"html": "…"}`, elements with ids that replace those of the page; `{"live": bool}`, whether changes
arrive at all; `{"pong": n}`. From it: `{"shown": true}` once the last html is in the page, `{"ping": n}`. The next html
goes out only after `shown`: a slow browser gets fewer renderings, never a backlog, and keeps nobody waiting.
"""

import asyncio
import contextlib
import json
import logging
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

from executors import views
from executors.hub import Fragments, Gone, View, hub
from executors.models import Executor

logger = logging.getLogger(__name__)

LOGIN_REQUIRED = 4401
NOT_FOUND = 4404


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
            view = await database_sync_to_async(self.view)()
        except Gone:
            await self.close(NOT_FOUND)
            return
        self._task = asyncio.create_task(self._run(view))

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
            await self.close(1003)
        elif "ping" in message:
            await self.send_json({"pong": message["ping"]})
        else:
            self.on_message(message)

    async def send_json(self, message: dict[str, Any]) -> None:
        await self.send(json.dumps(message, ensure_ascii=False, separators=(",", ":")))

    # --- what a subclass gives -------------------------------------------------------------------------------------

    def view(self) -> View:
        """What this page shows; called in a thread. Raises Gone where there is nothing to show."""
        raise NotImplementedError

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

    async def _run(self, view: View) -> None:
        try:
            with hub().watching(view, self):
                await self.serve()
        except Exception:
            logger.exception("The socket of %s failed", view.key)
            await self.close(1011)

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
                html = "".join(self._fragments.values())
                self._fragments = {}
                self._shown.clear()
                await self.send_json({"html": html})
                await self._shown.wait()


class ExecutorList(LivePage):
    def view(self) -> View:
        return View("executors", views.list_fragments)


class ExecutorDetail(LivePage):
    def view(self) -> View:
        executor_id: str = self.scope["url_route"]["kwargs"]["executor_id"]

        def render() -> Fragments:
            try:
                return views.detail_fragments(executor_id)
            except Executor.DoesNotExist:
                raise Gone(executor_id) from None

        return View(
            f"executor:{executor_id}", render, lambda change: bool(change.jobs) or executor_id in change.executors
        )


class NoSuchPage(LivePage):
    """What answers at every other address."""

    def view(self) -> View:
        raise Gone(self.scope["path"])
