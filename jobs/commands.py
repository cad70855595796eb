"""Commands to agents: made from attempts, numbered by the database, sent after the commit.

A command's number is its id in the executor's stream, so Redis refuses a second copy, and sending again is harmless.
"""

from collections.abc import Collection, Mapping, Sequence

import redis
from django.conf import settings
from django.db.models import F, Q

from agent.protocol import FIELD, Command, StartAttempt, StopAttempt, encode
from executors import broker
from jobs.lifecycle import State
from jobs.models import Attempt


def start(attempt: Attempt) -> StartAttempt:
    job = attempt.job
    return StartAttempt(
        seq=attempt.start_command,
        job_id=str(job.id),
        attempt=attempt.number,
        image=job.image,
        command=job.command,
        env=job.env,
        working_dir=job.working_dir,
        cpu_millicores=job.cpu_millicores,
        memory_bytes=job.memory_bytes,
        gpu_indices=attempt.gpu_indices,
        timeout_seconds=job.timeout_seconds,
        job_name=job.name,
    )


def stop(seq: int, job_id: str, number: int, why: str) -> StopAttempt:
    return StopAttempt(seq=seq, job_id=job_id, attempt=number, why=why, grace_seconds=settings.ABORT_GRACE_SECONDS)


def outstanding(executor_ids: Collection[str] | None = None) -> dict[str, list[Command]]:
    """The commands of live attempts that their agents have not passed, by executor; None means all executors."""
    starts = Q(start_command__gt=F("executor__passed_command"), state=State.STARTING)
    stops = Q(stop_command__gt=F("executor__passed_command"))
    attempts = Attempt.objects.filter(starts | stops, finished_at__isnull=True).select_related("job", "executor")
    if executor_ids is not None:
        attempts = attempts.filter(executor_id__in=executor_ids)
    commands: dict[str, list[Command]] = {}
    for attempt in attempts:
        if attempt.executor is None:
            continue
        queue = commands.setdefault(attempt.executor.id, [])
        if attempt.state == State.STARTING and attempt.start_command > attempt.executor.passed_command:
            queue.append(start(attempt))
        if attempt.stop_command is not None and attempt.stop_command > attempt.executor.passed_command:
            queue.append(stop(attempt.stop_command, str(attempt.job_id), attempt.number, attempt.stop_why))
    return commands


def merge(into: dict[str, list[Command]], more: Mapping[str, Sequence[Command]]) -> None:
    """Add those of `more` whose numbers are not in `into` yet."""
    for executor_id, additional in more.items():
        queue = into.setdefault(executor_id, [])
        numbered = {command.seq for command in queue}
        queue += [command for command in additional if command.seq not in numbered]


def send(client: redis.Redis, commands: Mapping[str, Sequence[Command]]) -> None:
    """Put commands into their executors' streams, in the order of their numbers. Raises redis.RedisError."""
    pipeline = client.pipeline(transaction=False)
    for executor_id, queue in commands.items():
        for command in sorted(queue, key=lambda item: item.seq):
            pipeline.xadd(broker.keys().commands(executor_id), {FIELD: encode(command)}, id=f"{command.seq}-0")
    for answer in pipeline.execute(raise_on_error=False):
        already_sent = isinstance(answer, redis.ResponseError) and "equal or smaller" in str(answer)
        if isinstance(answer, Exception) and not already_sent:
            raise answer


def trim(client: redis.Redis, passed: Mapping[str, int]) -> None:
    """Forget the commands up to these numbers, by executor: their agents have passed them, or must never see them."""
    pipeline = client.pipeline(transaction=False)
    for executor_id, seq in passed.items():
        pipeline.xtrim(broker.keys().commands(executor_id), minid=f"{seq + 1}-0", approximate=False)
    pipeline.execute()


def ask_for_hello(client: redis.Redis, executor_ids: Collection[str]) -> None:
    """Have agents introduce themselves that the database does not know, such as after it was set up anew: an agent
    says hello when it finds its samples gone, as they are when Redis was emptied."""
    if executor_ids:
        client.delete(*(broker.keys().samples(executor_id) for executor_id in executor_ids))
