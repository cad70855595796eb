"""A container's output to `job_logs:{job_id}`: frames to lines to Redis, exact and in order.

Exactness rests on one idea: Redis itself says how far an attempt's log has come. The script that appends lines stores,
in the same step, the position in the container's raw output after them, so whatever is interrupted (the agent, Redis,
the attached connection) is taken up again from there by reading the engine's own copy of the log and skipping to it.
"""

import asyncio
import codecs
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import hiredis
import redis.asyncio
from redis.exceptions import ResponseError

from agent.batch import Batch, Pieces
from agent.log_scripts import CLOSE, FULL, OPEN, SETTLE, SKIP, TELL
from agent.protocol import ARCHIVE_AFTER_BYTES, ARCHIVE_AFTER_SECONDS, MOST_TAIL, NOTED, Keys

logger = logging.getLogger(__name__)

STDOUT, STDERR = 1, 2
STREAM_NAMES = {STDOUT: b"stdout", STDERR: b"stderr"}
MAX_LINE = 64 * 1024
"""Bytes; a longer line is stored as several elements."""
LONGEST_PAUSE = 2.0
"""Seconds between two tries to append while the archive lags behind."""
TRIES_TO_TELL = 15
"""In vain, over about six seconds."""
WAITS_SECONDS = 60
"""How long a later attempt leaves the log to one that waited for the archive and was not heard of since."""
EMPTIED_SECONDS = 10
"""How long a later attempt leaves the log in an emptied Redis to an earlier one whose agent may have to write it again:
longer than that agent takes to reach Redis, and to look."""
TURN_SECONDS = 3
"""So much longer for each attempt from the third on: they come in their order."""
PIECES = 64
"""Of what Redis keeps of a log; the oldest one is dropped where it is too much."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


# --- Frames ----------------------------------------------------------------------------------------------------


class FrameParser:
    """Cuts the engine's multiplexed stream (8 bytes of header: stream, length) into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames completed by `data`, in order, as (stream, payload)."""
        if self._rest:
            data = self._rest + data
        frames, position, end = [], 0, len(data)
        while end - position >= 8:
            stream, size = _HEADER.unpack_from(data, position)
            stop = position + 8 + size
            if stop > end:
                break
            frames.append((stream, data[position + 8 : stop]))
            position = stop
        self._rest = data[position:]
        return frames


_HEADER = struct.Struct(">BxxxL")


def merge(frames: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The same output with neighbouring frames of one stream joined, which makes splitting it cheap."""
    runs: list[tuple[int, list[bytes]]] = []
    for stream, payload in frames:
        if runs and runs[-1][0] == stream:
            runs[-1][1].append(payload)
        else:
            runs.append((stream, [payload]))
    return [(stream, b"".join(payloads)) for stream, payloads in runs]


# --- Lines -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Position:
    """How much of one stream has become lines: its newlines, and bytes of the line after the last of them.

    Newlines are counted because the engine's copy of a log differs from the live stream in bytes (it replaces invalid
    UTF-8) but never in newlines. `tail` is not 0 only within a line over MAX_LINE and after a last line without a
    newline; it counts U+FFFD as one, because that is what each invalid byte becomes in the engine's copy.
    """

    newlines: int = 0
    tail: int = 0


_BEGIN = Position()


class LineSplitter:
    """One stream's bytes to lines, from a position on: what lies before it is skipped."""

    def __init__(self, start: Position = _BEGIN) -> None:
        self.position = start
        self.first_line = self.last_line = b""
        """Of those that came through here, in as far as there were any."""
        self._skip_newlines, self._skip_tail = start.newlines, start.tail
        self._carry = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines (or pieces of over-long ones) that `data` completes, clean, without their newline."""
        if self._skip_newlines or self._skip_tail:
            data = self._skip(data)
        if self._carry:
            data = self._carry + data
        lines = data.split(b"\n")
        self._carry = lines.pop()
        newlines, tail = self.position.newlines, self.position.tail
        if lines:
            newlines, tail = newlines + len(lines), 0
        if len(data) > MAX_LINE:
            if lines and max(map(len, lines)) > MAX_LINE:
                lines = [piece for line in lines for piece in _pieces(line)]
            *pieces, self._carry = _pieces(self._carry)
            lines += pieces
            tail += sum(map(_measure, pieces))
        self.position = Position(newlines, tail)
        return self._clean(lines, data)

    def flush(self) -> list[bytes]:
        """At the end of the output: its last line, where no newline ended it."""
        rest, self._carry = self._carry, b""
        if not rest:
            return []
        self.position = Position(self.position.newlines, self.position.tail + _measure(rest))
        return self._clean([rest], rest)

    @property
    def unfinished(self) -> bytes:
        """What stands behind the last newline so far, clean: of more than MOST_TAIL bytes the last. A character that is
        not whole yet is left out."""
        if not self._carry:
            return b""
        text, _ = codecs.utf_8_decode(self._carry[-MOST_TAIL:], "replace", False)
        if len(self._carry) > MOST_TAIL:
            text = text.lstrip("\N{REPLACEMENT CHARACTER}")
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode()

    def _clean(self, lines: list[bytes], data: bytes) -> list[bytes]:
        if lines:
            if b"\0" in data or not data.isascii():
                lines = [_printable(line) for line in lines]
            self.first_line, self.last_line = self.first_line or lines[0], lines[-1]
        return lines

    def _skip(self, data: bytes) -> bytes:
        found = data.count(b"\n")
        if found < self._skip_newlines:
            self._skip_newlines -= found
            return b""
        if self._skip_newlines:
            data = data.split(b"\n", self._skip_newlines)[-1]
            self._skip_newlines = 0
        skipped = min(self._skip_tail, len(data))
        self._skip_tail -= skipped
        return data[skipped:]


def _pieces(line: bytes) -> list[bytes]:
    """The line in pieces of at most MAX_LINE bytes, never cut within a UTF-8 character, never an empty piece at the
    end of a longer line; [line] where it is short."""
    pieces = []
    while len(line) > MAX_LINE:
        cut = MAX_LINE
        while cut > MAX_LINE - 3 and line[cut] & 0xC0 == 0x80:
            cut -= 1
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]


def _measure(raw: bytes) -> int:
    return len(raw) - 2 * raw.count(REPLACEMENT)


def _printable(line: bytes) -> bytes:
    return line.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}").encode()


def as_stored(payload: bytes) -> bytes:
    """A frame of the engine's copy with each U+FFFD as one invalid byte again, so that positions agree with the live
    stream's; it is turned into U+FFFD with the rest."""
    return payload if payload.isascii() else payload.replace(REPLACEMENT, b"\xff")


