"""The life of one attempt on this node: start, watch, stop, report, keep, remove.

Each step can be the first one: a new agent takes up its predecessor's attempts where their containers are.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from docker.errors import APIError, NotFound

from agent import crashpoints
from agent.containers import Facts, StartFailed, as_text, facts
from agent.engine import EngineAway
from agent.http import Stream
from agent.logs import LogWriter
from agent.one_container import MAKING, Node, OneContainer, Stopped
from agent.output import Output
from agent.protocol import (
    MOST_LAYERS,
    AttemptFinished,
    AttemptProgress,
    AttemptRunning,
    Layer,
    StopAttempt,
)
from agent.resources import oom_kills
from agent.state import Record
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


class Attempt:
    """One accepted attempt, until its end was reported and its container removed. `on_finished` gets its last event
    before any wait."""

    def __init__(self, node: Node, record: Record, on_finished: OnFinished, *, fresh: bool) -> None:
        """`fresh`: accepted just now, so there can be no container yet."""
        record = replace(record, accepted_at=as_text(datetime.now(UTC)) or "") if fresh else record
        self.start = record.start
        self.peaks = Peaks()
        self._container = OneContainer(node, record, self._progress, fresh=fresh)
        self._node, self._on_finished = node, on_finished
        self._wake, self._exited = asyncio.Event(), asyncio.Event()
        self.adopted = not fresh
        self._generation = node.engine.generation
        self._killed_by_other = self._engine_restarted = False
        self._saw_oom = self._reported = False
        self._oom_kills = 0
        """The node's, when nothing had happened to the container yet."""
        self._to_keep: Output | None = None
        """What could be read from the ended container again."""
        self._ended_by = ""
        self._told = 0.0
        self._told_running = False
        if record.stop:
            self._container.stop_wanted.set()

    def __str__(self) -> str:
        return str(self._container)

    @property
    def record(self) -> Record:
        return self._container.record

    @property
    def container_id(self) -> str:
        return self._container.id

    @property
    def has_begun(self) -> bool:
        """Whether its command was started; before that its process is the runtime's, in the node's network."""
        return self._told_running

    # --- what others tell it

    def stop(self, command: StopAttempt) -> None:
        """Remember, also on disk, that it is to be stopped; the first request counts."""
        if self.record.stop is None:
            self._container.save(replace(self.record, stop=command))
        self._container.stop_wanted.set()
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
        except Stopped:
            finished = self._finished(stopped(stop_reason(self.record.stop)))
        except StartFailed as error:
            finished = self._finished(Verdict(error.reason, error.message))
        except Exception as error:
            logger.exception("%s failed in the agent", self)
            finished = self._finished(Verdict("engine_error", f"The agent failed: {error!r}"))
        await self._report(finished)
        await self._leave()

    async def leave(self) -> None:
        """As `run`, of an attempt whose end an agent before this one has reported."""
        self._reported = True
        self._to_keep = self._output(None)
        await self._leave()

    async def _report(self, finished: AttemptFinished) -> None:
        """Tell its end, once. The record stays until everything is done, so another agent may tell it again."""
        if not self._reported:
            self._reported = True
            crashpoints.reach("container-ended")
            if self._to_keep:
                self._container.save(replace(self.record, finished=finished))
            await asyncio.shield(self._on_finished(self, finished))
            crashpoints.reach("end-reported")

    async def _leave(self) -> None:
        """Keep the container as long as its log needs it, then remove it."""
        removing = self._node.kept.removal() if self._to_keep else contextlib.nullcontext()
        try:
            if self._to_keep:
                self._container.leave_network()
                await self._keep(self._to_keep)
        except Exception:
            logger.exception("The container of %s cannot be kept for its log", self)
        async with removing:
            self._node.state.forget(self.start)
            crashpoints.reach("attempt-forgotten")
            removed = await self._container.remove_once()
        if not removed:  # Others need not wait for it.
            await self._container.remove()

    async def _keep(self, output: Output) -> None:
        """Until nothing that it printed can go with Redis's memory any more."""
        while not await self._node.kept.archived((self.start.job_id, self.start.attempt)):
            crashpoints.reach("log-lost")
            await output.ship_anew()

    async def _live(self) -> AttemptFinished:
        self._oom_kills = oom_kills()
        container, stream = await self._container.begin()
        if container is None:
            return self._finished(Verdict("container_gone", REMOVED))
        output = self._output(stream)
        shipping = asyncio.create_task(output.ship(self._exited, self.look), name=f"output of {self}")
        stuck = asyncio.create_task(output.stuck.wait())
        try:
            if not container.ended:
                self._told_running = True
                self._node.link.send(
                    AttemptRunning(
                        executor_id=self._node.state.executor_id,
                        job_id=self.start.job_id,
                        attempt=self.start.attempt,
                        container_id=container.id,
                        started_at=as_text(container.started_at) or "",
                        accepted_at=self.record.accepted_at or None,
                        pulled_at=self.record.pulled_at or None,
                        created_at=as_text(container.created_at),
                        settings=container.applied,
                    )
                )
                container = await self._watch(container)
            self._exited.set()
            crashpoints.reach("output-unshipped")
            await asyncio.wait({shipping, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if not shipping.done():
                logger.info("%s ended; its log waits for the archive", self)
                self._to_keep = output
                await self._report(await self._end(container, output))
            self._to_keep = output if await shipping and output.lines else None
        finally:
            for task in (shipping, stuck):
                task.cancel()
            await asyncio.gather(shipping, stuck, return_exceptions=True)
        return await self._end(container, output)

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
                elif not told and (self._container.stop_wanted.is_set() or now >= deadline):
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
            except TimeoutError:  # Where something woke us, it may be killed already, and Docker not know of it yet.
                self._oom_kills = oom_kills()
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

    # --- what became of it

    async def _end(self, container: Facts, output: Output) -> AttemptFinished:
        kernel_killed = oom_kills() > self._oom_kills
        may_be_oom = container.exit_code == KILLED[0] or (container.exit_code and kernel_killed)
        if may_be_oom and not (container.oom_killed or self._saw_oom or self._ended_by):
            await asyncio.sleep(LATE_OOM)
            container = await self._container.find() or container
        before = ended_by_predecessor(self.start, self.record.stop, container) if self.adopted else ""
        if self.adopted and not before and container.exit_code in (*KILLED, REBOOTED):
            await self._ask_for_its_end(container)
        around = Circumstances(
            ended_by=self._ended_by or before,
            oom=container.oom_killed or self._saw_oom,
            kernel_killed=kernel_killed,
            killed_by_other=self._killed_by_other,
            engine_restarted=self._engine_restarted or self._node.engine.generation != self._generation,
            first_stderr=output.first_stderr,
            last_stderr=output.last_stderr,
        )
        verdict = judge(self.start, container, around)
        return self._finished(verdict, container, around.oom or verdict.reason == "oom_killed")

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
            started_at=as_text(container.started_at) if container else None,
            finished_at=as_text(container.finished_at) if container else None,
            accepted_at=self.record.accepted_at or None,
            pulled_at=self.record.pulled_at or None,
            created_at=as_text(container.created_at) if container else None,
            use=self.peaks.use(),
            settings=container.applied if container and not self._told_running else {},
        )

    def _progress(self, detail: str, layers: list[Layer]) -> None:
        now = time.monotonic()
        if (now - self._told >= PROGRESS_INTERVAL or detail == MAKING) and self._node.link.connected:
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

    def _keep_first_line(self, printed_at: str) -> None:
        self._container.save(replace(self.record, first_line=printed_at))

    def _output(self, stream: Stream | None) -> Output:
        config, link = self._node.config, self._node.link
        writer = LogWriter(
            link.client,
            link.keys,
            self.start.job_id,
            self.start.attempt,
            limit_bytes=config.log_limit_bytes,
            patiently=link.patiently,
        )
        return Output(
            self._node.engine,
            self.container_id,
            writer,
            config.log_buffer_bytes,
            stream,
            self.record.first_line,
            self._keep_first_line,
        )
