"""Warm network sandboxes: idle containers on the engine's default network, made before a job needs them.

Making a container's network takes the engine longer than all the rest of a start. An attempt's container that joins
the network of a sandbox starts without it. Each sandbox is for one attempt alone and goes with it: none is shared or
used again. Where there is none, an attempt's container gets a network of its own, as it would without all this.

Taking a network apart costs the engine about as much as starting a container, so that waits, for a while, until nothing
is being started. Making others waits for it in turn: idle and used ones together are never more than are wanted.

Few are wanted at first, later as many as attempts came at once lately, up to the pool's size: an attempt that comes
before the pool is full again adds to a burst, and one that nobody took for as long as it may be kept is wanted no more.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from docker.errors import APIError, ImageNotFound

from agent import crashpoints, sandbox_image
from agent.containers import sandbox_settings
from agent.engine import Engine, EngineAway, explanation

logger = logging.getLogger(__name__)

OLDEST_SECONDS = 600
"""The engine copies the node's DNS settings into a sandbox when it is made; an agent in a container cannot see them
change."""
DNS_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
FEW = 2
"""Always wanted, where the pool has room for them."""
REST_SECONDS = 0.2
"""Nothing must have been started for so long before one is made: a burst may have gaps."""
FIRST_DELAY, LONGEST_DELAY = 2.0, 300.0
LONGEST_USED_SECONDS = 30.0
"""How long one that was used may wait for its removal."""
REMOVED_AT_A_TIME = 2


class Starts:
    """At most `most` attempts being started at a time. `quiet` is set while there is none, nor any that waits."""

    def __init__(self, most: int) -> None:
        self._slots, self._count, self._begun = asyncio.Semaphore(most), 0, 0
        self.quiet = asyncio.Event()
        self.quiet.set()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        self._count += 1
        self._begun += 1
        self.quiet.clear()
        try:
            async with self._slots:
                yield
        finally:
            self._count -= 1
            if not self._count:
                self.quiet.set()

    async def rest(self, seconds: float) -> bool:
        """Wait until there is none; whether there was none for so long then."""
        await self.quiet.wait()
        before = self._begun
        await asyncio.sleep(seconds)
        return self._begun == before and self.quiet.is_set()


@dataclass(frozen=True, slots=True)
class _Idle:
    made_at: float
    dns: tuple[str, ...]


class Sandboxes:
    """The sandboxes of one agent: up to `size` idle ones, and those that attempts have taken. None, where that is 0."""

    def __init__(self, engine: Engine, executor_id: str, size: int, starts: Starts) -> None:
        self._engine, self._executor_id, self._size, self._starts = engine, executor_id, size, starts
        self._wanted, self._burst = min(FEW, size), 0
        """How many are to be idle; attempts that came since so many were."""
        self._idle: dict[str, _Idle] = {}
        self._taken: dict[str, _Idle] = {}
        self._used = set[str]()
        """Nobody's any more, and not removed yet."""
        self._making: asyncio.Task[None] | None = None
        self._making_name = ""
        self._removing: set[asyncio.Task[None]] = set()
        self._removals = asyncio.Semaphore(REMOVED_AT_A_TIME)
        self._changed = asyncio.Event()

    # --- for attempts

    def take(self) -> str:
        """The id of an idle sandbox, which is the caller's from now on; '' where there is none."""
        self._drop_old()
        self._burst += 1
        self._wanted = min(self._size, max(self._wanted, self._burst))
        self._changed.set()
        if not self._idle:
            return ""
        sandbox_id, idle = self._idle.popitem()
        self._taken[sandbox_id] = idle
        return sandbox_id

    def give_back(self, sandbox_id: str) -> None:
        """It was taken and no container was made that joins it."""
        if idle := self._taken.pop(sandbox_id, None):
            self._idle[sandbox_id] = idle
            self._drop_old()

    def discard(self, sandbox_id: str) -> None:
        """A sandbox that was taken, by this agent or its predecessor, is of no use any more: it will be removed."""
        self._taken.pop(sandbox_id, None)
        if sandbox_id not in self._used:
            self._used.add(sandbox_id)
            self._remove(sandbox_id, LONGEST_USED_SECONDS)

    async def runs(self, sandbox_id: str) -> bool:
        """Whether its network can be joined, or may be: the engine does not say at present."""
        with contextlib.suppress(EngineAway):
            try:
                return bool((await self._engine.inspect(sandbox_id))["State"]["Running"])
            except APIError:
                return False
        return True

    # --- for the agent

    def died(self, sandbox_id: str) -> None:
        """The engine says that it ended: nothing must join it."""
        if self._idle.pop(sandbox_id, None):
            self._remove(sandbox_id)
            self._changed.set()

    def renew(self) -> None:
        """The engine was away: the idle ones may be dead, or have been left out of its network."""
        for sandbox_id in list(self._idle):
            self.died(sandbox_id)
        self._changed.set()

    def keeps(self, sandbox_id: str, name: str) -> bool:
        """Whether it is idle, taken, being made or about to be removed: no left-over."""
        return name == self._making_name or any(sandbox_id in kept for kept in (self._idle, self._taken, self._used))

    async def run(self) -> None:
        """For ever: have as many as are wanted, made one by one while no start is delayed by that."""
        delay = FIRST_DELAY
        while self._size:
            self._changed.clear()
            self._drop_old()
            while len(self._idle) > self._wanted:  # Some were given back.
                self.died(next(iter(self._idle)))
            if len(self._idle) >= self._wanted:
                self._burst = 0
            if len(self._idle) + len(self._used) >= self._wanted:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(OLDEST_SECONDS / 10):
                        await self._changed.wait()
                continue
            if not await self._starts.rest(REST_SECONDS):
                continue
            self._making = asyncio.create_task(self._make(), name="network sandbox")
            try:
                await asyncio.shield(self._making)
                delay = FIRST_DELAY
            except KeyError:
                known = " and ".join(sandbox_image.architectures())
                logger.warning("No warm network sandboxes on %s: they exist for %s", self._engine.architecture, known)
                return
            except (EngineAway, APIError) as error:
                if isinstance(error, APIError):
                    logger.warning("No warm network sandbox can be made, trying on: %s", explanation(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._changed.wait()
                delay = min(2 * delay, LONGEST_DELAY)

    async def close(self, seconds: float) -> None:
        """Remove the idle ones, with `run` cancelled; what is not done in time is left to the next agent."""
        end = time.monotonic() + seconds
        if self._making:
            await asyncio.wait({self._making}, timeout=seconds)
            if self._making.done() and not self._making.cancelled():
                self._making.exception()  # Seen here, as nobody else waits for it.
        self.renew()
        if self._removing:
            await asyncio.wait(set(self._removing), timeout=max(0, end - time.monotonic()))

    # --- making them

    async def _make(self) -> None:
        """Raises KeyError where the image cannot be made for this architecture, EngineAway and APIError."""
        self._making_name = f"sandbox-{self._executor_id}-{secrets.token_hex(4)}"
        settings, dns = sandbox_settings(self._executor_id), _dns()
        generation = self._engine.generation
        try:
            try:
                sandbox_id = await self._engine.create(settings, self._making_name)
            except ImageNotFound:
                content = sandbox_image.archive(self._engine.architecture)
                await self._engine.import_image(content, sandbox_image.REPOSITORY, sandbox_image.TAG)
                sandbox_id = await self._engine.create(settings, self._making_name)
            crashpoints.reach("sandbox-created")
            try:
                await self._engine.start(sandbox_id)
            except (EngineAway, APIError):
                self._remove(sandbox_id)
                raise
            self._idle[sandbox_id] = _Idle(time.monotonic(), dns)
            if generation != self._engine.generation:
                self.died(sandbox_id)
        finally:
            self._making_name = ""

    def _drop_old(self) -> None:
        now, dns = time.monotonic(), _dns() if self._idle else ()
        for sandbox_id, idle in list(self._idle.items()):
            if now - idle.made_at > OLDEST_SECONDS:
                self._wanted = max(min(FEW, self._size), self._wanted - 1)
                self.died(sandbox_id)
            elif idle.dns != dns:
                self.died(sandbox_id)

    def _remove(self, sandbox_id: str, wait_seconds: float = 0) -> None:
        """Remove it in the background, once nothing is being started or after `wait_seconds`; where that fails, the
        agent's look for left-overs does it."""
        latest = time.monotonic() + wait_seconds

        async def remove() -> None:
            async with self._removals:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0, latest - time.monotonic())):
                        await self._starts.quiet.wait()
                with contextlib.suppress(EngineAway, APIError):
                    await self._engine.remove(sandbox_id)
            self._used.discard(sandbox_id)
            self._changed.set()

        task = asyncio.create_task(remove(), name=f"removal of sandbox {sandbox_id:.12}")
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)


def _dns() -> tuple[str, ...]:
    """The node's DNS settings, as the engine reads them for a new network."""
    texts = []
    for file in DNS_FILES:
        try:
            texts.append(file.read_text())
        except (OSError, UnicodeDecodeError):
            texts.append("")
    return tuple(texts)
