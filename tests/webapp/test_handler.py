"""Requests as daphne hands them over: each answered in one thread, which keeps its connection to the database."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from channels.testing import ApplicationCommunicator
from django.core.signals import request_finished
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path
from pytest_django import Settings

from webapp.handler import ThreadedHandler

pytestmark = [pytest.mark.asyncio, pytest.mark.django_db(transaction=True)]

seen: list[Any] = []


class Threads:
    """A middleware, to be called where the view is."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        seen.append(threading.current_thread().name)
        response: HttpResponseBase = self.get_response(request)
        return response


def look(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    seen.extend([threading.current_thread().name, id(connection.connection)])
    return HttpResponse(request.body)


async def stream_for_ever(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        try:
            yield "more"
            await asyncio.Event().wait()
        finally:
            seen.append("nobody reads")

    return StreamingHttpResponse(parts())


def stream_parts(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"one ", b"two"]))


may_go_on = threading.Event()


def hang(request: HttpRequest) -> HttpResponse:
    may_go_on.wait(10)
    return HttpResponse()


urlpatterns = [
    path("hang", hang),
    path("health", look),
    path("look", look),
    path("for-ever", stream_for_ever),
    path("parts", stream_parts),
]


@pytest.fixture
def handler(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedHandler]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [f"{__name__}.Threads"]
    monkeypatch.setattr("webapp.handler.THREADS", 1)
    monkeypatch.setattr("webapp.handler.HEALTH_THREADS", 1)
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 60)
    seen.clear()
    handler = ThreadedHandler()
    yield handler
    for threads in (handler.threads, handler.health_threads):
        threads.submit(connections.close_all).result()
        threads.shutdown()


def ask(handler: ThreadedHandler, address: str) -> ApplicationCommunicator:
    scope = {"type": "http", "method": "POST", "path": address, "headers": [], "query_string": b""}
    return ApplicationCommunicator(handler, scope)


async def answer(handler: ThreadedHandler, address: str, body: bytes = b"") -> bytes:
    request = ask(handler, address)
    await request.send_input({"type": "http.request", "body": body})
    assert (await request.receive_output(5))["status"] == 200
    received = b""
    more = True
    while more:
        part = await request.receive_output(5)
        received, more = received + part.get("body", b""), part.get("more_body", False)
    await request.wait(5)
    return received


async def test_a_request_has_one_thread_which_the_next_one_has_too_with_the_same_connection(
    handler: ThreadedHandler,
) -> None:
    assert await answer(handler, "/look", b"asked") == b"asked"
    thread, same_thread, kept = seen
    assert thread == same_thread != threading.current_thread().name
    assert await answer(handler, "/look") == b""
    assert seen[3:] == [thread, thread, kept]


async def test_what_is_streamed_comes_whole_and_the_request_is_finished_once(handler: ThreadedHandler) -> None:
    finished: list[object] = []
    request_finished.connect(receiver := lambda **_: finished.append(1))
    assert await answer(handler, "/parts") == b"one two"
    request_finished.disconnect(receiver)
    assert finished == [1]


async def test_health_is_told_while_every_other_request_hangs(handler: ThreadedHandler) -> None:
    may_go_on.clear()
    hanging = ask(handler, "/hang")
    await hanging.send_input({"type": "http.request", "body": b""})
    assert await answer(handler, "/health", b"well") == b"well"
    may_go_on.set()
    assert (await hanging.receive_output(5))["status"] == 200


async def test_a_stream_ends_when_nobody_reads_it_any_more(handler: ThreadedHandler) -> None:
    request = ask(handler, "/for-ever")
    await request.send_input({"type": "http.request", "body": b""})
    assert (await request.receive_output(5))["status"] == 200
    assert (await request.receive_output(5))["body"] == b"more"
    await request.send_input({"type": "http.disconnect"})
    await request.wait(5)
    assert seen[-1] == "nobody reads"


async def test_a_reader_who_left_before_the_request_was_whole_is_not_answered(handler: ThreadedHandler) -> None:
    request = ask(handler, "/look")
    await request.send_input({"type": "http.disconnect"})
    await request.wait(5)
    assert await request.receive_nothing()
    assert seen == []
