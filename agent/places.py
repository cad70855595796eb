"""Where a log goes on in an engine's copy of the output that has lost its beginning: after the lines it ends with.

As long as that copy is whole, positions are counted from its beginning. Once the engine has dropped its oldest file,
nothing counts any more, and the last lines that were shipped are looked for instead. Pure.
"""

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agent.logs import STDERR, STDOUT, STREAM_NAMES, LineSplitter, Position, as_stored

NANOSECONDS = len("2026-11-24T13:42:48.123456789Z ")
MICROSECONDS = len("2026-11-24T13:42:48.123456")
SAME_MOMENT = 5.0
"""Seconds by which our time of a line and the engine's own may differ."""
TAIL_LINES = 200
"""How many lines are looked for: the more, the less likely that they occur twice."""


@dataclass(frozen=True, slots=True)
class Place:
    """Positions in the copy, how many lines lie before them there, and whether it is the right place for certain."""

    stdout: Position
    stderr: Position
    lines: int
    sure: bool


@dataclass(frozen=True, slots=True)
class _Match:
    """The lines of one stream were found; `positions` and `lines` of both streams after the last of them."""

    when: float
    positions: dict[int, Position]
    lines: dict[int, int]


@dataclass(slots=True)
class _Stream:
    wanted: list[bytes]
    splitter: LineSplitter = field(default_factory=LineSplitter)
    window: "deque[bytes]" = field(default_factory=deque)
    lines: int = 0
    matches: list[_Match] = field(default_factory=list)


class Search:
    """Looks for the end of `tail`, lines as they are in Redis, in frames of the copy that are given to it in order."""

    def __init__(self, tail: list[bytes]) -> None:
        parts = [line.split(b" ", 2) for line in tail]
        self._streams = {}
        for stream, name in STREAM_NAMES.items():
            wanted = [part[2] for part in parts if part[1] == name and not part[2].startswith(b"[workload-runner] ")]
            self._streams[stream] = _Stream(wanted, window=deque(maxlen=max(1, len(wanted))))
        self.last = moment(parts[-1][0]) if parts else 0.0
        self._by_time = self._now(self.last)

    def take(self, frames: list[tuple[int, bytes]]) -> bool:
        """False where nothing can be found any more, for it comes too late."""
        for stream, payload in frames:
            when = moment(payload[:MICROSECONDS] + b"Z")
            if when > self.last + SAME_MOMENT:
                return False
            here = self._streams[stream]
            lines = here.splitter.feed(as_stored(payload[NANOSECONDS:]))
            here.window.extend(lines)
            here.lines += len(lines)
            if lines and here.wanted and lines[-1] == here.wanted[-1] and list(here.window) == here.wanted:
                here.matches.append(self._now(when))
            if when <= self.last:
                self._by_time = self._now(when)
        return True

    def _now(self, when: float) -> _Match:
        positions = {number: stream.splitter.position for number, stream in self._streams.items()}
        return _Match(when, positions, {number: stream.lines for number, stream in self._streams.items()})

    def place(self) -> Place:
        """After the lines looked for. Where they occur more than once it is the occurrence nearest in time, where they
        do not, what was printed at that time."""
        nearest = {
            number: min(stream.matches, key=lambda match: abs(match.when - self.last))
            for number, stream in self._streams.items()
            if stream.matches
        }
        positions, lines = {}, {}
        for number in (STDOUT, STDERR):
            match = nearest.get(number) or next(iter(nearest.values()), self._by_time)
            positions[number], lines[number] = match.positions[number], match.lines[number]
        matches = [len(stream.matches) for stream in self._streams.values() if stream.wanted]
        return Place(positions[STDOUT], positions[STDERR], sum(lines.values()), sure=set(matches) == {1})


def moment(text: bytes) -> float:
    return datetime.fromisoformat(text.decode()).timestamp()


def earlier(text: str, seconds: float) -> str:
    """A time in the form that lines have, so much earlier."""
    return datetime.fromtimestamp(datetime.fromisoformat(text).timestamp() - seconds, UTC).isoformat()
