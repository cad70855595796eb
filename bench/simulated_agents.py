"""Many agents in one process, who speak the real protocol over Redis and whose jobs end the moment they begin.

    REDIS_URL=redis://… python -m bench.simulated_agents 2000

Where real agents block on a stream each, these look at all their streams together, and rest between two looks: one
process that looked at thousands of streams for every single command would measure itself.
"""

import itertools
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

import redis

from agent.protocol import (
    FIELD,
    AttemptFinished,
    AttemptRunning,
    Event,
    Heartbeat,
    Hello,
    Keys,
    StartAttempt,
    decode,
    encode,
)

HEARTBEAT_SECONDS = float(os.environ.get("HEARTBEAT_INTERVAL", "30"))
REST_SECONDS = 0.02
BLOCK_MILLISECONDS = 200
HELLOS_AT_ONCE = 200
CPU_MILLICORES, MEMORY_BYTES = 16_000, 64 * 1024**3


class Agents:
    def __init__(self, client: redis.Redis, count: int) -> None:
        self._client, self._keys = client, Keys()
        self._ids = [f"simulated-{number:05}" for number in range(count)]
        self._last = dict.fromkeys(self._ids, 0)
        self._by_stream = {self._keys.commands(name).encode(): name for name in self._ids}
        self._streams: list[Any] = list(self._by_stream)
        self._places = {stream: place for place, stream in enumerate(self._streams)}
        self._after: list[Any] = [b"0"] * count

    def play(self) -> None:
        """For ever. Raises redis.RedisError where Redis goes away."""
        for start in range(0, len(self._ids), HELLOS_AT_ONCE):
            self._send([self._hello(name) for name in self._ids[start : start + HELLOS_AT_ONCE]])
        beating = itertools.cycle(self._ids)
        pause = HEARTBEAT_SECONDS / len(self._ids)
        beat_at = time.monotonic()
        while True:
            now = time.monotonic()
            beats: list[Event] = []
            while beat_at <= now:
                name = next(beating)
                beats.append(Heartbeat(executor_id=name, last_command=self._last[name]))
                beat_at += pause
            self._send(beats + self._work())
            time.sleep(REST_SECONDS)

    def _work(self) -> list[Event]:
        """Take the commands there are, and do them at once: nothing is held from one look to the next."""
        look = ["XREAD", "COUNT", 1000, "BLOCK", BLOCK_MILLISECONDS, "STREAMS", *self._streams, *self._after]
        answer: Any = self._client.execute_command(*look)
        events: list[Event] = []
        for stream, entries in answer.items() if isinstance(answer, dict) else answer or []:
            name = self._by_stream[stream]
            self._after[self._places[stream]] = entries[-1][0]
            self._last[name] = int(entries[-1][0].split(b"-")[0])
            for _, fields in entries:
                command = decode(fields[FIELD])
                if isinstance(command, StartAttempt):
                    events += self._run(name, command)
        return events

    def _run(self, name: str, command: StartAttempt) -> tuple[Event, Event]:
        now = datetime.now(UTC).isoformat()
        container = command.job_id.replace("-", "") * 2
        running = AttemptRunning(
            executor_id=name,
            job_id=command.job_id,
            attempt=command.attempt,
            container_id=container,
            started_at=now,
            accepted_at=now,
            created_at=now,
        )
        finished = AttemptFinished(
            executor_id=name,
            job_id=command.job_id,
            attempt=command.attempt,
            reason="completed",
            exit_code=0,
            container_id=container,
            started_at=now,
            finished_at=now,
            accepted_at=now,
            created_at=now,
        )
        return running, finished

    def _hello(self, name: str) -> Hello:
        return Hello(
            executor_id=name,
            name=name,
            address="127.0.0.1",
            cpu_millicores=CPU_MILLICORES,
            memory_bytes=MEMORY_BYTES,
            last_command=self._last[name],
        )

    def _send(self, events: list[Event]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for event in events:
            pipeline.xadd(self._keys.events, {FIELD: encode(event)})
        pipeline.execute()


if __name__ == "__main__":
    Agents(redis.Redis.from_url(os.environ["REDIS_URL"]), int(sys.argv[1])).play()
