"""Calls over kept-alive connections, to a server of the test's own that says exactly what it is told to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from agent.http import Answer, Pool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CLOSE = b""
HANG = b"hang"
LAST = b"last:"


class Server:
    """Answers each request with the next of `script`. `CLOSE` closes the connection instead, `HANG` says nothing more
    on it, and it is closed after an answer that begins with `LAST`."""

    def __init__(self, *script: bytes) -> None:
        self.script = list(script)
        self.connections = 0
        self.requests: list[bytes] = []
        self.asked, self.closed = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.partition(b"Content-Length: ")[2].partition(b"\r")[0]
                self.requests.append(head + await reader.readexactly(int(length or 0)))
                self.asked.set()
                answer = self.script.pop(0)
                if answer == CLOSE:
                    break
                if answer == HANG:
                    await reader.read()
                    break
                writer.write(answer.removeprefix(LAST))
                if answer.startswith(LAST):
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()
            self.closed.set()


Start = Callable[..., Awaitable[tuple[Server, Pool]]]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    servers: list[asyncio.Server] = []
    pools: list[Pool] = []

    async def begin(*script: bytes, most: int = 4) -> tuple[Server, Pool]:
        server = Server(*script)
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        servers.append(listening)
        pools.append(Pool(lambda: asyncio.open_connection("127.0.0.1", port), most))
        return server, pools[-1]

    yield begin
    for pool in pools:
        pool.close()
    for listening in servers:
        listening.close()


async def get(pool: Pool, *, within: float = 5, repeat: bool = True, urgent: bool = False) -> Answer:
    return await pool.call("GET", "/x", within=within, repeat=repeat, urgent=urgent)


async def test_one_connection_serves_call_after_call_however_the_body_ends(start: Start) -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n4\r\n\r\n\r\n\r\n0\r\nTrailer: z\r\n\r\n"
    )
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    server, pool = await start(OK, chunked, empty, early, OK)
    answers = [await get(pool) for _ in range(5)]
    assert [(answer.status, answer.body) for answer in answers] == [
        (200, b"hi"),
        (200, b"abc\r\n\r\n"),
        (204, b""),
        (404, b""),
        (200, b"hi"),
    ]
    assert answers[3].reason == "Not Found"
    assert server.connections == 1


async def test_a_body_goes_with_its_length_and_kind(start: Start) -> None:
    server, pool = await start(OK)
    await pool.call("POST", "/things?name=a", b'{"a": "\xc3\xa9"}', "application/json", within=5, repeat=False)
    assert server.requests == [
        b"POST /things?name=a HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n"
        b'{"a": "\xc3\xa9"}'
    ]


async def test_a_body_without_a_length_ends_with_its_connection(start: Start) -> None:
    server, pool = await start(LAST + b"HTTP/1.0 200 OK\r\n\r\nall there is", OK)
    assert (await get(pool)).body == b"all there is"
    assert (await get(pool)).body == b"hi"
    assert server.connections == 2


async def test_a_connection_that_the_server_wants_closed_or_has_closed_is_not_used_again(start: Start) -> None:
    wants = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    server, pool = await start(wants, LAST + OK, OK)
    await get(pool)
    await get(pool, repeat=False)
    assert server.connections == 2
    assert await pool._idle[0].reader.read() == b""
    assert (await get(pool, repeat=False)).body == b"hi"
    assert server.connections == 3


async def test_what_may_be_done_twice_is_sent_again_once_where_a_kept_connection_breaks(start: Start) -> None:
    server, pool = await start(OK, CLOSE, OK, CLOSE, OK, CLOSE, CLOSE)
    await get(pool)
    assert (await get(pool)).body == b"hi"
    assert (server.connections, len(server.requests)) == (2, 3)
    with pytest.raises(OSError, match="without an answer"):
        await get(pool, repeat=False)
    assert len(server.requests) == 4
    await get(pool)
    with pytest.raises(OSError, match="without an answer"):
        await get(pool)
    assert len(server.requests) == 7, "the second time it had a fresh connection: the server is away"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP"),
        (b"x" * 200_000, "no HTTP"),
    ],
)
async def test_nonsense_is_an_error_in_words_and_is_not_sent_again(start: Start, said: bytes, complaint: str) -> None:
    server, pool = await start(OK, said)
    await get(pool)
    with pytest.raises(OSError, match=complaint):
        await get(pool)
    assert len(server.requests) == 2


async def test_an_answer_that_breaks_off_is_an_error(start: Start) -> None:
    _, pool = await start(LAST + b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    with pytest.raises(OSError, match="broke off"):
        await get(pool)


async def test_a_silent_server_is_given_up_and_its_connection_closed(start: Start) -> None:
    server, pool = await start(HANG, OK)
    with pytest.raises(TimeoutError):
        await get(pool, within=0.1)
    async with asyncio.timeout(5):
        await server.closed.wait()
    assert (await get(pool)).body == b"hi"


async def test_a_cancelled_call_closes_its_connection_and_gives_back_its_turn(start: Start) -> None:
    server, pool = await start(HANG, OK, most=1)
    hanging = asyncio.create_task(get(pool))
    waiting = asyncio.create_task(get(pool))
    async with asyncio.timeout(5):
        await server.asked.wait()
        hanging.cancel()
        await server.closed.wait()
        assert (await waiting).body == b"hi"
        assert [len(server.requests), server.connections] == [2, 2]


async def test_an_urgent_call_does_not_wait_its_turn(start: Start) -> None:
    server, pool = await start(HANG, OK, most=1)
    hanging = asyncio.create_task(get(pool))
    async with asyncio.timeout(5):
        await server.asked.wait()
        assert (await get(pool, urgent=True)).body == b"hi"
    hanging.cancel()


async def test_a_stream_is_read_as_it_comes_and_a_refusal_whole(start: Start) -> None:
    said = LAST + b"HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\none\ntwo\nthr"
    server, pool = await start(said, LAST + b"HTTP/1.1 409 Conflict\r\n\r\nno")
    headers = {"X-Registry-Auth": "secret"}
    answer, stream = await pool.open("POST", "/attach", headers, within=5)
    assert answer.status == 200 and stream
    assert [line async for line in stream.lines(5)] == [b"one", b"two"]
    stream.close()
    assert b"X-Registry-Auth: secret\r\nContent-Length: 0\r\n\r\n" in server.requests[0]
    answer, stream = await pool.open("GET", "/logs", {}, within=5)
    assert (answer.status, answer.body, stream) == (409, b"no", None)
