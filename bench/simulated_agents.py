"""Many agents in one process, who speak the real protocol over Redis and whose jobs end the moment they begin.

    REDIS_URL=redis://… python -m bench.simulated_agents 2000

Where real agents block on a stream each, these look at all their streams together, and rest between two looks: one
process that looked at thousands of streams for every single command would measure itself.
"""

import itertools
import json
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
    Heartbeat,
    Hello,
    Keys,
    StartAttempt,
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
            self._send([encode(self._hello(name)) for name in self._ids[start : start + HELLOS_AT_ONCE]])
        beating = itertools.cycle(self._ids)
        pause = HEARTBEAT_SECONDS / len(self._ids)
        beat_at = time.monotonic()
        while True:
            now = time.monotonic()
            beats: list[bytes] = []
            while beat_at <= now:
                name = next(beating)
                beats.append(encode(Heartbeat(executor_id=name, last_command=self._last[name])))
                beat_at += pause
            self._send(beats + self._work())
            time.sleep(REST_SECONDS)

    def _work(self) -> list[bytes]:
        """Take the commands there are, and do them at once: nothing is held from one look to the next."""
        look = ["XREAD", "COUNT", 1000, "BLOCK", BLOCK_MILLISECONDS, "STREAMS", *self._streams, *self._after]
        answer: Any = self._client.execute_command(*look)
        said: list[bytes] = []
        for stream, entries in answer.items() if isinstance(answer, dict) else answer or []:
            name = self._by_stream[stream]
            self._after[self._places[stream]] = entries[-1][0]
            self._last[name] = int(entries[-1][0].split(b"-")[0])
            for _, fields in entries:
                command = json.loads(fields[FIELD])
                if command["kind"] == StartAttempt.kind:
                    said += _run(name, command["job_id"], command["attempt"])
        return said

    def _hello(self, name: str) -> Hello:
        return Hello(
            executor_id=name,
            name=name,
            address="127.0.0.1",
            cpu_millicores=CPU_MILLICORES,
            memory_bytes=MEMORY_BYTES,
            last_command=self._last[name],
        )

    def _send(self, said: list[bytes]) -> None:
        """In one go, and no answer looked at but that there is one: a pipeline takes longer than Redis does."""
        connection = self._client.connection_pool.get_connection()
        try:
            adding = [connection.pack_command("XADD", self._keys.events, "*", FIELD, message) for message in said]
            connection.send_packed_command([b"".join(itertools.chain.from_iterable(adding))])
            for _ in said:
                connection.read_response()
        finally:
            self._client.connection_pool.release(connection)


def _run(name: str, job_id: str, attempt: int) -> list[bytes]:
    """What the agent says of an attempt that ends at once."""
    told = {
        "executor": name,
        "job": job_id,
        "attempt": attempt,
        "container": job_id.replace("-", "") * 2,
        "now": datetime.now(UTC).isoformat(),
    }
    return [(pattern % told).encode() for pattern in _PATTERNS]


def _pattern(cls: type[AttemptRunning | AttemptFinished], **more: Any) -> str:
    """Such a message as the protocol writes it, with places for what differs: encoded once instead of for each job."""
    names = {"executor_id": "%(executor)s", "job_id": "%(job)s", "container_id": "%(container)s"}
    times = dict.fromkeys(("started_at", "accepted_at", "created_at"), "%(now)s")
    return encode(cls(**names, **times, attempt=-1, **more)).decode().replace("-1", "%(attempt)d")


_PATTERNS = [
    _pattern(AttemptRunning),
    _pattern(AttemptFinished, reason="completed", exit_code=0, finished_at="%(now)s"),
]


if __name__ == "__main__":
    Agents(redis.Redis.from_url(os.environ["REDIS_URL"]), int(sys.argv[1])).play()
