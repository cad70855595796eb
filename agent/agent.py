"""The agent itself: takes commands, admits attempts, tells the scheduler, takes up what its predecessor left."""

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from docker.errors import APIError

from agent import __version__, crashpoints, resources
from agent.admission import no_room
from agent.attempt import Attempt
from agent.config import Config
from agent.containers import FULL_DISK, LABEL_ATTEMPT, LABEL_JOB, LABEL_SANDBOX, StartFailed
from agent.engine import Engine, EngineAway
from agent.http import Stream
from agent.images import Images
from agent.kept import Kept
from agent.leftovers import Sweeper
from agent.link import IMAGES_KEPT_SECONDS, Link
from agent.one_container import Node
from agent.output import LINGER
from agent.protocol import (
    AttemptFinished,
    Command,
    Gpu,
    Heartbeat,
    HeldAttempt,
    Hello,
    Prefetch,
    StartAttempt,
    StopAttempt,
)
from agent.sandboxes import Sandboxes, Starts
from agent.state import Record, State
from agent.usage import Running, sample_usage

logger = logging.getLogger(__name__)

ENGINE_RETRY = 2.0
PING_TIMEOUT = 10
FINISHED_KEPT = 1000
FLUSH_SECONDS = 3.0
SANDBOX_SECONDS = 20.0
FULL_SECONDS = 60
"""How long nothing new is taken after Docker said that its disk is full."""
IMAGES_INTERVAL = 60.0


