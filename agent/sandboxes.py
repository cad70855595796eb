"""Warm network sandboxes: idle containers on the engine's default network, made before a job needs them.

Making a container's network takes the engine longer than all the rest of a start. An attempt's container that joins
the network of a sandbox starts without it. Each sandbox is for one attempt alone and goes with it: none is shared or
used again. Where there is none, an attempt's container gets a network of its own, as it would without all this.

Taking a network apart costs the engine about as much as starting a container, so that waits, for a while, until nothing
is being started. Making others waits for it in turn: idle and used ones together are never more than are wanted.

Few are wanted at first, later as many as attempts came at once lately (`agent/bursts.py`), up to the pool's size: an
attempt that comes before the pool is full again adds to a burst.

The engine copies the node's DNS settings into a sandbox when it is made. An agent on the node sees them change; for one
in a container the oldest idle sandbox is replaced now and then, and all are where the new one was given others.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from docker.errors import APIError, ImageNotFound

from agent import crashpoints, sandbox_image
from agent.bursts import Burst, largest, with_burst
from agent.containers import sandbox_settings
from agent.engine import Engine, EngineAway, explanation
from agent.state import State

logger = logging.getLogger(__name__)

LOOK_SECONDS = 600
"""From one look at the DNS settings that the engine gives a new sandbox to the next."""
DNS_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
FEW = 2
"""Always wanted, where the pool has room for them."""
REST_SECONDS = 0.2
"""Nothing must have been started for so long before one is made: a burst may have gaps."""
FIRST_DELAY, LONGEST_DELAY = 2.0, 300.0
LONGEST_WAIT_SECONDS = 30.0
"""How long one of no use any more may wait for its removal."""
PACE_SECONDS = 2 / (os.cpu_count() or 1)
"""From one to the next, beyond the few: each costs 0.2 s of CPU, all of them at most a tenth of the node's."""
REMOVED_AT_A_TIME, REMOVED_AT_THE_END = 2, 16


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


