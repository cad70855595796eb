"""The life of one attempt on this node: pull, create, start, watch, stop, report, remove.

Each step can be the first one: a new agent takes up its predecessor's attempts where their containers are.
"""

import asyncio
import contextlib
import logging
import time
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
from agent.link import Link
from agent.logs import LogWriter
from agent.output import Output
from agent.protocol import (
    MOST_LAYERS,
    AttemptFinished,
    AttemptProgress,
    AttemptRunning,
    Gpu,
    Layer,
    StopAttempt,
)
from agent.sandboxes import Sandboxes, Starts
from agent.state import Record, State
from agent.usage import Peaks
from agent.verdict import (
    KILLED,
    REBOOTED,
    REMOVED,
    Circumstances,
    Verdict,
    ended_by_predecessor,
    judge,
    stop_reason,
    stopped,
    unseen,
)

logger = logging.getLogger(__name__)

INSPECT_INTERVAL = 15.0
"""Seconds; the engine's events say it sooner, this is for those that were missed."""
TIMEOUT_GRACE = 10
KILL_AGAIN = 5.0
PROGRESS_INTERVAL = 1.0
LATE_OOM = 0.3
"""Seconds that Docker's word of an OOM kill may come after the container's end."""
OnFinished = Callable[["Attempt", AttemptFinished], asyncio.Future[None]]


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


class _Stopped(Exception):
    """Stopped before there was a container that ran."""


class _LookAgain(Exception):
    """There is a container already, or there may be: look for it first."""