def stamp(moment: datetime) -> bytes:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()


def note(text: str) -> bytes:
    """A line that the system itself puts into a log."""
    return b"%s %s %s" % (stamp(datetime.now(UTC)), NOTED.encode(), text.encode())


# --- Redis -----------------------------------------------------------------------------------------------------


class Superseded(Exception):
    """A later attempt of the job writes the log; nothing of this one may be added any more."""


class OutOfStep(Exception):
    """Redis's log does not end where this writer thought (it was emptied): read again from the position it says."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far an attempt's log has come; `first` and `last` are the times of its first and last line, or ''."""

    first: str
    last: str
    stdout: Position
    stderr: Position


Tails = tuple[bytes, bytes]
"""The unfinished lines of stdout and stderr."""
NO_TAILS: Tails = (b"", b"")


class LogWriter:
    """The only writer of one attempt's lines in Redis.

    Redis keeps the newest `limit_bytes` of the log, and all that is not archived yet: the scheduler's process archives
    (`jobs/archiver.py`), which it is asked for by the set `logs_to_archive`. Where twice the limit waits for that,
    `append` waits too. Each method waits for Redis as long as it is away (through `patiently`), and raises Superseded
    or OutOfStep.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: Keys,
        job_id: str,
        attempt: int,
        *,
        limit_bytes: int,
        patiently: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]],
    ) -> None:
        self._patiently = patiently
        self._keys = [keys.job_logs(job_id), keys.job_logs_meta(job_id), keys.logs_to_archive]
        self._channel = keys.log_channel(job_id)
        self._job_id, self._attempt, self._limit = job_id, attempt, limit_bytes
        self._client = client
        self._open, self._close = client.register_script(OPEN), client.register_script(CLOSE)
        self._tell, self._skip = client.register_script(TELL), client.register_script(SKIP)
        self._shipped = 0
        self._pieces = Pieces(limit_bytes // PIECES)
        self._told = NO_TAILS
        self._turn, self._turn_begins = EMPTIED_SECONDS + TURN_SECONDS * max(0, attempt - 2), float("-inf")
        self.stuck = asyncio.Event()
        """Set while `open` or `append` has been waiting for the archive so long that it may be a matter of hours."""

    async def open(self, *, ended: bool = False) -> Reached:
        """Begin the attempt's log, with a word on the attempt before where that one's is not whole, or find how far it
        has come. Waits while the log of an attempt before waits for the archive, or may have to be written anew: no
        line of it is to be lost. `ended`: this attempt was reported, so others may come after it and are to wait."""
        cut = note("Attempt "), " was cut off here; whatever else it printed is missing"

        def begin() -> Awaitable[Any]:
            emptied = time.monotonic() < self._turn_begins
            attempt: list[Any] = [self._attempt, self._job_id, *cut, WAITS_SECONDS]
            return self._open(self._keys, [*attempt, int(ended), int(emptied), self._turn])

        first, last, *numbers = await self._once_archived(begin)
        self._shipped, *positions = map(int, numbers)
        self._pieces.keep(0)
        self._told = NO_TAILS
        return Reached(first.decode(), last.decode(), Position(*positions[:2]), Position(*positions[2:]))

    async def append(self, batch: Batch, stdout: Position, stderr: Position, tails: Tails = NO_TAILS) -> None:
        """Add lines, which end at these positions; for `tails` see `tell`. Doing it twice adds them once."""
        positions = [stdout.newlines, stdout.tail, stderr.newlines, stderr.tail]
        moments = [line.split(b" ", 1)[0] for line in (batch.first, *batch.newest(1))]
        archiving = [self._job_id, ARCHIVE_AFTER_BYTES, ARCHIVE_AFTER_SECONDS]
        last: list[Any] = [*tails, WAITS_SECONDS, self._pieces.count, *self._pieces.oldest()]
        arguments = [self._attempt, self._shipped, batch.count, batch.size, self._limit, *moments, *positions]
        settle = [SETTLE, len(self._keys), *self._keys, *arguments, self._channel, *archiving, *last]
        commands = batch.rpush(self._keys[0]), hiredis.pack_command(("EVAL", *settle))

        async def add() -> Any:
            return (await _transaction(self._client, commands))[-1]

        self._shipped, held = await self._once_archived(add)
        self._pieces.add(batch.count, batch.size)
        self._pieces.keep(held)
        self._told = tails

    async def tell(self, tails: Tails) -> None:
        """Say what each stream has printed behind its last newline, for who watches: no line, and it counts as none."""
        if tails != self._told:
            await self._run(lambda: self._tell(self._keys, [self._attempt, self._shipped, self._channel, *tails]))
            self._told = tails

    @property
    def shipped(self) -> int:
        """How many lines of the attempt are in its log, or were."""
        return self._shipped

    async def tail(self, count: int) -> list[bytes]:
        """The attempt's newest lines, `count` at most."""
        count = min(count, self._shipped)
        return await self._run(lambda: self._client.lrange(self._keys[0], -count, -1)) if count else []

    async def skip(self, lines: int | None) -> None:
        """The attempt's log, in which there is nothing yet, begins so many lines later: those are gone from here.
        None: nobody here knows how many; whoever archives it counts on from what is archived."""
        await self._run(lambda: self._skip(self._keys, [self._attempt, "" if lines is None else lines]))

    def emptied(self) -> None:
        """Redis has lost this log: an attempt before it may have to be written anew as well, and comes first."""
        self._turn_begins = time.monotonic() + self._turn

    async def close(self) -> None:
        """Mark the log complete. Whoever archives it says how long Redis keeps it."""
        arguments: list[Any] = [self._attempt, self._shipped, self._job_id, self._channel, WAITS_SECONDS]
        await self._run(lambda: self._close(self._keys, arguments))

    async def _once_archived(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer, which comes when the archive no longer lags behind."""
        tries = 0
        while (answer := await self._run(call)) == FULL:
            tries += 1
            if tries == TRIES_TO_TELL:
                self.stuck.set()
                logger.warning("The log of job %s waits for the archive or an earlier attempt's log", self._job_id)
            await asyncio.sleep(min(0.05 * tries, LONGEST_PAUSE))
        self.stuck.clear()
        return answer

    async def _run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        answer = await self._patiently(call)
        if answer == -1:
            raise Superseded
        if answer == -2:
            self.emptied()
            raise OutOfStep
        return answer


_BEGIN_TRANSACTION, _END_TRANSACTION = hiredis.pack_command(("MULTI",)), hiredis.pack_command(("EXEC",))


async def _transaction(client: redis.asyncio.Redis, commands: Sequence[bytes]) -> list[Any]:
    """What Redis answers to commands that are in its protocol already, done all or none of them. redis-py would pack
    them once more, argument by argument: each line is one. Raises as redis-py does."""
    pool = client.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.send_packed_command([b"".join([_BEGIN_TRANSACTION, *commands, _END_TRANSACTION])])
        refused = []
        for _ in range(1 + len(commands)):
            try:
                await connection.read_response()
            except ResponseError as error:
                refused.append(error)
        try:
            answers: list[Any] = await connection.read_response()
        except ResponseError as error:
            raise refused[0] if refused else error from None
    finally:
        await pool.release(connection)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
