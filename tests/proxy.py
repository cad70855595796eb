"""A TCP forwarder, by which a test cuts the network between a process and Redis, or an engine and a registry."""

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from typing import Self

READ_BYTES = 64 * 1024


class Proxy:
    """Forwards connections on `port`, on loopback, to another port there or the path of a socket, until `close()`."""

    def __init__(self, target: int | str) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._server = self._do(asyncio.start_server(self._accept, "127.0.0.1", 0)).result()
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def hang(self) -> None:
        """Connections stay open and nothing passes, as with a cable pulled."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def lose(self) -> None:
        """The connections of now stay open and nothing passes on them ever again; new ones work."""
        self._loop.call_soon_threadsafe(self._lose)

    def cut(self) -> None:
        """Connections are closed and new ones are closed at once, as by a firewall."""
        self._do(self._cut()).result()

    def heal(self) -> None:
        """Everything passes again; what was held back by `hang` comes late."""
        self._refusing = False
        self._loop.call_soon_threadsafe(self._flowing.set)

    def close(self) -> None:
        self._do(self._cut()).result()
        self._do(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _do(self, work: "asyncio.coroutines.Coroutine[None, None, object]") -> "Future[asyncio.Server]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)  # type: ignore[arg-type]

    async def _cut(self) -> None:
        self._refusing = True
        for writer in list(self._writers):
            writer.close()

    async def _end(self) -> None:
        self._server.close()
        pumps = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def _lose(self) -> None:
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.close()
            return
        try:
            there, back = await self._connect()
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        flowing = self._flowing
        # Whoever accepted the connection asks this task for its exception, which a cancelled one has not.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._pump(reader, back, flowing), self._pump(there, writer, flowing))
        self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
        try:
            while data := await reader.read(READ_BYTES):
                await flowing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
