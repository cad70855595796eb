"""The leader's whole passes, database and Redis included, while executors and queue grow; for `bench/growth.py`.

Runs inside `manage.py shell`, in a system of its own that nobody else writes to.
"""

import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

import psutil
from django.conf import settings
from django.db.models import F
from django.utils import timezone

from agent.protocol import AttemptFinished, Event, Wake
from bench import mixes
from executors import broker
from executors.models import Executor
from jobs import leadership
from jobs.lifecycle import State
from jobs.models import Attempt, Job
from jobs.scheduler import Scheduler
from jobs.scheduling.placement import PendingJob
from jobs.scheduling.room import ExecutorView

BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds, but for `memory`, which is bytes: what the leader's process grew by. `first` is from taking the lead to
    the end of the first pass, which places; `whole` to where all is read and placed that fits."""

    first: float
    whole: float
    memory: int
    after_submission: float
    after_end: float


def fill(had: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Executors and pending jobs, from the numbers there were to those wanted."""
    add_executors(mixes.executors(wanted[0])[had[0] :])
    add_jobs(mixes.eight_shapes(wanted[1])[had[1] :])
    # What was placed by the last leader has been started since.
    now = timezone.now()
    started = {"state": State.RUNNING, "started_at": now}
    Attempt.objects.filter(state=State.STARTING).update(**started, running_since=now)
    Job.objects.filter(state=State.STARTING).update(**started)
    Executor.objects.update(passed_command=F("last_command"))


def measure(first_newcomer: int, events: int) -> None:
    """Take the lead in a process that did nothing before, then make passes after one event each."""
    settings.JOB_POLL_INTERVAL = 3600  # the audit, which takes a fixed share of the time, is not what is measured
    settings.HEARTBEAT_INTERVAL = 3600  # there are no agents
    process, holder = psutil.Process(), leadership.new_holder()
    before, began = process.memory_info().rss, time.perf_counter()
    term = leadership.acquire(holder)
    if term is None:
        raise RuntimeError("Somebody else leads.")
    leader = Scheduler(holder, term)
    more = leader.run_pass().more
    first = time.perf_counter() - began
    while more:
        more = leader.run_pass().more
    whole, grown = time.perf_counter() - began, process.memory_info().rss - before
    submissions, ends = [], []
    for number in range(first_newcomer, first_newcomer + events):
        newcomer = mixes.job(number, 2000, 4 * mixes.GB)
        add_jobs([newcomer])
        submissions.append(after(leader, Wake(job_ids=[str(newcomer.id)])))
    for job_id, executor_id, number in some_attempts(events):
        said = {"executor_id": executor_id, "job_id": str(job_id), "attempt": number}
        ends.append(after(leader, AttemptFinished(**said, reason="completed", exit_code=0)))  # type: ignore[arg-type]
    leadership.release(holder, term)
    found = Costs(first, whole, grown, statistics.median(submissions), statistics.median(ends))
    print(json.dumps(asdict(found)))


def after(leader: Scheduler, event: Event) -> float:
    broker.send_event(event)
    began = time.perf_counter()
    leader.run_pass()
    return time.perf_counter() - began


def some_attempts(count: int) -> list[tuple[UUID, str, int]]:
    live = list(Attempt.objects.filter(finished_at=None).order_by("id").values_list("job_id", "executor_id", "number"))
    return random.Random(1).sample(live, min(count, len(live)))


def add_executors(views: Sequence[ExecutorView]) -> None:
    rows = []
    for view in views:
        gpus = [
            {"index": gpu.index, "uuid": f"GPU-{gpu.index}", "model": gpu.model, "memory_bytes": 0}
            for gpu in view.capacity.gpus
        ]
        room = {"cpu_millicores": view.capacity.cpu_millicores, "memory_bytes": view.capacity.memory_bytes}
        rows.append(
            Executor(
                id=view.id, name=view.name, gpus=gpus, labels=view.labels, last_heartbeat_at=timezone.now(), **room
            )
        )
    Executor.objects.bulk_create(rows)


def add_jobs(jobs: Sequence[PendingJob]) -> None:
    for start in range(0, len(jobs), BATCH):
        Job.objects.bulk_create([_row(job) for job in jobs[start : start + BATCH]])


def _row(job: PendingJob) -> Job:
    need = job.requirements
    return Job(
        id=job.id,
        image="registry.example/nothing:1",
        submitted_at=timezone.now(),
        shape=job.shape,
        cpu_millicores=need.cpu_millicores,
        memory_bytes=need.memory_bytes,
        gpu_type=need.gpu_type,
        gpu_count=need.gpu_count,
        labels=dict(need.labels),
    )
