"""A made-up cluster in the database: executors, and jobs of the last days, as many as asked for.

Everything made here belongs to the user `demo`, bears the label demo=yes and is on executors whose ids begin with
`demo-`, so that no real job meets it and `clear` finds all of it. `jobs/demo_agents.py` brings it to life.
"""

import math
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from itertools import islice

import redis
from django.contrib.auth.models import User
from django.db import connection, transaction

from agent import __version__
from executors import broker
from executors.history import GB, KEPT_POINTS, RECORD_SECONDS, Point, record
from executors.models import Executor, ExecutorEvent
from executors.writes import insert_rows
from jobs.lifecycle import EndReason, State, describe
from jobs.models import FINAL_STATES, Attempt, Job
from jobs.observing import Tally, measure
from jobs.submission import parse_submission

OWNER = "demo"
PREFIX = "demo-"
LABEL = {"demo": "yes"}
BATCH = 5000
SEED = 7


@dataclass(frozen=True, slots=True)
class NodeKind:
    name: str
    cores: int
    memory_gb: int
    gpu_model: str = ""
    gpu_count: int = 0
    gpu_gb: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of job: what it asks for, how long it takes (median, in seconds), how often it fails and how."""

    name: str
    image: str
    command: list[str]
    cores: float
    memory_gb: float
    seconds: float
    weight: float
    fails: float = 0.01
    reason: EndReason = EndReason.EXIT_NONZERO
    gpu_type: str | None = None
    gpus: int = 0


NODES = [
    NodeKind("cpu", 32, 128),
    NodeKind("cpu", 64, 256),
    NodeKind("big", 96, 768),
    NodeKind("l4", 24, 96, "NVIDIA L4", 2, 24),
    NodeKind("a100", 48, 384, "NVIDIA A100-SXM4-80GB", 4, 80),
    NodeKind("h100", 96, 1024, "NVIDIA H100 80GB HBM3", 8, 80),
]
NODE_WEIGHTS = [40, 25, 10, 12, 9, 4]

WORKS = [
    Work("etl-orders", "registry.demo/etl:2.14", ["python", "-m", "etl", "orders"], 2, 4, 90, 20),
    Work("etl-events", "registry.demo/etl:2.14", ["python", "-m", "etl", "events"], 4, 12, 240, 10, 0.03),
    Work("transcode", "registry.demo/ffmpeg:7.1", ["ffmpeg", "-i", "in.mkv", "out.mp4"], 8, 6, 180, 15),
    Work("unit-tests", "registry.demo/ci:2026.11", ["script/test"], 4, 8, 120, 25, 0.12),
    Work("report-daily", "registry.demo/report:1.3", ["report", "--day", "yesterday"], 1, 2, 45, 10),
    Work("backup", "registry.demo/restic:0.18", ["restic", "backup", "/data"], 1, 1, 300, 6),
    Work("simulate", "registry.demo/sim:5.0", ["sim", "--steps", "100000"], 16, 32, 900, 5, 0.05, EndReason.OOM_KILLED),
    Work("scrape-prices", "registry.demo/scrape:0.9", ["scrape"], 0.5, 1, 30, 8, 0.2, EndReason.TIMEOUT),
    Work(
        "train-small", "registry.demo/train:3.2", ["train", "small.yaml"], 4, 32, 1200, 6, 0.04, gpu_type="any", gpus=1
    ),
    Work(
        "train-large",
        "registry.demo/train:3.2",
        ["train", "large.yaml"],
        16,
        160,
        2400,
        2,
        0.08,
        gpu_type="A100",
        gpus=4,
    ),
    Work("embed", "registry.demo/embed:1.0", ["embed", "--batch", "512"], 2, 16, 400, 5, 0.02, gpu_type="L4", gpus=1),
    Work("nightly-migration", "registry.demo/migrate:0.4", ["migrate", "--all"], 1, 2, 12, 0.6, 1.0),
]
IMPOSSIBLE = Work(
    "train-giant", "registry.demo/train:3.2", ["train", "giant.yaml"], 64, 900, 1, 1, gpu_type="H100", gpus=16
)


def submission_of(work: Work) -> dict[str, object]:
    """As the API takes it."""
    return {
        "name": work.name,
        "docker_image": work.image,
        "command": work.command,
        "cpu_cores": work.cores,
        "memory_gb": work.memory_gb,
        "gpu_type": work.gpu_type,
        "gpu_count": work.gpus or None,
        "labels": LABEL,
    }


def owner() -> User:
    user, created = User.objects.get_or_create(username=OWNER, defaults={"is_active": False})
    if created:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    return user


def duration(rng: random.Random, work: Work) -> float:
    """Of one run, in seconds: mostly about the median, now and then much longer."""
    return max(0.2, min(6 * work.seconds, rng.lognormvariate(math.log(work.seconds), 0.6)))


# --- Making it ---------------------------------------------------------------------------------------------------


def make_executors(count: int, now: datetime) -> list[Executor]:
    rng = random.Random(SEED)  # noqa: S311
    executors = [_executor(rng, number, now) for number in range(1, count + 1)]
    Executor.objects.bulk_create(executors, batch_size=500)
    ExecutorEvent.objects.bulk_create(
        [ExecutorEvent(executor=executor, kind="joined", at=now, text="Made by seeddemo.") for executor in executors],
        batch_size=500,
    )
    return executors


def _executor(rng: random.Random, number: int, now: datetime) -> Executor:
    kind = rng.choices(NODES, NODE_WEIGHTS)[0]
    executor_id = f"{PREFIX}{number:04}"
    gpus = [
        {"index": i, "uuid": f"GPU-{executor_id}-{i}", "model": kind.gpu_model, "memory_bytes": kind.gpu_gb * GB}
        for i in range(kind.gpu_count)
    ]
    return Executor(
        id=executor_id,
        name=f"{PREFIX}{kind.name}-{number:04}",
        address=f"10.{number >> 8}.{number & 255}.10",
        cpu_millicores=kind.cores * 1000,
        memory_bytes=kind.memory_gb * GB,
        reserve_cpu_millicores=500,
        reserve_memory_bytes=2 * GB,
        gpus=gpus,
        labels={**LABEL, "zone": rng.choice(["north", "south", "east"])},
        docker_version="28.5.2",
        agent_version=__version__,
        last_heartbeat_at=now,
    )


def make_jobs(count: int, days: float, executors: list[Executor], now: datetime, made: int = 0) -> Iterator[int]:
    """Ended jobs over the last `days`, then, in one transaction, such as run now on these executors and some that wait;
    yields how many there are as they come. `made` of those that ended are there from an earlier call."""
    rng = random.Random(SEED)  # noqa: S311
    user = owner()
    fields = {work.name: parse_submission(submission_of(work)).job_fields() for work in [*WORKS, IMPOSSIBLE]}
    most_each = min(40, count // 4 // max(1, len(executors)) + 1)
    running = list(islice(_running(rng, fields, user, executors, now, most_each), count // 4))
    waiting = [_waiting(rng, fields, user, now, number) for number in range(min(40, count // 100))]
    ended = max(0, count - len(running) - len(waiting))
    if made:
        rng.seed(SEED + made)  # not the same jobs again
    rows = _ended(rng, fields, user, executors, now, range(made, ended), days)
    while batch := list(islice(rows, BATCH)):
        yield (made := made + _save(batch))
    yield made + _save(sorted([*running, *((job, None) for job in waiting)], key=lambda row: row[0].id))


def unfinished() -> int | None:
    """How many jobs a call of `make_jobs` made that did not come to its end; None where none began, or it did."""
    jobs = Job.objects.filter(owner__username=OWNER).order_by()
    return None if jobs.exclude(state__in=FINAL_STATES).exists() else jobs.count()


Row = tuple[Job, Attempt | None]
Fields = dict[str, dict[str, object]]


def _save(rows: list[Row]) -> int:
    with transaction.atomic():
        insert_rows([job for job, _ in rows])
        insert_rows([attempt for _, attempt in rows if attempt is not None])
    return len(rows)


def _ended(
    rng: random.Random,
    fields: Fields,
    user: User,
    executors: list[Executor],
    now: datetime,
    numbers: range,
    days: float,
) -> Iterator[Row]:
    weights = [work.weight for work in WORKS]
    span, count = days * 86400, numbers.stop
    for number, work in zip(numbers, rng.choices(WORKS, weights, k=len(numbers)), strict=True):
        ran = duration(rng, work)
        wait = rng.expovariate(1 / 3)
        # Evenly, and in their order; the last ones end before now.
        submitted = now - timedelta(seconds=max(span * (1 - number / count), ran + wait + 1))
        started = submitted + timedelta(seconds=wait)
        state, reason, exit_code = _end(rng, work)
        job = _job(rng, fields[work.name], user, submitted, state)
        job.started_at, job.finished_at = started, started + timedelta(seconds=ran)
        job.reason, job.reason_text, job.exit_code = reason.value, describe(reason, exit_code), exit_code
        yield job, _attempt(job, rng.choice(executors) if executors else None, state, submitted)


def _end(rng: random.Random, work: Work) -> tuple[State, EndReason, int | None]:
    if rng.random() < 0.01:
        return State.ABORTED, EndReason.ABORTED_BY_USER, 143
    if rng.random() >= work.fails:
        return State.SUCCEEDED, EndReason.COMPLETED, 0
    return State.FAILED, work.reason, {EndReason.OOM_KILLED: 137, EndReason.TIMEOUT: 143}.get(work.reason, 1)


def _running(
    rng: random.Random, fields: Fields, user: User, executors: list[Executor], now: datetime, most_each: int
) -> Iterator[Row]:
    """Jobs that run now and fit on their executors, each filled to some part."""
    for executor in executors:
        part = rng.uniform(0.15, 0.95)
        cpu, memory = executor.allocatable_cpu_millicores * part, executor.allocatable_memory_bytes * part
        devices = [gpu["index"] for gpu in executor.gpus]
        for work in rng.choices(WORKS[:-1], [work.weight for work in WORKS[:-1]], k=most_each):
            wrong_model = work.gpu_type not in (None, "any") and work.gpu_type not in str(executor.gpus)
            asked = fields[work.name]
            if wrong_model or work.gpus > len(devices) or _int(asked, "cpu_millicores") > cpu:
                continue
            if _int(asked, "memory_bytes") > memory:
                continue
            cpu, memory = cpu - _int(asked, "cpu_millicores"), memory - _int(asked, "memory_bytes")
            submitted = now - timedelta(seconds=rng.uniform(1, work.seconds))
            job = _job(rng, asked, user, submitted, State.RUNNING)
            job.started_at = submitted + timedelta(seconds=0.5)
            attempt = _attempt(job, executor, State.RUNNING, submitted)
            attempt.gpu_indices, devices = devices[: work.gpus], devices[work.gpus :]
            yield job, attempt


def _waiting(rng: random.Random, fields: Fields, user: User, now: datetime, number: int) -> Job:
    work = IMPOSSIBLE if number % 20 == 0 else rng.choice(WORKS)
    return _job(rng, fields[work.name], user, now - timedelta(seconds=rng.uniform(1, 900)), State.PENDING)


def _int(fields: dict[str, object], name: str) -> int:
    return int(str(fields[name]))


def _job(rng: random.Random, fields: dict[str, object], user: User, submitted: datetime, state: State) -> Job:
    milliseconds = int(submitted.timestamp() * 1000)
    # A UUID of version 7, as `jobs.models.new_job_id` makes them, of that moment.
    job_id = uuid.UUID(int=milliseconds << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62))
    return Job(id=job_id, owner=user, submitted_at=submitted, state=state.value, **fields)


def _attempt(job: Job, executor: Executor | None, state: State, placed: datetime) -> Attempt:
    job.attempt_number, job.executor = 1, executor
    return Attempt(
        job=job,
        number=1,
        executor=executor,
        executor_name=executor.name if executor else "",
        state=state.value,
        reason=job.reason,
        reason_text=job.reason_text,
        exit_code=job.exit_code,
        oom_killed=job.reason == EndReason.OOM_KILLED,
        container_id=job.id.hex + job.id.hex,
        placed_at=placed,
        started_at=job.started_at,
        finished_at=job.finished_at,
        start_command=0,
    )


def make_history(client: redis.Redis) -> None:
    """A day of the cluster in numbers, up to what it is now; nothing where some was recorded already."""
    if client.exists(broker.keys().history):
        return
    rng = random.Random(SEED)  # noqa: S311
    until = int(time.time()) // RECORD_SECONDS * RECORD_SECONDS
    now = measure(until, Tally())
    pipeline = client.pipeline(transaction=False)
    for number in range(KEPT_POINTS, 0, -1):
        record(pipeline, _past(rng, now, until - number * RECORD_SECONDS))
    pipeline.execute()


def _past(rng: random.Random, now: Point, t: int) -> Point:
    tide = 0.7 + 0.3 * math.sin((t % 86400) / 86400 * 2 * math.pi) + rng.uniform(-0.02, 0.02)
    values = dict(zip(Point.__slots__, astuple(now), strict=True))
    for name in ("cpu", "memory", "gpu"):
        allocated = min(values[f"{name}_capacity"], values[f"{name}_allocated"] * tide)
        values[f"{name}_allocated"] = round(allocated, 3)
        values[f"{name}_used"] = round(allocated * rng.uniform(0.6, 0.75), 3)
    values |= {"t": t, "running": round(now.running * tide), "pending": round(30 * tide * rng.random())}
    values |= {"wait_p50": round(rng.expovariate(2), 2), "wait_p95": round(2 + 6 * tide * rng.random(), 2)}
    values |= {"succeeded": round(now.running * tide / 20), "failed": round(rng.random() * now.running / 150)}
    return Point(**values)


# --- Removing it -------------------------------------------------------------------------------------------------


def clear(client: redis.Redis) -> tuple[int, int]:
    """Remove every demo job and executor, what hangs on them, and the history; returns how many of each there were."""
    user = User.objects.filter(username=OWNER).first()
    jobs = Job.objects.filter(owner=user).count() if user else 0
    if user:
        with transaction.atomic(), connection.cursor() as cursor:
            table = Job._meta.db_table
            for relation in Job._meta.related_objects:
                other, column = relation.related_model._meta.db_table, relation.field.column
                # Every name is a model's own.
                mine = f"SELECT id FROM {table} WHERE owner_id = %s"  # noqa: S608
                if other == table:
                    cursor.execute(f"UPDATE {table} SET {column} = NULL WHERE {column} IN ({mine})", [user.pk])  # noqa: S608
                else:
                    cursor.execute(f"DELETE FROM {other} WHERE {column} IN ({mine})", [user.pk])  # noqa: S608
            cursor.execute(f"DELETE FROM {table} WHERE owner_id = %s", [user.pk])  # noqa: S608
        user.delete()
    ids = list(Executor.objects.filter(id__startswith=PREFIX).values_list("id", flat=True))
    Executor.objects.filter(id__startswith=PREFIX).delete()
    keys = broker.keys()
    pipeline = client.pipeline(transaction=False)
    for executor_id in ids:
        pipeline.delete(keys.commands(executor_id), keys.samples(executor_id), keys.images(executor_id))
    if ids:
        pipeline.delete(keys.history)
    pipeline.execute()
    return jobs, len(ids)


def in_the_way() -> str:
    """Why no demo may be made here, or ''."""
    real = Executor.objects.exclude(id__startswith=PREFIX).exclude(state=Executor.State.LOST).first()
    if real is None:
        return ""
    return (
        f"The executor {real.name} is real, and a demo does not belong beside it. Use a database and a "
        "Redis of its own (VAR_DIR or DATABASE_URL, and REDIS_URL), or stop its agent and forget it."
    )
