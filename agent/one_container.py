"""One attempt's container on the engine: found or made, started, and removed in the end.

Each step can be the first one: a new agent takes up its predecessor's attempts where their containers are.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from docker.errors import APIError, ImageNotFound, NotFound

from agent import crashpoints
from agent.config import Config
from agent.containers import (
    LABEL_EXECUTOR,
    Facts,
    StartFailed,
    as_text,
    container_name,
    container_settings,
    facts,
    init_missing,
    pull_failure,
    start_failure,
)
from agent.engine import Engine, EngineAway, explanation
from agent.http import Stream
from agent.images import Images
from agent.kept import Kept
from agent.link import Link
from agent.protocol import Gpu, Layer
from agent.sandboxes import Sandboxes, Starts
from agent.state import Record, State

logger = logging.getLogger(__name__)

MAKING = "making the container"
"""What is told of progress behind a pull."""
Progress = Callable[[str, list[Layer]], None]


@dataclass(frozen=True, slots=True)
class Node:
    """What all attempts on a node share."""

    config: Config
    state: State
    engine: Engine
    images: Images
    link: Link
    gpus: list[Gpu]
    starts: Starts
    sandboxes: Sandboxes
    kept: Kept


class Stopped(Exception):
    """Stopped before there was a container that ran."""


class _LookAgain(Exception):
    """There is a container already, or there may be: look for it first."""


class OneContainer:
    """An attempt's container and its network sandbox. `record` is what is on disk of the attempt."""

    def __init__(self, node: Node, record: Record, progress: Progress, *, fresh: bool) -> None:
        """`fresh`: the attempt was accepted just now, so there can be no container yet."""
        self.record, self.start = record, record.start
        self.stop_wanted = asyncio.Event()
        self._node, self._progress = node, progress
        self._look_first = self._tried_create = not fresh
        self._interruptible = True
        self._may_join, self._sandbox_ids = True, set[str]()

    def __str__(self) -> str:
        return f"job {self.start.job_id} attempt {self.start.attempt}"

    @property
    def id(self) -> str:
        """'' while there is none."""
        return self.record.container_id

    def save(self, record: Record) -> None:
        if record != self.record:
            self.record = record
            self._node.state.update(record)

    # --- found, made, started

    async def begin(self) -> tuple[Facts | None, Stream | None]:
        """The container as it is, started if it was not; None where it was and is no more."""
        while True:
            known = await self.find() if self._look_first else None
            self._look_first = True
            if known and known.sandbox_id:
                self._sandbox_ids.add(known.sandbox_id)
            if known and not known.never_started:
                self.save(replace(self.record, container_id=known.id))
                return (None if known.unborn else known), None
            if known is None and self.id:
                return None, None
            starting = asyncio.create_task(self._start(known.id if known else ""), name=f"start of {self}")
            stopping = asyncio.create_task(self.stop_wanted.wait())
            try:
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not starting.done() and self._interruptible:
                    raise Stopped
                return await starting
            except _LookAgain:
                continue
            finally:
                stopping.cancel()
                starting.cancel()
                await asyncio.gather(starting, stopping, return_exceptions=True)

    async def find(self) -> Facts | None:
        """Its container, where there is one; waits while Docker does not answer."""
        while True:
            try:
                found = await self._node.engine.inspect(self.id or container_name(self.start))
            except NotFound:
                return None
            except (EngineAway, APIError):
                if self.stop_wanted.is_set() and not self._tried_create:
                    raise Stopped from None
                await asyncio.sleep(1)
            else:
                ours = found["Config"]["Labels"].get(LABEL_EXECUTOR) == self._node.state.executor_id
                return facts(found) if ours else None

    async def _start(self, container_id: str) -> tuple[Facts, Stream | None]:
        """Create unless there is a container, attach, start. Raises StartFailed and _LookAgain."""
        pulled = False
        while True:
            try:
                async with self._node.starts.slot():
                    self._interruptible = False
                    if not container_id:
                        container_id = await self._create()
                        crashpoints.reach("container-created")
                    self.save(replace(self.record, container_id=container_id))
                    stream = await self._start_created(container_id)
                return await self._started(container_id, stream)
            except ImageNotFound as error:
                if pulled:
                    raise pull_failure(self.start.image, explanation(error)) from None
                self._interruptible = pulled = True
                while self._sandbox_ids:
                    self._node.sandboxes.give_back(self._sandbox_ids.pop())
                crashpoints.reach("image-missing")
                if self.stop_wanted.is_set():  # It came while nothing could be interrupted.
                    raise Stopped from None
                await self._node.images.pull(self.start.image, self._progress)
                self.record = replace(
                    self.record, pulled_at=as_text(datetime.now(UTC)) or ""
                )  # saved with its container
                self._progress(MAKING, [])
            except APIError as error:
                await self._mend(container_id, error)
                container_id = ""
            except EngineAway as error:
                if container_id:
                    raise _LookAgain from None
                raise StartFailed("engine_error", f"Docker does not answer: {error}") from None
            finally:
                self._interruptible = True

    async def _create(self) -> str:
        uuids = {gpu.index: gpu.uuid for gpu in self._node.gpus}
        if self._may_join and not self._sandbox_ids and (taken := self._node.sandboxes.take(again=self._tried_create)):
            self._sandbox_ids.add(taken)
        settings = container_settings(
            self.start,
            executor_id=self._node.state.executor_id,
            gpu_uuids=[uuids[index] for index in self.start.gpu_indices],
            pids_limit=self._node.config.pids_limit,
            init=self._node.engine.init_available,
            sandbox_id=next(iter(self._sandbox_ids), "") if self._may_join else "",
        )
        self._tried_create = True
        return await self._node.engine.create(settings, container_name(self.start))

    async def _mend(self, container_id: str, error: APIError) -> None:
        """After a refusal: undo what was created, where another try may succeed. Raises StartFailed and _LookAgain."""
        said = explanation(error)
        if error.status_code == 409 and not container_id and await self.find():
            raise _LookAgain
        if await self._lacks_network():
            logger.warning("The network sandbox of %s is gone: it gets a network of its own", self)
            self._may_join = False
        elif init_missing(said) and self._node.engine.init_available and container_id:
            logger.warning("Docker has no docker-init here: containers run without an init process")
            self._node.engine.init_available = False
        else:
            raise start_failure(error.status_code, said) from None
        self.save(replace(self.record, container_id=""))
        try:
            await self._node.engine.remove(container_id or container_name(self.start))
        except (EngineAway, APIError):
            raise _LookAgain from None

    async def _lacks_network(self) -> bool:
        """Whether it was to join a sandbox that does not run any more."""
        if not self._may_join:
            return False
        return not all([await self._node.sandboxes.runs(sandbox_id) for sandbox_id in self._sandbox_ids])

    async def _start_created(self, container_id: str) -> Stream:
        stream = await self._node.engine.attach(container_id)
        try:
            await self._node.engine.start(container_id)
            crashpoints.reach("container-started")
        except BaseException:
            stream.close()
            raise
        return stream

    async def _started(self, container_id: str, stream: Stream) -> tuple[Facts, Stream]:
        """Of one that has ended already the engine tells nothing before it has taken its network apart: that is no
        reason to hold up another start."""
        try:
            container = facts(await self._node.engine.inspect(container_id))
        except BaseException:
            stream.close()
            raise
        logger.info("Started %s: container %.12s, image %s", self, container_id, self.start.image)
        return container, stream

    # --- removed

    def leave_network(self) -> None:
        """It has ended, or there is none: its network sandbox is of no use any more."""
        while self._sandbox_ids:
            self._node.sandboxes.discard(self._sandbox_ids.pop())

    async def remove(self) -> None:
        """Remove the container, if there may be one, and its sandbox, however long that takes."""
        delay = 1.0
        while not await self.remove_once():
            await asyncio.sleep(delay)
            delay = min(60, 2 * delay)

    async def remove_once(self) -> bool:
        """One try of it; False where it is to be tried again."""
        try:
            container = self.id or (getattr(await self.find(), "id", "") if self._tried_create else "")
            if container:
                await self._node.engine.remove(container)
        except (EngineAway, APIError) as error:
            logger.warning("The container of %s cannot be removed yet: %s", self, error)
            return False
        self.leave_network()
        return True
