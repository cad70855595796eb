"""Lines on their way to Redis: collected as they are read, and put into its protocol in one go; pure.

A million lines a second go through here, so nothing is done line by line that can be done by the list: what is read at
a time has one prefix, which meets its lines only where the bytes for Redis are joined.
"""

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring lines that begin with the same bytes."""

    prefix: bytes
    lines: list[bytes]


class Batch:
    """Lines of a log, in order. `count` is how many, `size` their bytes in all, without line ends."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self._runs: list[_Run] = []
        self.count = self.size = 0
        self.add(b"", list(lines))

    def add(self, prefix: bytes, lines: list[bytes]) -> None:
        """Add lines that all begin with `prefix`, which `lines` (not to be changed any more) are without."""
        if lines:
            self._runs.append(_Run(prefix, lines))
            self.count += len(lines)
            self.size += sum(map(len, lines)) + len(prefix) * len(lines)

    @property
    def first(self) -> bytes:
        run = self._runs[0]
        return run.prefix + run.lines[0]

    def newest(self, most: int) -> list[bytes]:
        """The last lines, `most` of them where there are."""
        found: list[bytes] = []
        for run in reversed(self._runs):
            if len(found) >= most:
                break
            found[:0] = [run.prefix + line for line in run.lines[len(found) - most :]]
        return found

    def rpush(self, key: str) -> bytes:
        """The command that adds the lines to the list at `key`, in Redis's protocol."""
        pieces = [b"*%d\r\n$5\r\nRPUSH\r\n$%d\r\n%s" % (2 + self.count, len(key.encode()), key.encode())]
        for run in self._runs:
            pieces += _arguments(run)
        return b"".join([*pieces, b"\r\n"])


class _Heads(dict[int, bytes]):
    """What stands before an argument of so many bytes, the end of the one before it included. Those of short ones are
    kept: there are few of them, and they are asked for again and again."""

    def __missing__(self, size: int) -> bytes:
        head = b"\r\n$%d\r\n" % size
        if size < KEPT:
            self[size] = head
        return head


KEPT = 4096
_HEADS = _Heads()


def _arguments(run: _Run) -> list[bytes]:
    """The pieces of a command that the lines are, three each."""
    before = len(run.prefix)
    pieces = [run.prefix] * (3 * len(run.lines))
    pieces[::3] = [_HEADS[before + size] for size in map(len, run.lines)]
    pieces[2::3] = run.lines
    return pieces


class Pieces:
    """How many bytes the lines have that a writer put at the end of a list, in pieces of `least` bytes or one batch:
    Redis, which drops old ones from its front, need not look at each line then."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._pieces: deque[tuple[int, int]] = deque()
        self.count = 0
        """Lines."""

    def add(self, count: int, size: int) -> None:
        last = self._pieces.pop() if self._pieces and self._pieces[-1][1] < self._least else (0, 0)
        self._pieces.append((last[0] + count, last[1] + size))
        self.count += count

    def keep(self, most: int) -> None:
        """Forget the oldest until there are `most` lines at most."""
        while self.count > most:
            self.count -= self._pieces.popleft()[0]

    def oldest(self) -> list[int]:
        """Lines and bytes of the first few pieces, one after the other."""
        return [number for piece in itertools.islice(self._pieces, OFFERED) for number in piece]


OFFERED = 4
"""Pieces: a batch is rarely larger than two of them, and what has grown too long is to become shorter."""
