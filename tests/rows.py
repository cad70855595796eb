"""Rows for tests of pages, made straight in the database: no scheduler and no agent runs."""

import datetime
from typing import Any

from django.utils import timezone

from executors.models import Executor
from jobs.lifecycle import FINAL, State
from jobs.models import Attempt, Job
from jobs.submission import parse_submission

GB = 1024**3


def make_executor(name: str = "node-1", **fields: Any) -> Executor:
    defaults = {"cpu_millicores": 8000, "memory_bytes": 16 * GB, "last_heartbeat_at": timezone.now()}
    return Executor.objects.create(id=fields.pop("id", name), name=name, **{**defaults, **fields})


def make_job(state: State = State.PENDING, executor: Executor | None = None, **submitted: Any) -> Job:
    """A job in any state, with the attempt that goes with it where it has an executor."""
    fields = parse_submission({"docker_image": "alpine:latest", **submitted}).job_fields()
    now = timezone.now()
    job = Job.objects.create(submitted_at=now, state=state, **fields)
    if executor is None:
        return job
    ran = state != State.STARTING
    job.executor, job.attempt_number = executor, 1
    job.started_at = now if ran else None
    job.finished_at = now + datetime.timedelta(seconds=3) if state in FINAL else None
    job.save()
    Attempt.objects.create(
        job=job,
        number=1,
        executor=executor,
        executor_name=executor.name,
        state=state,
        placed_at=now,
        started_at=job.started_at,
        finished_at=job.finished_at,
        start_command=1,
        gpu_indices=list(range(job.gpu_count)),
    )
    return job
