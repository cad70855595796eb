"""The agent's side of Redis: commands in, events out in their order, and patience while Redis is away."""

import asyncio
import contextlib
import json
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agent.config import Config
from agent.protocol import (
    FIELD,
    JOB_SAMPLES_KEPT,
    JOB_SAMPLES_SECONDS,
    Command,
    Event,
    Keys,
    MalformedMessage,
    UnknownMessage,
    decode,
    encode,
)

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
CALL_TIMEOUT = 20
SAMPLES_KEPT = 8640
"""A day's, at one every ten seconds."""
IMAGES_KEPT_SECONDS = 1800


class Link:
    """One agent's connections to Redis. `on_return` is called when Redis answers again after it did not."""

    def __init__(self, config: Config, executor_id: str, on_return: Callable[[], None]) -> None:
        self.keys = Keys(config.redis_key_prefix)
        self.connected = True
        self._executor_id, self._poll = executor_id, config.poll_interval
        self._on_return = on_return
        self._outbox: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._filled = asyncio.Event()
        self._sampled = False
        self._returned = asyncio.Event()
        self.client = self._client(config.redis_url)
        self._blocking = self._client(config.redis_url)

    @staticmethod
    def _client(url: str) -> redis.asyncio.Redis:
        """Without a time-out of its own (`patiently` has one): redis-py's is an asyncio.wait_for, which up to Python
        3.11 swallows a cancellation that comes just as the write is done, so that a loop told to end would go on."""
        return redis.asyncio.Redis.from_url(
            url, socket_connect_timeout=5, socket_timeout=None, socket_keepalive=True, retry=Retry(NoBackoff(), 0)
        )

    async def close(self) -> None:
        await self.client.aclose()
        await self._blocking.aclose()

    async def patiently(self, call: Callable[[], Awaitable[Any]], seconds: float = CALL_TIMEOUT) -> Any:
        """The answer of `call`, tried until Redis gives one within `seconds`; it must be harmless when done twice."""
        delay, hurried = FIRST_DELAY, False
        while True:
            try:
                async with asyncio.timeout(seconds):
                    answer = await call()
            except TimeoutError:
                self._lost(f"no answer within {seconds:g} s")
            except (RedisError, OSError) as error:
                self._lost(str(error))
            else:
                self._back()
                return answer
            try:
                async with asyncio.timeout(delay * random.uniform(0.5, 1)):  # noqa: S311
                    # The first that gets through has the others try at once, but each of them only once.
                    await (asyncio.Event() if hurried else self._returned).wait()
                hurried = True
            except TimeoutError:
                pass
            delay = min(2 * delay, LONGEST_DELAY)

    def _lost(self, why: str) -> None:
        if self.connected:
            self.connected = False
            self._returned.clear()
            logger.warning("Redis does not answer, trying on: %s", why)

    def _back(self) -> None:
        if not self.connected:
            self.connected = True
            self._returned.set()
            logger.info("Redis answers again")
            self._on_return()

    # --- events

    def send(self, event: Event) -> asyncio.Future[None]:
        """Put an event behind those that wait; the future is done when Redis has it."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outbox.append((encode(event), written))
        self._filled.set()
        return written

    async def deliver(self) -> None:
        """Write the waiting events, in order, for ever."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                batch = list(self._outbox)[:200]

                async def write(batch: list[tuple[bytes, asyncio.Future[None]]] = batch) -> None:
                    pipeline = self.client.pipeline(transaction=True)
                    for data, _ in batch:
                        pipeline.xadd(self.keys.events, {FIELD: data})
                    await pipeline.execute()

                await self.patiently(write)
                for _, written in batch:
                    self._outbox.popleft()
                    if not written.done():
                        written.set_result(None)

    async def flush(self, seconds: float) -> None:
        """Wait until all events are written, or the time is up."""
        pending = [written for _, written in self._outbox]
        if pending:
            await asyncio.wait(pending, timeout=seconds)

    # --- commands

    async def receive(self, after: int, handle: Callable[[int, Command | None], None]) -> None:
        """Call `handle(seq, command)` for each command after number `after`, for ever; None for an unreadable one."""
        key = self.keys.commands(self._executor_id)
        block = max(1, int(self._poll * 1000))
        while True:
            read = {key: f"{after}-0"}
            answer = await self.patiently(
                lambda read=read: self._blocking.xread(read, count=100, block=block),  # type: ignore[misc]
                self._poll + CALL_TIMEOUT,
            )
            for _, entries in answer.items() if isinstance(answer, dict) else answer or []:
                for entry_id, fields in entries:
                    after = int(entry_id.split(b"-")[0])
                    handle(after, _command(after, fields))

    # --- samples

    async def write_sample(self, sample: dict[str, object]) -> bool:
        """Add a utilisation sample. False where Redis was emptied since the last one."""
        key = self.keys.samples(self._executor_id)
        fields = {name: json.dumps(value) if isinstance(value, list) else value for name, value in sample.items()}

        async def write() -> list[Any]:
            pipeline = self.client.pipeline(transaction=True)
            pipeline.exists(key)
            pipeline.xadd(key, fields, maxlen=SAMPLES_KEPT, approximate=True)  # type: ignore[arg-type]
            return await pipeline.execute()

        existed, _ = await self.patiently(write)
        emptied = self._sampled and not existed
        self._sampled = True
        return not emptied

    async def emptied(self) -> bool:
        """Whether Redis was emptied since the last sample, said once."""
        key = self.keys.samples(self._executor_id)
        if not self._sampled or await self.patiently(lambda: self.client.exists(key)):
            return False
        self._sampled = False
        return True

    async def write_images(self, images: list[list[object]]) -> None:
        """Say which images the node has; it expires, should the agent go."""
        body = json.dumps(images, ensure_ascii=False)
        await self.patiently(lambda: self.client.set(self.keys.images(self._executor_id), body, ex=IMAGES_KEPT_SECONDS))

    async def write_job_samples(self, samples: list[tuple[str, dict[str, float | int]]]) -> None:
        """Add samples of jobs' use, by job id; dropped while Redis is away, as they are for charts alone."""
        pipeline = self.client.pipeline(transaction=False)
        for job_id, sample in samples:
            key = self.keys.job_samples(job_id)
            pipeline.xadd(key, sample, maxlen=JOB_SAMPLES_KEPT, approximate=True)  # type: ignore[arg-type]
            pipeline.expire(key, JOB_SAMPLES_SECONDS)
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(CALL_TIMEOUT):
                await pipeline.execute()


def _command(seq: int, fields: dict[bytes, bytes]) -> Command | None:
    try:
        message = decode(fields.get(FIELD, b""))
    except (UnknownMessage, MalformedMessage) as error:
        logger.error("Command %d is skipped: %s", seq, error)
        return None
    if not isinstance(message, Command):
        logger.error("Command %d is skipped: %s is not a command", seq, message.kind)
        return None
    return message
