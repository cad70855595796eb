"""Agents of the demo's executors: they speak the real protocol over Redis and run nothing.

One process plays them all. Starts are answered as an agent would, each run lasts as long as its kind of work does, some
fail; now and then a node ails or falls silent. Jobs that are not the demo's are refused.
"""

import heapq
import itertools
import json
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth.models import User

from agent import __version__
from agent.protocol import (
    FIELD,
    AttemptFinished,
    AttemptProgress,
    AttemptRunning,
    Gpu,
    Heartbeat,
    HeldAttempt,
    Hello,
    StartAttempt,
    StopAttempt,
    decode,
    encode,
)
from agent.protocol import Event as AgentEvent
from executors import broker
from executors.history import GB
from executors.models import Executor
from jobs import services
from jobs.demo import PREFIX, WORKS, Work, duration, owner, submission_of
from jobs.lifecycle import EndReason
from jobs.models import Attempt
from jobs.submission import parse_submission
from jobs.trouble import Trouble

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 10.0
IMAGES_SECONDS = 600.0
BLOCK_MILLISECONDS = 200
RETRY_SECONDS = 1.0
SAMPLES_KEPT = 8640
LOG_KEPT_SECONDS = 3600
AIL_EVERY, AIL_FOR = 120.0, 45.0
SILENT_EVERY = 420.0
LINES = [
    "\x1b[32mINFO\x1b[0m starting {name}",
    "\x1b[32mINFO\x1b[0m loaded configuration",
    "processed 128 of 512 items",
    "\x1b[33mWARN\x1b[0m slow answer, trying again",
    "processed 384 of 512 items",
    "processed 512 of 512 items",
]

Token = tuple[str, int]


@dataclass(slots=True)
class Running:
    work: Work
    cpu: int
    memory: int
    gpus: list[int]
    began: float


@dataclass(slots=True)
class Node:
    """One made-up node and its agent."""

    executor: Executor
    last_command: int
    held: dict[Token, Running] = field(default_factory=dict)
    problem: str = ""
    silent: bool = False


