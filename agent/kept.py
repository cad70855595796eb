"""Ended containers that stay on the node for their logs, until those are archived.

A log that has come to Redis whole can still go with Redis's memory before the scheduler's process has archived it.
Docker's copy is what it can be written from again, so the container stays until then: a second or two. Its end was
reported before that, and nothing of it counts as taken.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from agent.link import Link
from agent.sandboxes import Starts

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
MOST_LOOKS = 600
"""About ten minutes in which Redis answers and nobody archives the log."""
MOST_KEPT = 200
"""Containers at a time on one node, of which each may have used disk."""
REMOVED_AT_A_TIME = 2
QUIET_SECONDS = 5.0
"""How long a removal may wait until nothing is being started, which it would delay."""

Key = tuple[str, int]
"""An attempt's: job id and number."""


class Standing(Enum):
    """How an ended attempt's log stands: all of it archived, some not yet, or not (all) in Redis any more."""

    ARCHIVED = auto()
    WAITING = auto()
    LOST = auto()


def standing(meta: Mapping[bytes, bytes], attempt: int) -> Standing:
    """Of the log of an attempt that had shipped all of it, from `job_logs_meta` as it is now. Pure."""
    current, archived = int(meta.get(b"attempt", 0)), int(meta.get(b"archived", -1))
    if current > attempt:
        # Where the later one began in an emptied Redis, nothing can be put before its lines any more.
        end = int(meta.get(b"begin:%d" % current, 0)) if b"begin:%d" % attempt in meta else 0
    elif current < attempt or meta.get(b"complete") != b"1":
        return Standing.LOST
    else:
        end = int(meta.get(b"lines", 0))
    return Standing.ARCHIVED if archived >= end or not end else Standing.WAITING


@dataclass(slots=True)
class _Kept:
    looks: int = 0
    answer: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Kept:
    """The containers of one agent that are kept. One read of Redis a second asks for all of them."""

    def __init__(self, link: Link, starts: Starts) -> None:
        self._link, self._starts = link, starts
        self._kept: dict[Key, _Kept] = {}
        self._some = asyncio.Event()
        self._removals = asyncio.Semaphore(REMOVED_AT_A_TIME)

    async def archived(self, key: Key) -> bool:
        """Wait until the attempt's log is archived or given up: True. False: Redis has lost it, it is to be written
        again, and then asked for again."""
        kept = self._kept.setdefault(key, _Kept())
        kept.answer = asyncio.get_running_loop().create_future()
        waiting = [other for other, item in self._kept.items() if not item.answer.done()]
        if len(waiting) > MOST_KEPT:
            self._give_up(waiting[0], f"there are {MOST_KEPT} more")
        self._some.set()
        try:
            gone = await kept.answer
        except BaseException:
            del self._kept[key]
            raise
        if gone:
            del self._kept[key]
        return gone

    @asynccontextmanager
    async def removal(self) -> AsyncIterator[None]:
        """Inside, a container that was kept may be removed: no hurry, and no crowd of them."""
        latest = time.monotonic() + QUIET_SECONDS
        async with self._removals:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0, latest - time.monotonic())):
                    await self._starts.quiet.wait()
            yield

    def give_up_all(self, why: str) -> None:
        """Their room is needed."""
        for key, kept in self._kept.items():
            if not kept.answer.done():
                self._give_up(key, why)

    async def run(self) -> None:
        """For ever: look at what is kept."""
        while True:
            await self._some.wait()
            await asyncio.sleep(LOOK_SECONDS)
            waiting = {key: kept for key, kept in self._kept.items() if not kept.answer.done()}
            if not waiting:
                self._some.clear()
                continue
            for key, meta in zip(waiting, await self._read(list(waiting)), strict=True):
                self._tell(key, standing(meta, key[1]))

    async def _read(self, keys: list[Key]) -> list[dict[bytes, bytes]]:
        async def read() -> Any:
            async with self._link.client.pipeline(transaction=False) as pipe:
                for job_id, _ in keys:
                    pipe.hgetall(self._link.keys.job_logs_meta(job_id))
                return await pipe.execute()

        answer: list[dict[bytes, bytes]] = await self._link.patiently(read)
        return answer

    def _tell(self, key: Key, now: Standing) -> None:
        kept = self._kept.get(key)
        if kept is None or kept.answer.done():
            return
        kept.looks += 1
        if kept.looks >= MOST_LOOKS and now is not Standing.ARCHIVED:
            self._give_up(key, f"nobody has archived it in {MOST_LOOKS * LOOK_SECONDS:g} s")
        elif now is not Standing.WAITING:
            kept.answer.set_result(now is Standing.ARCHIVED)

    def _give_up(self, key: Key, why: str) -> None:
        logger.warning(
            "The container of job %s attempt %d is not kept any longer for its log, which is in Redis alone: %s",
            *key,
            why,
        )
        self._kept[key].answer.set_result(True)