class Sandboxes:
    """The sandboxes of one agent: up to `size` idle ones, and those that attempts have taken. None, where that is 0."""

    def __init__(self, engine: Engine, state: State, size: int, starts: Starts) -> None:
        self._engine, self._state, self._size, self._starts = engine, state, size, starts
        self._bursts = state.load_bursts()
        self._burst = self._saved_burst = 0
        """Attempts that came since as many as are wanted were idle; how many of them are in `_bursts`."""
        self._epoch = 1
        """Those of an earlier one are of no use any more."""
        self._dns = _dns()
        self._given: bytes | None = None
        """The DNS settings of the epoch: the node's, as the agent sees them, and what the engine made of them."""
        self._look_at = float("-inf")
        """When what it makes of them is to be looked at again."""
        self._next_at = 0.0
        """When another may be made, beyond the few."""
        self._idle: list[str] = []
        """All of this epoch, oldest first."""
        self._taken: dict[str, int] = {}
        """With the epoch."""
        self._used = set[str]()
        """Nobody's any more, and not removed yet."""
        self._making: asyncio.Task[None] | None = None
        self._making_name = ""
        self._removing: set[asyncio.Task[None]] = set()
        self._removals = asyncio.Semaphore(REMOVED_AT_A_TIME)
        self._changed = asyncio.Event()

    # --- for attempts

    def take(self, *, again: bool = False) -> str:
        """The id of an idle sandbox, which is the caller's from now on; '' where there is none. `again`: the same
        attempt asked before."""
        if not self._size:
            return ""
        self._see_dns()
        self._burst += not again
        self._changed.set()
        if not self._idle:
            return ""
        sandbox_id = self._idle.pop()
        self._taken[sandbox_id] = self._epoch
        return sandbox_id

    def give_back(self, sandbox_id: str) -> None:
        """It was taken and no container was made that joins it."""
        if epoch := self._taken.pop(sandbox_id, None):
            self._add(sandbox_id, epoch)

    def discard(self, sandbox_id: str) -> None:
        """A sandbox that was taken, by this agent or its predecessor, is of no use any more: it will be removed."""
        self._taken.pop(sandbox_id, None)
        if sandbox_id not in self._used:
            self._used.add(sandbox_id)
            self._remove(sandbox_id)

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
        if sandbox_id in self._idle:
            self._idle.remove(sandbox_id)
            self._remove(sandbox_id)
            self._changed.set()

    def renew(self) -> None:
        """The engine was away: the idle ones may be dead, or have been left out of its network."""
        self._epoch += 1
        self._look_at = float("-inf")
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
            self._see_dns()
            while len(self._idle) > self._wanted:  # Some were given back, or are to be replaced.
                self.died(self._idle[0])
            if len(self._idle) == self._wanted:
                self._burst = self._saved_burst = 0
            if pause := self._pause():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                continue
            if not await self._starts.rest(REST_SECONDS):
                continue
            self._remember()
            self._next_at = time.monotonic() + PACE_SECONDS
            self._making = asyncio.create_task(self._make(), name="network sandbox")
            try:
                await asyncio.shield(self._making)
                delay = FIRST_DELAY
            except KeyError:
                self._size = 0
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
        self._remember()
        self._removals = asyncio.Semaphore(REMOVED_AT_THE_END)
        self.renew()
        if self._removing:
            await asyncio.wait(set(self._removing), timeout=max(0, end - time.monotonic()))

    # --- how many

    @property
    def _wanted(self) -> int:
        """How many are to be idle."""
        return min(self._size, max(FEW, self._burst, largest(self._bursts, time.time())))

    def _remember(self) -> None:
        """Keep on disk what has come since the pool was full, where it is more than is always wanted."""
        if self._burst > max(FEW, self._saved_burst):
            self._saved_burst = self._burst
            self._bursts = with_burst(self._bursts, Burst(time.time(), self._burst))
            self._state.save_bursts(self._bursts)

    def _pause(self) -> float:
        """Seconds until the next is to be made, where nothing changes; 0 for now."""
        now = time.monotonic()
        look = bool(self._idle) and now >= self._look_at
        if len(self._idle) + len(self._used) >= self._wanted and not look:
            return LOOK_SECONDS / 10
        return max(0, self._next_at - now) if len(self._idle) >= FEW else 0

    # --- making them

    async def _make(self) -> None:
        """Raises KeyError where the image cannot be made for this architecture, EngineAway and APIError."""
        self._making_name = f"sandbox-{self._state.executor_id}-{secrets.token_hex(4)}"
        self._see_dns()
        settings, epoch = sandbox_settings(self._state.executor_id), self._epoch
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
            if epoch == self._epoch and time.monotonic() >= self._look_at:
                epoch = await self._look(sandbox_id)
            self._add(sandbox_id, epoch)
        finally:
            self._making_name = ""

    def _add(self, sandbox_id: str, epoch: int) -> None:
        self._see_dns()
        if epoch == self._epoch:
            self._idle.append(sandbox_id)
        else:
            self._remove(sandbox_id)

    async def _look(self, sandbox_id: str) -> int:
        """Look at the DNS settings that the engine gave a new one: where they are others than before, or it does not
        say which, a new epoch begins with it. Its epoch."""
        epoch = self._epoch
        try:
            given = await self._engine.file_in(sandbox_id, "/etc/resolv.conf")
        except (EngineAway, APIError, tarfile.TarError) as error:
            logger.warning("The DNS settings of a network sandbox cannot be read, all are made anew: %s", error)
            given = None
        if epoch == self._epoch:
            if given is None or given != self._given:
                self.renew()
                epoch = self._epoch
            self._given, self._look_at = given, time.monotonic() + LOOK_SECONDS
        return epoch

    def _see_dns(self) -> None:
        """A new epoch begins where the node's DNS settings were changed."""
        if (now := _dns()) != self._dns:
            self._dns = now
            self.renew()

    def _remove(self, sandbox_id: str) -> None:
        """Remove it in the background, once nothing is being started or after a while; where that fails, the agent's
        look for left-overs does it."""
        latest = time.monotonic() + LONGEST_WAIT_SECONDS

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
