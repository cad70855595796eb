"""HTTP/1.1 to one server, on the event loop: calls over kept-alive connections, and answers read as they come.

Only what the Docker Engine's API needs of the protocol. Whatever keeps an answer from coming is an OSError or, where
nothing is heard in time, a TimeoutError. A call that is cancelled takes its connection with it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

READ_BYTES = 64 * 1024
"""Of an answer that is read as it comes; also the longest head of an answer."""

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """`reason` is the server's word for the status."""

    status: int
    reason: str
    body: bytes


class Pool:
    """Calls to a server, `most` of them at a time: each has a connection to itself and leaves it to the next."""

    def __init__(self, connect: Connect, most: int) -> None:
        self._connect = connect
        self._slots = asyncio.Semaphore(most)
        self._idle: list[_Connection] = []

    async def call(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        kind: str = "application/json",
        *,
        within: float,
        repeat: bool,
        urgent: bool = False,
    ) -> Answer:
        """The whole answer, `within` seconds from when it is sent. `kind` is the type of `body`, where there is one.

        `repeat`: it does no harm twice, so it is sent once more where the server may have closed a kept connection just
        before. `urgent`: it does not wait until fewer than `most` are on their way.
        """
        request = _request("1.1", method, target, body, {"Content-Type": kind} if body else {})
        async with contextlib.nullcontext() if urgent else self._slots, asyncio.timeout(within):
            return await self._call(request, repeat)

    async def _call(self, request: bytes, repeat: bool) -> Answer:
        kept = self._kept()
        if kept is not None:
            try:
                return await self._exchange(kept, request)
            except _NoAnswer:
                if not repeat:
                    raise
        return await self._exchange(_Connection(*await self._connect()), request)

    async def _exchange(self, connection: "_Connection", request: bytes) -> Answer:
        try:
            answer, reusable = await connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        if reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _kept(self) -> "_Connection | None":
        """The connection used last that the server has not closed."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
            connection.close()
        return None

    async def open(
        self, method: str, target: str, headers: dict[str, str], *, within: float
    ) -> "tuple[Answer, Stream | None]":
        """The head of the answer `within` seconds, and its body as a stream; of an error the whole answer, and None.

        As HTTP/1.0, whose bodies come as they are, without chunks, on a connection of its own.
        """
        request = _request("1.0", method, target, b"", headers)
        async with asyncio.timeout(within):
            connection = _Connection(*await self._connect())
            try:
                connection.writer.write(request)
                head = await connection.head()
                if head.status < 400:
                    return Answer(head.status, head.reason, b""), Stream(connection.reader, connection.writer)
                answer = Answer(head.status, head.reason, await connection.reader.read())
            except BaseException:
                connection.close()
                raise
        connection.close()
        return answer, None

    def close(self) -> None:
        """Close the connections that wait for a call."""
        while self._idle:
            self._idle.pop().close()


class Stream:
    """A body read as it comes. Reading slowly slows the server: little is buffered here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._asked_at: float | None = None

    async def read(self) -> bytes:
        """The next bytes; b'' at the end, also where the connection was lost."""
        self._asked_at = time.monotonic()
        try:
            return await self._reader.read(READ_BYTES)
        except OSError:
            return b""
        finally:
            self._asked_at = None

    @property
    def silent_seconds(self) -> float:
        """How long whoever reads it has been waiting."""
        return time.monotonic() - self._asked_at if self._asked_at is not None else 0.0

    async def lines(self, silence: float | None = None) -> AsyncIterator[bytes]:
        """Raises TimeoutError where nothing comes for `silence` seconds."""
        rest = b""
        while True:
            async with asyncio.timeout(silence):
                data = await self.read()
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line

    def close(self) -> None:
        self._writer.close()


# --- On the wire -----------------------------------------------------------------------------------------------


class _NoAnswer(ConnectionError):
    """The server closed the connection before a word."""


@dataclass(frozen=True, slots=True)
class _Head:
    """The names of `headers` are in lower case."""

    status: int
    reason: str
    headers: dict[str, str]


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @property
    def open(self) -> bool:
        return not (self.reader.at_eof() or self.reader.exception() or self.writer.is_closing())

    def close(self) -> None:
        self.writer.close()

    async def exchange(self, request: bytes) -> tuple[Answer, bool]:
        """Send a request, read its answer; whether the connection can be used again."""
        self.writer.write(request)
        head = await self.head()
        try:
            body, whole = await self._body(head)
        except asyncio.IncompleteReadError:
            raise ConnectionError("the answer broke off") from None
        except (ValueError, asyncio.LimitOverrunError):
            raise ConnectionError("the answer is no HTTP") from None
        return Answer(head.status, head.reason, body), whole and head.headers.get("connection", "").lower() != "close"

    async def head(self) -> _Head:
        while True:
            try:
                data = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise ConnectionError("the answer broke off") from None
                raise _NoAnswer("the connection was closed without an answer") from None
            except asyncio.LimitOverrunError:
                raise ConnectionError("the answer is no HTTP") from None
            except ConnectionError as error:
                raise _NoAnswer(str(error)) from None
            head = _parse(data)
            if head.status >= 200:  # Others only announce it.
                return head

    async def _body(self, head: _Head) -> tuple[bytes, bool]:
        """The body, and whether it had an end of its own."""
        if head.status in (204, 304):
            return b"", True
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._chunks(), True
        if "content-length" in head.headers:
            return await self.reader.readexactly(int(head.headers["content-length"])), True
        return await self.reader.read(), False

    async def _chunks(self) -> bytes:
        chunks = []
        while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            chunks.append((await self.reader.readexactly(size + 2))[:-2])
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass  # Headers may follow the body.
        return b"".join(chunks)


def _request(version: str, method: str, target: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [
        f"{method} {target} HTTP/{version}",
        "Host: docker",
        *(f"{name}: {text}" for name, text in headers.items()),
    ]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _parse(data: bytes) -> _Head:
    """Raises ConnectionError."""
    first, *rest = data.decode("latin-1").split("\r\n")
    protocol, _, words = first.partition(" ")
    status, _, reason = words.partition(" ")
    if not protocol.startswith("HTTP/1.") or not status.isdecimal():
        raise ConnectionError("the answer is no HTTP")
    headers = {name.lower(): text.strip() for name, colon, text in (line.partition(":") for line in rest) if colon}
    return _Head(int(status), reason, headers)
