"""Django under ASGI with one thread a request, from its beginning to its end, out of a pool that keeps its threads.

Django's own handler starts a thread for each request and changes between it and the event loop half a dozen times,
which costs more than most of what is asked; and a connection to the database cannot outlive its thread.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from asgiref.sync import sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

THREADS = 16
"""Requests answered at once at most, and so connections to the database; others wait. Streams hold no thread."""

HEALTH_PATHS, HEALTH_THREADS = ("/health", "/api/v1/health"), 2
"""Kept free, as whoever asks how the system is must be told while everything else waits for a database that hangs."""

Scope = dict[str, Any]


class ThreadedHandler(ASGIHandler):
    """The ASGI application. Views that are coroutines run in the event loop, as do the streams they answer with."""

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
        self.health_threads = ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="health")
        self._in_thread = sync_to_async(self._answer, thread_sensitive=False, executor=self.threads)
        self._in_health_thread = sync_to_async(self._answer, thread_sensitive=False, executor=self.health_threads)
        self._close_in_thread = sync_to_async(_close, thread_sensitive=False, executor=self.threads)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(f"Only HTTP comes here, not {scope['type']}.")
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        in_thread = self._in_health_thread if scope["path"] in HEALTH_PATHS else self._in_thread
        response = await in_thread(scope, body)
        if not response.streaming:
            await self.send_response(response, send)
            return
        try:
            await self._stream(response, receive, send)
        finally:
            await self._close_in_thread(response)

    def _answer(self, scope: Scope, body: IO[bytes]) -> Any:
        """In a thread of the pool: the whole answer, or, where a coroutine streams it, its beginning."""
        with body:
            set_script_prefix(get_script_prefix(scope))
            signals.request_started.send(sender=self.__class__, scope=scope)
            request, refusal = self.create_request(scope, body)
            response: Any = refusal if request is None else self.get_response(request)
            response._handler_class = self.__class__
            if response.streaming and not response.is_async:
                response.streaming_content = _each(list(response))
            elif not response.streaming:
                response.close()
            return response

    async def _stream(self, response: HttpResponseBase, receive: Any, send: Any) -> None:
        """Until it ends, or nobody reads it any more."""
        sending = asyncio.create_task(self.send_response(response, send))
        leaving = asyncio.create_task(receive())
        leaving.add_done_callback(lambda _: sending.cancel())
        try:
            await sending
        except asyncio.CancelledError:
            if not leaving.done():  # else it was the reader's leaving that cancelled it
                raise
        finally:
            leaving.cancel()


def _close(response: HttpResponseBase) -> None:
    response.close()


async def _each(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
