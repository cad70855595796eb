"""One attempt's output on its way from the engine to Redis, with bounded memory and whatever is interrupted.

The live stream (`attach`) is the fast way. The engine's own copy (`logs`) is the sure one: from there an attempt's log
is taken up again after a restart of the agent or the engine, after Redis was emptied, and when Redis is away for so
long that waiting for it would hold up the container.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from docker.errors import APIError

from agent.batch import Batch
from agent.engine import Engine, EngineAway
from agent.http import Stream
from agent.logs import (
    STDERR,
    STDOUT,
    STREAM_NAMES,
    FrameParser,
    LineSplitter,
    LogWriter,
    OutOfStep,
    Position,
    Reached,
    Superseded,
    as_stored,
    merge,
    note,
    stamp,
)
from agent.places import MICROSECONDS, NANOSECONDS, SAME_MOMENT, TAIL_LINES, Search, earlier, moment
from agent.unfinished import Unfinished, watch

logger = logging.getLogger(__name__)

LINGER = 0.1
"""Seconds at least between two shipments, unless a batch is full."""
TAIL_LINGER = 0.2
"""The same where there is only more of a line that has not ended, such as a progress bar."""
LONGEST_HOLD = 1.0
"""Seconds that the live stream may wait for Redis: a container that ends while its output is not read loses the rest
of it after two seconds, and one that prints stands still."""
CUT = "Docker keeps only the newest part of so long an output: an unknown number of lines is missing here, or repeated"
REMOVED = "The container was removed before all of its output had been read: any further lines are missing"
MUCH = 64 * 1024 * 1024
"""Bytes read, of the ten times as many that Docker keeps: the time of the first line is worth keeping then."""
SILENT_SECONDS = 10.0
"""A stream that neither says anything nor ends for this long after its container's end leads nowhere any more."""
EVENT_SECONDS = 0.2
END_SECONDS = 2.0
"""A stream ends this much before the engine says that its container has ended, at most."""


class Stalled(Exception):
    """The live stream was held up for too long."""


class _Gone(Exception):
    """The engine has no copy of the output any more."""


class Rotated(Exception):
    """The engine's copy no longer has its beginning: positions cannot be counted in it."""


class Batcher:
    """Collects lines and ships them: at once when none went for LINGER seconds, else after it or when full."""

    def __init__(self, writer: LogWriter, full_bytes: int, stdout: Position, stderr: Position) -> None:
        """`full_bytes` is what is kept while Redis is slow; output before the positions is skipped."""
        self.splitters = {STDOUT: LineSplitter(stdout), STDERR: LineSplitter(stderr)}
        self._writer, self._full_bytes = writer, full_bytes
        self._batch = Batch()
        self.first = b""
        self.tail: list[bytes] = []
        """The newest lines shipped."""
        self.beside: Unfinished | None = None
        """Knows the unfinished lines where what is read has whole lines only."""
        self._some, self._full, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._ended = False

    def take_live(self, frames: list[tuple[int, bytes]]) -> None:
        now = stamp(datetime.now(UTC))
        for stream, payload in merge(frames):
            self._add(now, stream, self.splitters[stream].feed(payload))
        self._some.set()  # also for what is no line yet

    def take_stored(self, frames: list[tuple[int, bytes]]) -> None:
        """Frames of the engine's copy: each begins with the time at which it was printed."""
        for stream, payload in frames:
            lines = self.splitters[stream].feed(as_stored(payload[NANOSECONDS:]))
            self._add(payload[:MICROSECONDS] + b"Z", stream, lines)

    def end(self, flush: bool) -> None:
        """Nothing more comes. `flush`: it is the end of the output, so a last line needs no newline."""
        now = stamp(datetime.now(UTC))
        for stream, splitter in self.splitters.items():
            if flush:
                self._add(now, stream, splitter.flush())
        self._ended, self.beside = True, None
        self._some.set()
        self._full.set()

    def look_beside(self) -> None:
        """What `beside` knows has changed."""
        self._some.set()

    def _add(self, when: bytes, stream: int, lines: list[bytes]) -> None:
        if not lines:
            return
        prefix = b"%s %s " % (when, STREAM_NAMES[stream])
        self.first = self.first or when
        self._batch.add(prefix, lines)
        self._some.set()
        if self._batch.size >= self._full_bytes // 2:
            self._full.set()

    @property
    def is_full(self) -> bool:
        return self._batch.size >= self._full_bytes

    async def room(self) -> None:
        """Wait while the buffer is full."""
        while self.is_full:
            self._room.clear()
            await self._room.wait()

    async def ship(self) -> None:
        """Write what is collected, until `end()`. Raises Superseded and OutOfStep."""
        last = float("-inf")
        while True:
            await self._some.wait()
            await self._linger(last)
            batch, ended = self._batch, self._ended
            self._batch = Batch()
            self._some.clear()
            self._full.clear()
            self._room.set()
            last = time.monotonic()
            stdout, stderr = self.splitters[STDOUT], self.splitters[STDERR]
            tails = self.beside.tails if self.beside else (stdout.unfinished, stderr.unfinished)
            if batch.count:
                await self._writer.append(batch, stdout.position, stderr.position, tails)
                self.tail = (self.tail + batch.newest(TAIL_LINES))[-TAIL_LINES:]
            else:
                await self._writer.tell(tails)
            if ended:
                return

    async def _linger(self, last: float) -> None:
        """Wait for the time of the next shipment, the last one having been at `last`."""
        while not self._full.is_set():
            rest = last + (LINGER if self._batch.count else TAIL_LINGER) - time.monotonic()
            if rest <= 0:
                return
            try:
                async with asyncio.timeout(min(rest, LINGER)):
                    await self._full.wait()
            except TimeoutError:
                continue


