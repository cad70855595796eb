"""Compares database, Redis and what the agents hold, and prints what does not agree."""

import dataclasses
import json
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import redis
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseFailure
from django.utils import timezone

from agent.protocol import FIELD, Heartbeat, Hello, MalformedMessage, UnknownMessage, decode
from executors import broker
from executors.models import Executor
from jobs import invariants
from jobs.invariants import AttemptFacts, ExecutorFacts, Greeting, JobFacts, LogFacts, Violation
from jobs.models import Job
from jobs.reconcile import Token

CHUNK = 1000

HELP = """\
Compare the database, Redis and what the agents hold, and print what does not agree.

Each line begins with the number of the broken invariant (docs/architecture.md lists them). What is on its way is not
reported: a disagreement counts only if it is still there at a second look, after every agent was heard again.

Nothing is changed. It may run beside everything else, as often as you like. Agents are heard by their heartbeats, so it
takes one HEARTBEAT_INTERVAL, or two where something does not agree at the first look; --wait 0 leaves them out.

Exit status: 0 if all agrees, 1 if anything does not, 2 if the database or Redis cannot be read.
"""


@dataclass(slots=True)
class Look:
    """What was compared, and what does not agree."""

    jobs: int = 0
    logs: int = 0
    heard: list[str] = field(default_factory=list)
    not_heard: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)


class Command(BaseCommand):
    help = HELP
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
        parser.add_argument(
            "--wait",
            type=float,
            default=2 * settings.HEARTBEAT_INTERVAL,
            metavar="SECONDS",
            help="longest wait for the agents' heartbeats (default: two of them, %(default)g s)",
        )

    def handle(self, *args: Any, wait: float, **options: Any) -> None:
        try:
            look = look_at_all(wait)
            if look.violations:
                first = set(look.violations)
                look = look_at_all(wait)
                look.violations = [violation for violation in look.violations if violation in first]
        except (DatabaseFailure, redis.RedisError) as error:
            raise CommandError(f"Not everything could be read: {error}", returncode=2) from error
        self.stdout.write(as_json(look) if options["json"] else as_text(look))
        if look.violations:
            raise SystemExit(1)


def as_json(look: Look) -> str:
    return json.dumps(dataclasses.asdict(look), indent=2)


def as_text(look: Look) -> str:
    lines = [f"{item.invariant}  {item.subject}  {item.sentence}" for item in sorted(look.violations)]
    lines += [f"not heard within the wait, so not compared: executor {name}" for name in look.not_heard]
    found = f"{len(look.violations)} things do not agree" if look.violations else "everything agrees"
    compared = f"{look.jobs} jobs, {look.logs} logs in Redis, {len(look.heard)} agents"
    return "\n".join([*lines, f"{compared}: {found}"])


# --- Looking -----------------------------------------------------------------------------------------------------


def look_at_all(wait: float) -> Look:
    """One look at everything. Raises a database error or redis.RedisError."""
    executors = list(Executor.objects.all())
    present = {executor.id for executor in executors if executor.state != Executor.State.LOST}
    greetings = listen(present, wait) if wait > 0 else {}
    look = Look(heard=sorted(greetings), not_heard=sorted(present - greetings.keys()) if wait > 0 else [])
    now = timezone.now()
    live: dict[str, list[JobFacts]] = defaultdict(list)
    for job in all_jobs():
        look.jobs += 1
        look.violations += invariants.check_job(job, now, settings.ABORT_GRACE_SECONDS)
        if (attempt := job.live_attempt) and attempt.executor_id:
            live[attempt.executor_id].append(job)
    for executor in Executor.objects.all():
        look.violations += invariants.check_executor(executor_facts(executor), live[executor.id])
    look.violations += invariants.check_held(greetings, live)
    look_at_redis(look, {token for greeting in greetings.values() for token in greeting.held})
    return look


def all_jobs() -> Iterator[JobFacts]:
    for job in Job.objects.prefetch_related("attempts").order_by("id").iterator(chunk_size=CHUNK):
        yield job_facts(job)