class Agent:
    """One agent; `run()` is its life, cancelled to end it. Containers go on when it ends."""

    def __init__(self, config: Config, state: State, gpus: list[Gpu], address: str) -> None:
        self._config, self._state, self._gpus, self._address = config, state, gpus, address
        self._engine = Engine(config.pull_timeout, config.registry_auth_file)
        self._link = Link(config, state.executor_id, on_return=lambda: self._say_hello(again=True))
        starts = Starts(config.start_concurrency)
        self._sandboxes = Sandboxes(self._engine, state, config.sandbox_pool, starts)
        self._kept = Kept(self._link, starts)
        self._node = Node(
            config=config,
            state=state,
            engine=self._engine,
            images=Images(self._engine),
            link=self._link,
            gpus=gpus,
            starts=starts,
            sandboxes=self._sandboxes,
            kept=self._kept,
        )
        self._held: dict[tuple[str, int], Attempt] = {}
        self._finished: deque[AttemptFinished] = deque(maxlen=FINISHED_KEPT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        """Those of `_tasks` whose attempt has ended and only needs its container kept for a while, and removed."""
        self._docker_version = ""
        self._stream_problem = "Docker has not answered yet."
        self._ping_problem = ""
        self._full_until = float("-inf")
        self._engine_events: Stream | None = None
        self._sweeper = Sweeper(self._engine, state, self._sandboxes)

    async def run(self) -> None:
        """Until cancelled; then what was read is shipped and reported, for a few seconds at most."""
        ended = self._take_up()
        loops = [
            self._link.deliver(),
            _kept_up(self._kept.run),
            self._follow_engine(),
            self._beat(),
            self._ping_engine(),
            _kept_up(self._sample),
            _kept_up(self._tell_images),
            _kept_up(lambda: sample_usage(self._running_now, self._engine, self._link)),
            _kept_up(self._sweeper.run),
            self._sandboxes.run(),
            self._link.receive(self._state.last_command, self._handle),
        ]
        tasks = [asyncio.create_task(loop) for loop in loops]
        for attempt in list(self._held.values()):
            self._spawn(attempt.run(), str(attempt))
        for attempt in ended:
            self._leaving.add(self._spawn(attempt.leave(), str(attempt)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            await self._end(tasks)

    def _take_up(self) -> list[Attempt]:
        """Hold what the agent before this one held; the attempts whose end it has told are returned. Telling that again
        changes nothing, and it may have come to Redis no more."""
        ended = []
        for record in self._state.records():
            attempt = Attempt(self._node, record, self._on_finished, fresh=False)
            if record.finished:
                ended.append(attempt)
                self._finished.append(record.finished)
                self._link.send(record.finished)
            else:
                self._held[record.start.job_id, record.start.attempt] = attempt
        return ended

    async def _end(self, loops: list[asyncio.Task[None]]) -> None:
        deliver, keep, *others = loops
        for task in others:
            task.cancel()
        await asyncio.sleep(2 * LINGER)
        if self._leaving and self._link.connected and not self._problem:
            await asyncio.wait(set(self._leaving), timeout=FLUSH_SECONDS)
        await _cancel({keep, *others, *self._tasks})
        # Also with a problem, which may be over and not known to be.
        await asyncio.gather(self._link.flush(FLUSH_SECONDS), self._sandboxes.close(SANDBOX_SECONDS))
        await _cancel({deliver})
        self._engine.close()
        await self._link.close()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._leaving.discard(task)
        if not task.cancelled() and task.exception():
            logger.error("%s failed", task.get_name(), exc_info=task.exception())

    @property
    def _problem(self) -> str:
        """Why nothing new can be run here, in words, or ''."""
        full = "The disk of Docker is full." if time.monotonic() < self._full_until else ""
        return self._stream_problem or self._ping_problem or self._state.problem or full

    # --- commands

    def _handle(self, seq: int, command: Command | None) -> None:
        """One command. Everything is on disk, and in `held`, before this returns; the work goes on in tasks."""
        if isinstance(command, StartAttempt):
            self._accept(command)
        elif isinstance(command, StopAttempt):
            self._stop(command)
            crashpoints.reach("stop-received")
        self._state.passed(seq)
        if isinstance(command, Prefetch):
            self._spawn(self._prefetch(command.image), f"prefetch of {command.image}")

    def _accept(self, start: StartAttempt) -> None:
        key = start.job_id, start.attempt
        if key in self._held:
            logger.info("Job %s attempt %d is here already", *key)
            return
        attempt = Attempt(self._node, Record(start), self._on_finished, fresh=True)
        if refusal := self._state.problem or self._no_room(start):
            self._refuse(attempt, refusal)
            return
        crashpoints.reach("command-received")
        try:
            self._state.save(attempt.record)
        except OSError:
            self._heartbeat()  # Before the refusal, so that the job is not sent here again.
            self._refuse(attempt, self._state.problem)
            return
        crashpoints.reach("attempt-recorded")
        self._held[key] = attempt
        logger.info("Accepted job %s attempt %d: %s", *key, start.image)
        self._spawn(attempt.run(), str(attempt))

    def _refuse(self, attempt: Attempt, why: str) -> None:
        event = attempt.refused(why)
        logger.warning("Refused %s: %s", attempt, why)
        self._finished.append(event)
        self._link.send(event)

    def _no_room(self, start: StartAttempt) -> str:
        held = [attempt.start for attempt in self._held.values()]
        return no_room(start, held, self._config, {gpu.index for gpu in self._gpus})

    def _stop(self, command: StopAttempt) -> None:
        attempt = self._held.get((command.job_id, command.attempt))
        if attempt is None:
            logger.info("Job %s attempt %d is to be stopped and is not here", command.job_id, command.attempt)
            return
        attempt.stop(command)

    async def _prefetch(self, image: str) -> None:
        try:
            if not await self._engine.has_image(image):
                await self._node.images.pull(image, lambda *_: None)
                logger.info("Prefetched %s", image)
        except (StartFailed, EngineAway, APIError) as error:
            logger.warning("Prefetching %s failed: %s", image, error)

    # --- events

    def _on_finished(self, attempt: Attempt, event: AttemptFinished) -> asyncio.Future[None]:
        del self._held[event.job_id, event.attempt]
        logger.info("Finished %s: %s. %s", attempt, event.reason, event.message)
        self._finished.append(event)
        if event.reason in ("engine_error", "image_pull_failed") and FULL_DISK in event.message:
            self._full_until = time.monotonic() + FULL_SECONDS
            self._kept.give_up_all("Docker's disk is full")
            self._heartbeat()  # Before the end, so that the job is not sent here again.
        task = asyncio.current_task()
        if task is not None and task in self._tasks:
            self._leaving.add(task)
        written = self._link.send(event)
        if attempt.adopted or event.reason == "superseded":
            self._heartbeat()  # Nothing new comes here as long as the scheduler thinks that it is held in vain.
        return written

    def _was_emptied(self) -> None:
        logger.warning("Redis was emptied: introducing this agent again")
        self._say_hello(again=True)

    def _say_hello(self, again: bool = False) -> None:
        """Describe the node; `again`, after Redis may have been emptied, also what ended lately."""
        if again:
            for event in self._finished:
                self._link.send(event)
        config = self._config
        self._link.send(
            Hello(
                executor_id=self._state.executor_id,
                name=config.name,
                address=self._address,
                cpu_millicores=config.cpu_millicores,
                memory_bytes=config.memory_bytes,
                reserve_cpu_millicores=config.reserve_cpu_millicores,
                reserve_memory_bytes=config.reserve_memory_bytes,
                gpus=self._gpus,
                labels=dict(config.labels),
                docker_version=self._docker_version,
                agent_version=__version__,
                last_command=self._state.last_command,
                held=self._held_now(),
                problem=self._problem,
            )
        )
        self._heartbeat()

    def _heartbeat(self) -> None:
        self._link.send(
            Heartbeat(
                executor_id=self._state.executor_id,
                last_command=self._state.last_command,
                held=self._held_now(),
                problem=self._problem,
            )
        )

    def _held_now(self) -> list[HeldAttempt]:
        return [HeldAttempt(job_id, number) for job_id, number in self._held]

    def _running_now(self) -> list[Running]:
        held = self._held.values()
        return [Running(item.start, item.container_id, item.peaks) for item in held if item.has_begun]

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._config.heartbeat_interval)
            ill = self._state.problem
            if not self._state.check() and ill:
                logger.info("The state folder can be written again")
            if self._link.connected and await self._link.emptied():
                # First of all what ended lately: a heartbeat without it says that the attempt is gone.
                self._was_emptied()
            elif self._link.connected:
                self._heartbeat()

    async def _sample(self) -> None:
        await resources.sample(0, [])  # CPU use is counted from one call to the next.
        await asyncio.sleep(min(1.0, self._config.sample_interval))
        while True:
            sample = await resources.sample(len(self._held), self._gpus)
            if not await self._link.write_sample(sample):
                self._was_emptied()
            await asyncio.sleep(self._config.sample_interval)

    async def _tell_images(self) -> None:
        """Keep what the pages show of the image cache: looked at every minute, written when it changed or gets old."""
        told: list[list[object]] | None = None
        written = float("-inf")
        while True:
            with contextlib.suppress(EngineAway, APIError):  # Heartbeats tell of the engine's trouble.
                images = await self._engine.images()
                if images != told or time.monotonic() - written > IMAGES_KEPT_SECONDS / 2:
                    await self._link.write_images(images)
                    told, written = images, time.monotonic()
            await asyncio.sleep(IMAGES_INTERVAL)

    # --- the engine

    async def _follow_engine(self) -> None:
        """Keep the engine's event stream open; what it lacks is the problem that heartbeats tell."""
        first = True
        while True:
            try:
                self._docker_version = await self._engine.connect()
                stream = await self._engine.events(self._state.executor_id)
            except (EngineAway, APIError) as error:
                problem = f"Docker does not answer: {error}"
            else:
                if self._stream_problem or first:
                    logger.info("Docker %s answers", self._docker_version)
                    self._stream_problem = ""
                    self._say_hello()
                first = False
                for attempt in self._held.values():
                    attempt.look()
                self._engine_events = stream
                self._sandboxes.renew()
                self._sweeper.look()
                async for line in stream.lines():
                    self._engine_event(line)
                self._engine_events = None
                stream.close()
                self._engine.generation += 1
                continue
            if self._stream_problem != problem or first:
                logger.warning("%s; trying on", problem)
                self._stream_problem = problem
                self._say_hello()
            first = False
            await asyncio.sleep(ENGINE_RETRY)

    async def _ping_engine(self) -> None:
        """Notice an engine that keeps its connections open and no longer answers."""
        while True:
            await asyncio.sleep(self._config.heartbeat_interval)
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    await self._engine.ping()
            except TimeoutError:
                problem = f"Docker does not answer within {PING_TIMEOUT} s."
            except (EngineAway, APIError) as error:
                problem = f"Docker does not answer: {error}"
            else:
                problem = ""
            if self._ping_problem and not problem and self._engine_events:
                self._engine_events.close()  # It may have lost something meanwhile, or lead nowhere: open another.
            if problem != self._ping_problem:
                logger.warning("%s", problem or "Docker answers again")
                self._ping_problem = problem
                self._heartbeat()

    def _engine_event(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            labels = event["Actor"]["Attributes"]
            if LABEL_SANDBOX in labels:
                if event["Action"] in ("die", "destroy"):
                    self._sandboxes.died(event["Actor"]["ID"])
                return
            key = labels[LABEL_JOB], int(labels[LABEL_ATTEMPT])
        except (ValueError, KeyError, TypeError):
            return
        if attempt := self._held.get(key):
            attempt.engine_event(event["Action"])


async def _kept_up(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A loop beside the work: what nobody thought of must not end the agent, so it is said, and the loop begun anew."""
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("A loop of the agent failed and begins anew")
        await asyncio.sleep(ENGINE_RETRY)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks until all have ended: one that was about to get an answer can miss the first time."""
    pending = tasks
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1)
    await asyncio.gather(*tasks, return_exceptions=True)