class Output:
    """Ships one container's output from where Redis has it to its end."""

    def __init__(
        self,
        engine: Engine,
        container_id: str,
        writer: LogWriter,
        buffer_bytes: int,
        attached: Stream | None,
        first: str,
        keep_first: Callable[[str], None],
    ) -> None:
        """`first` is when the first line was printed, as far as an agent before this one kept it, or ''; `keep_first`
        is called with that time where it may be needed when Redis has forgotten it."""
        self._engine, self._container_id, self._writer = engine, container_id, writer
        self._buffer_bytes = buffer_bytes
        self._attached = attached
        self._since = self._begins = ""
        """Where the engine's copy has lost its beginning: the time from which on it is read and positions count, and
        when the first line there was printed."""
        self._rotated = False
        self._placed: tuple[int, Position, Position] | None = None
        """Positions that Redis does not know yet: they hold as long as so many lines are shipped."""
        self._first, self._tail, self._had = first, list[bytes](), 0
        """Of what Redis once had: the time of the first line, the last lines, and how many there were."""
        self._keep_first, self._read_bytes = keep_first, 0
        self.first_stderr = self.last_stderr = b""
        self._reported = False

    async def ship(self, exited: asyncio.Event, look: Callable[[], None]) -> bool:
        """Returns when the log is complete, or a later attempt has taken it over; True where everything was shipped.

        `exited` is set when the container is known to have ended; `look` asks for a look at it now.
        """
        while True:
            try:
                if await self._ship_once(exited, look):
                    await self._writer.close()
                    return True
            except Superseded:
                logger.info("Container %.12s: a later attempt writes the job's log", self._container_id)
                return False
            except Stalled:
                logger.info("Container %.12s: Redis is slow, going on from Docker's copy", self._container_id)
            except OutOfStep:
                self._begin_anew()
            except Rotated:
                logger.warning("Container %.12s: Docker has dropped the beginning of its log", self._container_id)
                self._rotated = True
            except _Gone:
                with contextlib.suppress(Superseded, OutOfStep):
                    reached = await self._writer.open()
                    await self._add_note(REMOVED, reached.stdout, reached.stderr)
                    await self._writer.close()
                return False
            except (EngineAway, APIError) as error:
                logger.info("Container %.12s: its output cannot be read now: %s", self._container_id, error)
                await asyncio.sleep(1)

    async def ship_anew(self) -> bool:
        """As `ship`, of a container that has ended and whose end was reported: Redis has lost its log since."""
        self._begin_anew()
        self._writer.emptied()
        self._reported = True
        exited = asyncio.Event()
        exited.set()
        return await self.ship(exited, lambda: None)

    @property
    def stuck(self) -> asyncio.Event:
        """Set while it has been waiting for the archive so long that it may be a matter of hours."""
        return self._writer.stuck

    @property
    def lines(self) -> int:
        """How many were shipped."""
        return self._writer.shipped

    def _begin_anew(self) -> None:
        logger.info("Container %.12s: Redis has lost its log, writing it again", self._container_id)
        self._since, self._begins, self._placed = "", "", None
        self._had = max(self._had, self._writer.shipped)

    async def _ship_once(self, exited: asyncio.Event, look: Callable[[], None]) -> bool:
        """Ship one stream to its end; True where that is the end of the container's output."""
        live, generation = self._attached is not None, self._engine.generation
        stream, self._attached = self._attached, None
        whole = live or exited.is_set()
        try:
            reached = await self._open(live)
            self._first = self._first or reached.first
            if self._first and not live:
                self._keep_first(self._first)
            if self._rotated:
                await self._find_place(reached)
            if self._placed and self._placed[0] == self._writer.shipped:
                reached = replace(reached, stdout=self._placed[1], stderr=self._placed[2])
            if stream is None:
                stream = await self._logs(follow=not whole)
            batcher = Batcher(self._writer, self._buffer_bytes, reached.stdout, reached.stderr)
            shipping = asyncio.create_task(batcher.ship())
            reading = asyncio.create_task(self._read(stream, batcher, live, reached))
            waiting = asyncio.create_task(_stands_still(stream, exited))
            tasks = [shipping, reading, waiting]
            if not whole:
                batcher.beside = Unfinished()
                tasks.append(
                    asyncio.create_task(watch(self._engine, self._container_id, batcher.beside, batcher.look_beside))
                )
            try:
                await asyncio.wait({shipping, reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if shipping.done():
                    shipping.result()
                if not reading.done():
                    raise EngineAway("the stream stands still")
                reading.result()
                ended = await _ends(exited, look) and whole and generation == self._engine.generation
                batcher.end(flush=ended)
                await shipping
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._first = self._first or batcher.first.decode()
                self._tail = batcher.tail or self._tail
            self.last_stderr = batcher.splitters[STDERR].last_line
            self.first_stderr = self.first_stderr or batcher.splitters[STDERR].first_line
            return ended
        finally:
            if stream:
                stream.close()

    async def _logs(self, follow: bool) -> Stream:
        """Raises _Gone where Docker has no copy of it, or gives none out any more: it removes the container, or could
        not."""
        try:
            return await self._engine.logs(self._container_id, follow=follow, since=self._since)
        except APIError as error:
            if error.status_code in (404, 409):
                raise _Gone from None
            raise

    async def _open(self, live: bool) -> Reached:
        try:
            async with asyncio.timeout(LONGEST_HOLD if live else None):
                return await self._writer.open(ended=self._reported)
        except TimeoutError:
            raise Stalled from None

    async def _read(self, stream: Stream, batcher: Batcher, live: bool, reached: Reached) -> None:
        parser = FrameParser()
        take = batcher.take_live if live else batcher.take_stored
        check = not live
        while data := await stream.read():
            frames = parser.feed(data)
            if check and frames:
                check = False
                self._check_beginning(frames[0][1])
            take(frames)
            self._read_bytes += len(data)
            if self._read_bytes > MUCH and batcher.first:
                self._first = self._first or batcher.first.decode()
                self._keep_first(self._first)
            if batcher.is_full:
                try:
                    async with asyncio.timeout(LONGEST_HOLD if live else None):
                        await batcher.room()
                except TimeoutError:
                    raise Stalled from None

    def _check_beginning(self, payload: bytes) -> None:
        """Raises Rotated where this is not the first line that there was."""
        begins = payload[:NANOSECONDS].decode()
        if self._begins:
            rotated = begins != self._begins
        else:
            rotated = (
                bool(self._first) and moment(payload[:MICROSECONDS] + b"Z") > moment(self._first.encode()) + SAME_MOMENT
            )
        if rotated:
            raise Rotated

    async def _find_place(self, reached: Reached) -> None:
        """Find where the log goes on in a copy that has lost its beginning, and say so in it where that is not sure."""
        tail = await self._writer.tail(TAIL_LINES) or self._tail
        self._since = earlier(reached.last, SAME_MOMENT) if reached.last else ""
        search, parser, self._begins = Search(tail), FrameParser(), ""
        stream = await self._logs(follow=False)
        try:
            while data := await stream.read():
                frames = parser.feed(data)
                if frames and not self._begins:
                    self._begins = frames[0][1][:NANOSECONDS].decode()
                if not search.take(frames):
                    break
        finally:
            stream.close()
        place = search.place()
        stdout, stderr = place.stdout, place.stderr
        if not reached.last:  # Redis was emptied: all that is left is written again, from its right number on.
            stdout = stderr = Position()
            known = bool(self._had)
            await self._writer.skip(max(0, self._had - (place.lines if place.sure else 0)) if known else None)
        if not place.sure:
            await self._add_note(CUT, stdout, stderr)
        self._placed, self._rotated = (self._writer.shipped, stdout, stderr), False

    async def _add_note(self, text: str, stdout: Position, stderr: Position) -> None:
        await self._writer.append(Batch([note(text)]), stdout, stderr)


async def _stands_still(stream: Stream, exited: asyncio.Event) -> None:
    await exited.wait()
    while True:
        await asyncio.sleep(SILENT_SECONDS)
        if stream.silent_seconds >= SILENT_SECONDS:
            return


async def _ends(exited: asyncio.Event, look: Callable[[], None]) -> bool:
    """Whether the container is known to have ended: by the engine's event, which comes about now, or a look at it."""
    for seconds in (EVENT_SECONDS, END_SECONDS):
        try:
            async with asyncio.timeout(seconds):
                await exited.wait()
            return True
        except TimeoutError:
            look()
    return False