def job_facts(job: Job) -> JobFacts:
    return JobFacts(
        id=str(job.id),
        state=job.state,
        attempt_number=job.attempt_number,
        attempts=tuple(
            AttemptFacts(
                number=attempt.number,
                state=attempt.state,
                executor_id=attempt.executor_id,
                start_command=attempt.start_command,
                stop_command=attempt.stop_command,
                gpu_indices=tuple(attempt.gpu_indices),
                exit_code=attempt.exit_code,
            )
            for attempt in job.attempts.all()
        ),
        cpu_millicores=job.cpu_millicores,
        memory_bytes=job.memory_bytes,
        exit_code=job.exit_code,
        reason=job.reason,
        finished_at=job.finished_at,
        abort_requested_at=job.abort_requested_at,
    )


def executor_facts(executor: Executor) -> ExecutorFacts:
    return ExecutorFacts(
        id=executor.id,
        lost=executor.state == Executor.State.LOST,
        cpu_millicores=executor.allocatable_cpu_millicores,
        memory_bytes=executor.allocatable_memory_bytes,
        gpu_indices=tuple(gpu["index"] for gpu in executor.gpus),
        last_command=executor.last_command,
    )


def listen(executor_ids: set[str], wait: float) -> dict[str, Greeting]:
    """The next heartbeat of each agent, read beside the scheduler, which does not notice."""
    client, stream, after = broker.client(), broker.keys().events, b"$"
    heard: dict[str, Greeting] = {}
    deadline = time.monotonic() + wait
    while executor_ids - heard.keys() and (left := deadline - time.monotonic()) > 0:
        answer: Any = client.xread({stream: after}, count=CHUNK, block=max(1, int(min(left, 2) * 1000)))
        for entry_id, fields in (entry for _, entries in answer or () for entry in entries):
            after = entry_id
            try:
                event = decode(fields.get(FIELD, b""))
            except (MalformedMessage, UnknownMessage):
                continue
            if isinstance(event, Hello | Heartbeat):
                held = frozenset(Token(item.job_id, item.attempt) for item in event.held)
                heard[event.executor_id] = Greeting(held, event.last_command)
    return heard


# --- Redis -------------------------------------------------------------------------------------------------------


def look_at_redis(look: Look, held: set[Token]) -> None:
    """The logs against their jobs, and whether any other key is nobody's."""
    client, keys = broker.client(), broker.keys()
    known = {keys.events, keys.history, keys.logs_to_archive, keys.archive_doubts, keys.archive_trouble}
    for executor_id in Executor.objects.values_list("id", flat=True):
        known |= {keys.commands(executor_id), keys.samples(executor_id), keys.images(executor_id)}
    logs_begin, metas_begin = keys.job_logs(""), keys.job_logs_meta("")
    job_ids: set[str] = set()
    others: list[str] = []
    for key in client.scan_iter(match=f"{keys.prefix}*", count=CHUNK):
        name = key.decode(errors="replace")
        if name.startswith((logs_begin, metas_begin)):
            job_ids.add(name.removeprefix(metas_begin).removeprefix(logs_begin))
        else:
            others.append(name)
    everything = sorted(job_ids)
    for begin in range(0, len(everything), CHUNK):
        look_at_logs(look, client, everything[begin : begin + CHUNK], held)
    lasting = [name for name in others if client.ttl(name) == -1]
    look.violations += invariants.check_keys(lasting, known)


def look_at_logs(look: Look, client: redis.Redis, job_ids: list[str], held: set[Token]) -> None:
    jobs = {str(job.id): job_facts(job) for job in Job.objects.filter(id__in=filter(None, map(_uuid, job_ids)))}
    for log in read_logs(client, job_ids):
        look.logs += 1
        look.violations += invariants.check_log(log, jobs.get(log.job_id), held, timezone.now())


def read_logs(client: redis.Redis, job_ids: list[str]) -> list[LogFacts]:
    keys, pipeline = broker.keys(), client.pipeline(transaction=True)
    for job_id in job_ids:
        log, meta = keys.job_logs(job_id), keys.job_logs_meta(job_id)
        pipeline.hmget(meta, "lines", "dropped", "complete")
        pipeline.llen(log)
        pipeline.ttl(log)
        pipeline.ttl(meta)
    answers = iter(pipeline.execute())
    facts = []
    for job_id in job_ids:
        (lines, dropped, complete), kept, *limits = (next(answers) for _ in range(4))
        expires = -1 not in limits
        facts.append(LogFacts(job_id, int(lines or 0), int(dropped or 0), kept, complete == b"1", expires))
    return facts


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
