"""A real agent in a process of its own, driven as the scheduler does: commands into its stream, events out of it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import docker
import redis

from agent.containers import LABEL_EXECUTOR
from agent.protocol import (
    FIELD,
    AttemptFinished,
    AttemptRunning,
    Command,
    Event,
    Heartbeat,
    Hello,
    Keys,
    StartAttempt,
    StopAttempt,
    decode,
    encode,
)

E = TypeVar("E")
T = TypeVar("T")
MB = 1024**2


def wait_for(condition: Callable[[], T], seconds: float = 20, what: str = "") -> T:
    """The first true answer of `condition`; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what or condition} did not happen within {seconds} s"
        time.sleep(0.02)
    return answer


class AgentProcess:
    """`python -m agent` with a state folder of its own; it can be killed and started again."""

    def __init__(self, directory: Path, redis_url: str, client: redis.Redis, **environment: str) -> None:
        self.directory = directory
        self.client = client
        self.keys = Keys()
        self.seq = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = os.environ | {
            "REDIS_URL": redis_url,
            "AGENT_STATE_DIR": str(directory / "state"),
            "LOG_DIR": str(directory),
            "AGENT_NAME": "test",
            "AGENT_CPU_CORES": "4",
            "AGENT_MEMORY_GB": "4",
            "HEARTBEAT_INTERVAL": "0.5",
            "JOB_POLL_INTERVAL": "1",
            "AGENT_SAMPLE_INTERVAL": "0.5",
            "AGENT_SANDBOX_POOL": "0",
        }
        self.environment.update(environment)

    # --- the process

    def start(self) -> "AgentProcess":
        hellos = len(self.events(Hello))
        self.launch()
        wait_for(lambda: len(self.events(Hello)) > hellos, what="the agent's hello")
        return self

    def launch(self) -> subprocess.Popen[bytes]:
        """As `start`, without waiting."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent"], env=self.environment, stderr=subprocess.DEVNULL
        )
        return self.process

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)

    def clean_up(self, engine: docker.DockerClient) -> None:
        if self.process and self.process.poll() is None:
            self.kill()
        id_file = self.directory / "state" / "executor_id"
        if id_file.exists():
            for container in self.containers(engine):
                with contextlib.suppress(docker.errors.APIError):  # The agent had begun to remove it.
                    container.remove(force=True, v=True)

    @property
    def id(self) -> str:
        return (self.directory / "state" / "executor_id").read_text()

    @property
    def log(self) -> str:
        return (self.directory / "executor.log").read_text()

    def containers(self, engine: docker.DockerClient) -> list[Any]:
        return engine.containers.list(all=True, filters={"label": f"{LABEL_EXECUTOR}={self.id}"}, ignore_removed=True)

    def cleared(self, engine: docker.DockerClient) -> bool:
        """Whether none of its containers is left, with all logs that are complete archived."""
        self.archive()
        return not self.containers(engine)

    def archive(self) -> None:
        """What the scheduler's process does with complete logs, but for the archive itself."""
        for key in self.client.scan_iter(self.keys.job_logs_meta("*")):
            complete, lines = self.client.hmget(key, "complete", "lines")
            if complete == b"1":
                self.client.hset(key, mapping={"archived": int(lines), "unarchived": 0})

    # --- commands

    def send(self, command: Command) -> None:
        self.client.xadd(self.keys.commands(self.id), {FIELD: encode(command)}, id=f"{command.seq}-0")

    def run(self, image: str, command: list[str], **fields: Any) -> StartAttempt:
        """Send a start command for a new job."""
        self.seq += 1
        settings = {
            "job_id": str(uuid.uuid4()),
            "attempt": 1,
            "cpu_millicores": 500,
            "memory_bytes": 64 * MB,
            "timeout_seconds": 60,
        } | fields
        start = StartAttempt(seq=self.seq, image=image, command=command, **settings)
        self.send(start)
        return start

    def stop(self, start: StartAttempt, why: str = "abort", grace_seconds: int = 1) -> None:
        self.seq += 1
        self.send(
            StopAttempt(seq=self.seq, job_id=start.job_id, attempt=start.attempt, why=why, grace_seconds=grace_seconds)
        )

    # --- what came back

    def all_events(self) -> list[Event]:
        messages = [decode(fields[FIELD]) for _, fields in self.client.xrange(self.keys.events)]
        return [message for message in messages if isinstance(message, Event)]

    def events(self, kind: type[E], start: StartAttempt | None = None) -> list[E]:
        found = [event for event in self.all_events() if isinstance(event, kind)]
        if start:
            found = [event for event in found if (event.job_id, event.attempt) == (start.job_id, start.attempt)]  # type: ignore[attr-defined]
        return found

    def running(self, start: StartAttempt) -> AttemptRunning:
        return wait_for(lambda: self.events(AttemptRunning, start), what="attempt_running")[0]

    def finished(self, start: StartAttempt, seconds: float = 30) -> AttemptFinished:
        return wait_for(lambda: self.events(AttemptFinished, start), seconds, "attempt_finished")[0]

    def last_heartbeat(self) -> Heartbeat | None:
        return (self.events(Heartbeat) or [None])[-1]  # type: ignore[list-item]

    def log_lines(self, start: StartAttempt) -> list[str]:
        return [line.decode() for line in self.client.lrange(self.keys.job_logs(start.job_id), 0, -1)]

    def texts(self, start: StartAttempt, stream: str = "stdout") -> list[str]:
        """The text of each line of one stream."""
        parts = [line.split(" ", 2) for line in self.log_lines(start)]
        return [text for _, name, text in parts if name == stream]

    def log_meta(self, start: StartAttempt) -> dict[str, str]:
        found = self.client.hgetall(self.keys.job_logs_meta(start.job_id))
        return {name.decode(): value.decode() for name, value in found.items()}
