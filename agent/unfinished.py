"""The line that has not ended yet, such as a progress bar, while a container's output is read from the engine's copy.

The copy gets whole lines only, so there a bar would stand still until its line ends. The live stream tells, but begins
in the midst of something: of its lines none is used, and of what stands behind its last newline only what is known to
begin at the left edge.
"""

import asyncio
import contextlib
from collections.abc import Callable

from docker.errors import APIError

from agent.engine import Engine, EngineAway
from agent.logs import STDERR, STDOUT, FrameParser, LineSplitter


class Unfinished:
    """What stands behind the last newline of each stream."""

    def __init__(self) -> None:
        self._splitters = {STDOUT: LineSplitter(), STDERR: LineSplitter()}
        self._begun: set[int] = set()

    def take(self, frames: list[tuple[int, bytes]]) -> None:
        for stream, payload in frames:
            if stream not in self._begun:
                payload = _from_left_edge(payload)
                if not payload:
                    continue
                self._begun.add(stream)
            self._splitters[stream].feed(payload)

    @property
    def tails(self) -> tuple[bytes, bytes]:
        """Of stdout and stderr."""
        return self._splitters[STDOUT].unfinished, self._splitters[STDERR].unfinished


def _from_left_edge(payload: bytes) -> bytes:
    """From the first newline or carriage return on; nothing where there is none."""
    places = [place for place in (payload.find(b"\n"), payload.find(b"\r")) if place >= 0]
    return payload[min(places) :] if places else b""


async def watch(engine: Engine, container_id: str, unfinished: Unfinished, changed: Callable[[], None]) -> None:
    """Keep `unfinished` up to date until the stream ends or is cancelled; what fails is left out."""
    with contextlib.suppress(EngineAway, APIError):
        stream = await engine.attach(container_id)
        try:
            parser = FrameParser()
            while data := await stream.read():
                unfinished.take(parser.feed(data))
                changed()
                await asyncio.sleep(0)  # a flood leaves the others their turn
        finally:
            stream.close()
