"""An agent played by hand: speaks the real protocol through the real Redis, and does only what a test tells it."""

from typing import Any

import redis
from django.utils import timezone

from agent.protocol import (
    FIELD,
    AttemptFinished,
    AttemptProgress,
    AttemptRunning,
    Command,
    Event,
    Gpu,
    Heartbeat,
    HeldAttempt,
    Hello,
    Keys,
    StartAttempt,
    decode,
    encode,
)
from executors.models import Executor
from jobs.models import Job
from jobs.scheduling.placement import Placement
from jobs.scheduling.room import shape_of
from jobs.transitions import Ledger

GB = 1024**3


class Node:
    """`receive` takes up commands as an agent does; `held` is what it says that it holds."""

    def __init__(
        self, client: redis.Redis, executor_id: str = "n1", cores: int = 4, gb: int = 8, gpus: int = 0
    ) -> None:
        self.client, self.executor_id, self.cores, self.gb, self.gpus = client, executor_id, cores, gb, gpus
        self.last_command = 0
        self.held: list[HeldAttempt] = []

    def send(self, event: Event) -> None:
        self.client.xadd(Keys().events, {FIELD: encode(event)})

    def hello(self, **more: Any) -> None:
        gpus = [Gpu(index, f"GPU-{index}", "NVIDIA A100-SXM4-40GB", 40 * GB) for index in range(self.gpus)]
        described = {
            "name": self.executor_id,
            "address": "10.0.0.1",
            "cpu_millicores": self.cores * 1000,
            "memory_bytes": self.gb * GB,
            "gpus": gpus,
            "last_command": self.last_command,
            "held": self.held,
            **more,
        }
        self.send(Hello(executor_id=self.executor_id, **described))

    def heartbeat(self, problem: str = "") -> None:
        self.send(
            Heartbeat(executor_id=self.executor_id, last_command=self.last_command, held=self.held, problem=problem)
        )

    def receive(self) -> list[Command]:
        """The commands behind the last one processed. Starts are held from now on."""
        entries: Any = self.client.xrange(Keys().commands(self.executor_id), min=f"({self.last_command}-0")
        received: list[Command] = []
        for _, fields in entries:
            command = decode(fields[FIELD])
            assert isinstance(command, Command)
            received.append(command)
            self.last_command = command.seq
            if isinstance(command, StartAttempt):
                self.held.append(HeldAttempt(command.job_id, command.attempt))
        return received

    def progress(self, job: Job, detail: str, attempt: int = 1) -> None:
        self.send(AttemptProgress(executor_id=self.executor_id, job_id=str(job.id), attempt=attempt, detail=detail))

    def running(self, job: Job, attempt: int = 1, started_at: str = "2026-11-24T13:00:00.123456789Z") -> None:
        self.send(
            AttemptRunning(
                executor_id=self.executor_id,
                job_id=str(job.id),
                attempt=attempt,
                container_id="c0ffee",
                started_at=started_at,
            )
        )

    def finished(self, job: Job, reason: str = "completed", attempt: int = 1, **more: Any) -> None:
        self.held = [held for held in self.held if (held.job_id, held.attempt) != (str(job.id), attempt)]
        said = {"exit_code": 0 if reason == "completed" else 1, "finished_at": "2026-11-24T13:01:00Z", **more}
        self.send(
            AttemptFinished(executor_id=self.executor_id, job_id=str(job.id), attempt=attempt, reason=reason, **said)
        )


def submit(**fields: Any) -> Job:
    """A PENDING job of one core and 1 GB unless told otherwise."""
    wanted = {"image": "alpine", "cpu_millicores": 1000, "memory_bytes": GB, "submitted_at": timezone.now(), **fields}
    shape = shape_of(
        wanted["cpu_millicores"],
        wanted["memory_bytes"],
        wanted.get("gpu_type", ""),
        wanted.get("gpu_count", 0),
        wanted.get("labels", {}),
    )
    return Job.objects.create(shape=shape, **wanted)


def make_executor_with_gpus() -> Executor:
    """`n1`, on which no agent is: 4 cores and 8 GB, of which 1 core and 1 GB are reserve, and two GPUs."""
    gpus = [{"index": index, "uuid": f"GPU-{index}", "model": "Tesla T4", "memory_bytes": 16 * GB} for index in (1, 0)]
    return Executor.objects.create(
        id="n1",
        name="n1",
        cpu_millicores=4000,
        memory_bytes=8 * GB,
        reserve_cpu_millicores=1000,
        reserve_memory_bytes=GB,
        gpus=gpus,
        last_heartbeat_at=timezone.now(),
    )


def place(job: Job, gpus: list[int]) -> None:
    """Give the job an attempt on `n1`."""
    Ledger(timezone.now()).place([Placement(job.id, "n1", gpus)])