class Agents:
    """All of them. `play` returns when `ending` is set; the nodes then fall silent. Where Redis is away, it waits."""

    def __init__(self, client: redis.Redis, rate: float, ending: Event) -> None:
        self._client, self._rate, self._ending = client, rate, ending
        self._rng = random.Random()  # noqa: S311
        self._keys = broker.keys()
        self._nodes: dict[str, Node] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._works = {work.name: work for work in WORKS}
        self._user: User = owner()
        for executor in Executor.objects.filter(id__startswith=PREFIX):
            self._nodes[executor.id] = Node(executor, executor.passed_command)
        for attempt in Attempt.objects.filter(executor__in=list(self._nodes), finished_at=None).select_related("job"):
            self._take_up(attempt)

    def play(self) -> None:
        for node in self._nodes.values():
            self._later(0, lambda node=node: self._hello(node))  # type: ignore[misc]
            self._every(settings.HEARTBEAT_INTERVAL, lambda node=node: self._beat(node))  # type: ignore[misc]
        self._every(SAMPLE_SECONDS, self._sample, at_once=True)
        self._every(IMAGES_SECONDS, self._list_images, at_once=True)
        self._every(AIL_EVERY, self._ail)
        self._every(SILENT_EVERY, self._fall_silent)
        if self._rate > 0:
            self._later(0, self._submit)
        trouble = Trouble(logger, RETRY_SECONDS)
        while not self._ending.is_set():
            try:
                self._act()
                self._read()
            except redis.RedisError as error:
                trouble.met("Redis", error)
                self._ending.wait(RETRY_SECONDS)
            else:
                trouble.over("Redis")

    # --- time ------------------------------------------------------------------------------------------------------

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), act))

    def _every(self, seconds: float, act: Callable[[], None], at_once: bool = False) -> None:
        def again() -> None:
            act()
            self._later(seconds, again)

        self._later(0 if at_once else self._rng.uniform(0, seconds), again)

    def _act(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic() and not self._ending.is_set():
            act = heapq.heappop(self._due)[2]
            try:
                act()
            except redis.RedisError:
                self._later(0, act)  # so that each is done whole once Redis is back
                raise

    # --- events ----------------------------------------------------------------------------------------------------

    def _send(self, node: Node, *events: AgentEvent) -> None:
        if node.silent:
            return
        pipeline = self._client.pipeline(transaction=False)
        for event in events:
            pipeline.xadd(self._keys.events, {FIELD: encode(event)})
        pipeline.execute()

    def _held(self, node: Node) -> list[HeldAttempt]:
        return [HeldAttempt(*token) for token in node.held]

    def _hello(self, node: Node) -> None:
        executor = node.executor
        self._send(
            node,
            Hello(
                executor_id=executor.id,
                name=executor.name,
                address=executor.address,
                cpu_millicores=executor.cpu_millicores,
                memory_bytes=executor.memory_bytes,
                reserve_cpu_millicores=executor.reserve_cpu_millicores,
                reserve_memory_bytes=executor.reserve_memory_bytes,
                gpus=[Gpu(**gpu) for gpu in executor.gpus],
                labels=executor.labels,
                docker_version=executor.docker_version,
                agent_version=__version__,
                last_command=node.last_command,
                held=self._held(node),
            ),
        )

    def _beat(self, node: Node) -> None:
        beat = Heartbeat(
            executor_id=node.executor.id,
            last_command=node.last_command,
            held=self._held(node),
            problem=node.problem,
        )
        self._send(node, beat)

    def _ail(self) -> None:
        node = self._rng.choice(list(self._nodes.values()))
        node.problem = "Docker does not answer within 10 s. (The demo made this up.)"

        def heal() -> None:
            node.problem = ""
            self._beat(node)

        self._later(AIL_FOR, heal)
        self._beat(node)

    def _fall_silent(self) -> None:
        node = self._rng.choice(list(self._nodes.values()))
        node.silent = True

        def wake() -> None:
            node.silent = False
            self._hello(node)

        self._later((settings.MISSED_HEARTBEATS_TO_LOSE + 2) * settings.HEARTBEAT_INTERVAL, wake)

    # --- commands --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        streams = {
            self._keys.commands(node.executor.id): f"{node.last_command}-0"
            for node in self._nodes.values()
            if not node.silent
        }
        if not streams:
            self._ending.wait(BLOCK_MILLISECONDS / 1000)
            return
        by_key = {self._keys.commands(node.executor.id).encode(): node for node in self._nodes.values()}
        answer: Any = self._client.xread(streams, block=BLOCK_MILLISECONDS, count=50)  # type: ignore[arg-type]
        for key, entries in answer.items() if isinstance(answer, dict) else answer or []:
            for entry_id, fields in entries:
                self._handle(by_key[key], int(entry_id.split(b"-")[0]), fields[FIELD])

    def _handle(self, node: Node, seq: int, body: bytes) -> None:
        command = decode(body)
        if isinstance(command, StartAttempt):
            self._start(node, command)
        elif isinstance(command, StopAttempt):
            token = (command.job_id, command.attempt)
            if token in node.held:
                self._later(self._rng.uniform(0.2, 2), lambda: self._finish(node, token, EndReason.STOPPED, 143))
        node.last_command = max(node.last_command, seq)  # last: what was not answered is read again

    def _start(self, node: Node, command: StartAttempt) -> None:
        token = (command.job_id, command.attempt)
        if token in node.held:
            return
        names: dict[str, Any] = {"executor_id": node.executor.id, "job_id": command.job_id, "attempt": command.attempt}
        work = self._works.get(command.job_name)
        if work is None or not command.image.startswith("registry.demo/"):
            self._send(
                node,
                AttemptFinished(
                    **names,
                    reason=EndReason.START_REFUSED,
                    message="A demo's executor runs nothing but the demo's jobs.",
                ),
            )
            return
        node.held[token] = Running(work, command.cpu_millicores, command.memory_bytes, command.gpu_indices, time.time())
        self._later(self._rng.expovariate(1 / 1.5), lambda: self._run(node, token))
        if self._rng.random() < 0.3:
            self._send(node, AttemptProgress(**names, detail=f"pulling {command.image}: 40 %"))

    def _run(self, node: Node, token: Token) -> None:
        running = node.held.get(token)
        if running is None:
            return
        running.began = time.time()
        names: dict[str, Any] = {"executor_id": node.executor.id, "job_id": token[0], "attempt": token[1]}
        self._send(node, AttemptRunning(**names, container_id=_container(token), started_at=_now()))
        self._write_log(token, LINES[:3], running.work.name)
        self._plan_end(node, token, duration(self._rng, running.work))

    def _take_up(self, attempt: Attempt) -> None:
        """An attempt that the database says runs on a demo node."""
        node, work = self._nodes[attempt.executor_id or ""], self._works.get(attempt.job.name, WORKS[0])
        token = (str(attempt.job_id), attempt.number)
        job = attempt.job
        node.held[token] = Running(work, job.cpu_millicores, job.memory_bytes, attempt.gpu_indices, time.time())
        if attempt.started_at is None:
            self._later(1, lambda: self._run(node, token))
        else:
            self._plan_end(node, token, self._rng.uniform(1, 1.5 * work.seconds))

    def _plan_end(self, node: Node, token: Token, seconds: float) -> None:
        work = node.held[token].work
        if self._rng.random() < work.fails:
            exit_code = 137 if work.reason is EndReason.OOM_KILLED else 1
            self._later(seconds / 2, lambda: self._finish(node, token, work.reason, exit_code))
        else:
            self._later(seconds, lambda: self._finish(node, token, EndReason.COMPLETED, 0))

    def _finish(self, node: Node, token: Token, reason: EndReason, exit_code: int) -> None:
        running = node.held.get(token)
        if running is None:
            return
        if node.silent:  # as a real agent: it reports when it is back
            self._later(5, lambda: self._finish(node, token, reason, exit_code))
            return
        self._write_log(token, LINES[3:], running.work.name, complete=True)
        self._send(
            node,
            AttemptFinished(
                executor_id=node.executor.id,
                job_id=token[0],
                attempt=token[1],
                reason=reason.value,
                exit_code=exit_code,
                oom_killed=reason is EndReason.OOM_KILLED,
                container_id=_container(token),
                started_at=datetime.fromtimestamp(running.began, UTC).isoformat(),
                finished_at=_now(),
            ),
        )
        del node.held[token]

    def _write_log(self, token: Token, lines: list[str], name: str, complete: bool = False) -> None:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        texts = [f"{stamp} stdout {line.format(name=name)}" for line in lines]
        log, meta = self._keys.job_logs(token[0]), self._keys.job_logs_meta(token[0])
        with self._client.pipeline() as pipeline:
            pipeline.rpush(log, *texts)
            pipeline.hincrby(meta, "lines", len(texts))
            pipeline.hincrby(meta, "bytes", sum(len(text) + 1 for text in texts))
            pipeline.hset(meta, mapping={"dropped": 0, "complete": int(complete)})
            pipeline.expire(log, LOG_KEPT_SECONDS)
            pipeline.expire(meta, LOG_KEPT_SECONDS)
            pipeline.publish(self._keys.log_channel(token[0]), "")
            pipeline.execute()

    # --- samples and images ----------------------------------------------------------------------------------------

    def _sample(self) -> None:
        pipeline = self._client.pipeline(transaction=False)
        tide = 0.68 + 0.08 * math.sin(time.time() / 300)
        for node in self._nodes.values():
            if node.silent:
                continue
            executor = node.executor
            share = tide + self._rng.uniform(-0.1, 0.1)
            cpu = sum(running.cpu for running in node.held.values()) * share / executor.cpu_millicores
            memory = sum(running.memory for running in node.held.values()) * share + 1.5 * GB
            busy = {index for running in node.held.values() for index in running.gpus}
            gpus = [
                {
                    "index": gpu["index"],
                    "percent": round(self._rng.uniform(70, 99), 1) if gpu["index"] in busy else 0.0,
                    "memory_bytes": int(gpu["memory_bytes"] * 0.8) if gpu["index"] in busy else 0,
                }
                for gpu in executor.gpus
            ]
            sample = {
                "t": round(time.time(), 3),
                "cpu_percent": round(min(100, 100 * cpu + self._rng.uniform(0.5, 2)), 1),
                "memory_bytes": int(min(memory, executor.memory_bytes)),
                "gpus": json.dumps(gpus),
                "held": len(node.held),
            }
            pipeline.xadd(self._keys.samples(executor.id), sample, maxlen=SAMPLES_KEPT, approximate=True)  # type: ignore[arg-type]
        pipeline.execute()

    def _list_images(self) -> None:
        pipeline = self._client.pipeline(transaction=False)
        images = sorted({work.image for work in WORKS})
        for number, node in enumerate(self._nodes.values()):
            here = [image for place, image in enumerate(images) if (number + place) % 3]
            listed = [[image, (900 - 70 * place) * 1024**2] for place, image in enumerate(here)]
            pipeline.set(self._keys.images(node.executor.id), json.dumps(listed), ex=int(2 * IMAGES_SECONDS))
        pipeline.execute()

    # --- people ----------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        work = self._rng.choices(WORKS, [work.weight for work in WORKS])[0]
        services.submit(parse_submission(submission_of(work)), self._user)
        self._later(self._rng.expovariate(self._rate), self._submit)


def _container(token: Token) -> str:
    return (token[0].replace("-", "") * 2)[:64]


def _now() -> str:
    return datetime.now(UTC).isoformat()