class Attempt:
    """One accepted attempt, until its end was reported. `on_finished` gets its last event before any wait."""

    def __init__(self, node: Node, record: Record, on_finished: OnFinished, *, fresh: bool) -> None:
        """`fresh`: accepted just now, so there can be no container yet."""
        self.record = replace(record, accepted_at=_text(datetime.now(UTC)) or "") if fresh else record
        self.start = record.start
        self.peaks = Peaks()
        self._node, self._on_finished = node, on_finished
        self._wake, self._exited, self._stop_wanted = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._interruptible = True
        self.adopted = self._look_first = self._tried_create = not fresh
        self._may_join, self._sandbox_ids = True, set[str]()
        self._generation = node.engine.generation
        self._killed_by_other = self._engine_restarted = False
        self._saw_oom = self._reported = False
        self._ended_by = ""
        self._told = 0.0
        self._told_running = False
        if record.stop:
            self._stop_wanted.set()

    def __str__(self) -> str:
        return f"job {self.start.job_id} attempt {self.start.attempt}"

    @property
    def container_id(self) -> str:
        return self.record.container_id

    # --- what others tell it

    def stop(self, command: StopAttempt) -> None:
        """Remember, also on disk, that it is to be stopped; the first request counts."""
        if self.record.stop is None:
            self._save(replace(self.record, stop=command))
        self._stop_wanted.set()
        self._wake.set()

    def engine_event(self, action: str) -> None:
        """Something happened to its container: 'die', 'oom', 'kill' or 'destroy'."""
        if action == "oom":
            self._saw_oom = True
        elif action == "kill" and not self._ended_by:
            self._killed_by_other = True
        self._wake.set()

    def look(self) -> None:
        """Look at the container again: events may have been missed."""
        self._wake.set()

    def refused(self, why: str) -> AttemptFinished:
        """Its only event, where it is not accepted."""
        return self._finished(Verdict("start_refused", why))

    # --- its life

    async def run(self) -> None:
        """From wherever it is to its end. Cancelling leaves the container and the record as they are."""
        try:
            finished = await self._live()
        except _Stopped:
            finished = self._finished(stopped(stop_reason(self.record.stop)))
        except StartFailed as error:
            finished = self._finished(Verdict(error.reason, error.message))
        except Exception as error:
            logger.exception("%s failed in the agent", self)
            finished = self._finished(Verdict("engine_error", f"The agent failed: {error!r}"))
        await self._report(finished)
        self._node.state.forget(self.start)
        crashpoints.reach("attempt-forgotten")
        await self._remove()

    async def _report(self, finished: AttemptFinished) -> None:
        """Tell its end, once. The record stays until everything is done, so another agent may tell it again."""
        if not self._reported:
            self._reported = True
            crashpoints.reach("container-ended")
            await asyncio.shield(self._on_finished(self, finished))
            crashpoints.reach("end-reported")

    async def _live(self) -> AttemptFinished:
        container, stream = await self._begin()
        if container is None:
            return self._finished(Verdict("container_gone", REMOVED))
        buffer, writer = self._node.config.log_buffer_bytes, self._log_writer()
        first, keep_first = self.record.first_line, self._keep_first_line
        output = Output(self._node.engine, container.id, writer, buffer, stream, first, keep_first)
        shipping = asyncio.create_task(output.ship(self._exited, self.look), name=f"output of {self}")
        stuck = asyncio.create_task(writer.stuck.wait())
        try:
            if not container.ended:
                self._told_running = True
                self._node.link.send(
                    AttemptRunning(
                        executor_id=self._node.state.executor_id,
                        job_id=self.start.job_id,
                        attempt=self.start.attempt,
                        container_id=container.id,
                        started_at=_text(container.started_at) or "",
                        accepted_at=self.record.accepted_at or None,
                        pulled_at=self.record.pulled_at or None,
                        created_at=_text(container.created_at),
                        settings=container.applied,
                    )
                )
                container = await self._watch(container)
            self._exited.set()
            crashpoints.reach("output-unshipped")
            await asyncio.wait({shipping, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if not shipping.done():
                logger.info("%s ended; its log waits for the archive", self)
                await self._report(await self._end(container, output))
            await shipping
        finally:
            for task in (shipping, stuck):
                task.cancel()
            await asyncio.gather(shipping, stuck, return_exceptions=True)
        return await self._end(container, output)

    async def _begin(self) -> tuple[Facts | None, Stream | None]:
        """The container as it is, started if it was not; None where it was and is no more."""
        while True:
            known = await self._find() if self._look_first else None
            self._look_first = True
            if known and known.sandbox_id:
                self._sandbox_ids.add(known.sandbox_id)
            if known and not known.never_started:
                self._save(replace(self.record, container_id=known.id))
                return known, None
            if known is None and self.container_id:
                return None, None
            starting = asyncio.create_task(self._start(known.id if known else ""), name=f"start of {self}")
            stopping = asyncio.create_task(self._stop_wanted.wait())
            try:
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not starting.done() and self._interruptible:
                    raise _Stopped
                return await starting
            except _LookAgain:
                continue
            finally:
                stopping.cancel()
                starting.cancel()
                await asyncio.gather(starting, stopping, return_exceptions=True)

    async def _find(self) -> Facts | None:
        """Its container, where there is one; waits while Docker does not answer."""
        while True:
            try:
                found = await self._node.engine.inspect(self.container_id or container_name(self.start))
            except NotFound:
                return None
            except (EngineAway, APIError):
                if self._stop_wanted.is_set() and not self._tried_create:
                    raise _Stopped from None
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
                    self._save(replace(self.record, container_id=container_id))
                    return await self._start_created(container_id)
            except ImageNotFound as error:
                if pulled:
                    raise pull_failure(self.start.image, explanation(error)) from None
                self._interruptible = pulled = True
                while self._sandbox_ids:
                    self._node.sandboxes.give_back(self._sandbox_ids.pop())
                crashpoints.reach("image-missing")
                if self._stop_wanted.is_set():  # It came while nothing could be interrupted.
                    raise _Stopped from None
                await self._node.images.pull(self.start.image, self._progress)
                self.record = replace(self.record, pulled_at=_text(datetime.now(UTC)) or "")  # saved with its container
                self._told = float("-inf")
                self._progress("making the container", [])
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
        if self._may_join and not self._sandbox_ids and (taken := self._node.sandboxes.take()):
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
        if error.status_code == 409 and not container_id and await self._find():
            raise _LookAgain
        if await self._lacks_network():
            logger.warning("The network sandbox of %s is gone: it gets a network of its own", self)
            self._may_join = False
        elif init_missing(said) and self._node.engine.init_available and container_id:
            logger.warning("Docker has no docker-init here: containers run without an init process")
            self._node.engine.init_available = False
        else:
            raise start_failure(error.status_code, said) from None
        self._save(replace(self.record, container_id=""))
        try:
            await self._node.engine.remove(container_id or container_name(self.start))
        except (EngineAway, APIError):
            raise _LookAgain from None

    async def _lacks_network(self) -> bool:
        """Whether it was to join a sandbox that does not run any more."""
        if not self._may_join:
            return False
        return not all([await self._node.sandboxes.runs(sandbox_id) for sandbox_id in self._sandbox_ids])

    async def _start_created(self, container_id: str) -> tuple[Facts, Stream]:
        stream = await self._node.engine.attach(container_id)
        try:
            await self._node.engine.start(container_id)
            crashpoints.reach("container-started")
            container = facts(await self._node.engine.inspect(container_id))
        except BaseException:
            stream.close()
            raise
        logger.info("Started %s: container %.12s, image %s", self, container_id, self.start.image)
        return container, stream

    async def _watch(self, container: Facts) -> Facts:
        """Wait for the container's end, and bring it about where it is to be stopped or its time is up."""
        deadline = (container.started_at or datetime.now(UTC)).timestamp() + self.start.timeout_seconds
        kill_at, told, looked = float("inf"), False, True  # It was looked at just now.
        while True:
            try:
                if not looked:
                    container = facts(await self._node.engine.inspect(container.id))
                looked = False
                if container.ended:
                    return container
                now = time.time()
                if now >= kill_at:
                    logger.info("Killing %s: it did not end within the grace period", self)
                    self._ended_by = stop_reason(self.record.stop)
                    await self._node.engine.kill(container.id, "SIGKILL")
                    kill_at = now + KILL_AGAIN
                elif not told and (self._stop_wanted.is_set() or now >= deadline):
                    kill_at = min(kill_at, now + self._grace)
                    told = await self._terminate(container.id)
            except NotFound:
                return replace(container, status="gone")
            except (EngineAway, APIError) as error:
                logger.warning("%s: Docker does not do what it should, trying on: %s", self, error)
                await asyncio.sleep(1)
                if self._ended_by and not told:
                    continue
            until = min(time.time() + INSPECT_INTERVAL, kill_at if self._ended_by else deadline)
            try:
                async with asyncio.timeout(max(0.02, until - time.time())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    @property
    def _grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return float(self.record.stop.grace_seconds if self.record.stop else TIMEOUT_GRACE)

    async def _terminate(self, container_id: str) -> bool:
        """Ask the container to end; False where it ended by itself just before."""
        self._ended_by = stop_reason(self.record.stop)
        logger.info("Stopping %s: %s", self, self._ended_by)
        if not await self._node.engine.kill(container_id, "SIGTERM"):
            self._ended_by = ""
            self._wake.set()
            await asyncio.sleep(0.02)
            return False
        return True

    async def _remove(self) -> None:
        """Remove the container, if there may be one, and its sandbox, however long Docker is away."""
        delay = 1.0
        while self.container_id or self._tried_create or self._sandbox_ids:
            try:
                container = self.container_id or getattr(await self._find(), "id", "")
                if container:
                    await self._node.engine.remove(container)
                for sandbox_id in self._sandbox_ids:
                    self._node.sandboxes.discard(sandbox_id)
                return
            except (EngineAway, APIError) as error:
                logger.warning("The container of %s cannot be removed yet: %s", self, error)
                await asyncio.sleep(delay)
                delay = min(60, 2 * delay)

    # --- what became of it

    async def _end(self, container: Facts, output: Output) -> AttemptFinished:
        if container.exit_code == KILLED[0] and not (container.oom_killed or self._saw_oom or self._ended_by):
            await asyncio.sleep(LATE_OOM)
            container = await self._find() or container
        before = ended_by_predecessor(self.start, self.record.stop, container) if self.adopted else ""
        if self.adopted and not before and container.exit_code in (*KILLED, REBOOTED):
            await self._ask_for_its_end(container)
        around = Circumstances(
            ended_by=self._ended_by or before,
            oom=container.oom_killed or self._saw_oom,
            killed_by_other=self._killed_by_other,
            engine_restarted=self._engine_restarted or self._node.engine.generation != self._generation,
            first_stderr=output.first_stderr,
            last_stderr=output.last_stderr,
        )
        return self._finished(judge(self.start, container, around), container, around.oom)

    async def _ask_for_its_end(self, container: Facts) -> None:
        """A container may have been killed while no agent looked: by whom is to be told from what Docker remembers."""
        ended_at = container.finished_at.timestamp() if container.finished_at else 0
        with contextlib.suppress(EngineAway, APIError):
            found = unseen(container.id, await self._node.engine.remembered(max(time.time(), ended_at) + 1))
            self._killed_by_other |= found[0]
            self._engine_restarted |= found[1]

    def _finished(self, verdict: Verdict, container: Facts | None = None, oom: bool = False) -> AttemptFinished:
        return AttemptFinished(
            executor_id=self._node.state.executor_id,
            job_id=self.start.job_id,
            attempt=self.start.attempt,
            reason=verdict.reason,
            message=verdict.message,
            exit_code=container.exit_code if container else None,
            oom_killed=oom,
            container_id=container.id if container else self.container_id,
            started_at=_text(container.started_at) if container else None,
            finished_at=_text(container.finished_at) if container else None,
            accepted_at=self.record.accepted_at or None,
            pulled_at=self.record.pulled_at or None,
            created_at=_text(container.created_at) if container else None,
            use=self.peaks.use(),
            settings=container.applied if container and not self._told_running else {},
        )

    def _progress(self, detail: str, layers: list[Layer]) -> None:
        now = time.monotonic()
        if now - self._told >= PROGRESS_INTERVAL and self._node.link.connected:
            self._told = now
            self._node.link.send(
                AttemptProgress(
                    executor_id=self._node.state.executor_id,
                    job_id=self.start.job_id,
                    attempt=self.start.attempt,
                    detail=detail,
                    layers=layers[:MOST_LAYERS],
                    accepted_at=self.record.accepted_at or None,
                    pulled_at=self.record.pulled_at or None,
                )
            )

    def _save(self, record: Record) -> None:
        if record != self.record:
            self.record = record
            self._node.state.update(record)

    def _keep_first_line(self, printed_at: str) -> None:
        self._save(replace(self.record, first_line=printed_at))

    def _log_writer(self) -> LogWriter:
        config, link = self._node.config, self._node.link
        return LogWriter(
            link.client,
            link.keys,
            self.start.job_id,
            self.start.attempt,
            limit_bytes=config.log_limit_bytes,
            patiently=link.patiently,
        )


def _text(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None
