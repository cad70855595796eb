"""What checkinvariants finds: by plain values, and over a real database and Redis."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django import Settings

from agent.protocol import Keys
from executors.models import Executor
from jobs.invariants import (
    AttemptFacts,
    ExecutorFacts,
    Greeting,
    JobFacts,
    LogFacts,
    check_executor,
    check_held,
    check_job,
    check_log,
)
from jobs.lifecycle import State
from jobs.models import Attempt, Job
from jobs.reconcile import Token
from tests.rows import make_executor, make_job

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
RUNNING = AttemptFacts(1, "RUNNING", "n1", start_command=1, gpu_indices=(0,))
DONE = AttemptFacts(1, "SUCCEEDED", "n1", start_command=1, exit_code=0)
PENDING_JOB = JobFacts("j", "PENDING", 0)
RUNNING_JOB = JobFacts("j", "RUNNING", 1, (RUNNING,), cpu_millicores=1000, memory_bytes=100)
DONE_JOB = JobFacts("j", "SUCCEEDED", 1, (DONE,), exit_code=0, reason="completed", finished_at=NOW)
NODE = ExecutorFacts("n1", False, 2000, 200, gpu_indices=(0,), last_command=1)


def numbers(found: Any) -> list[int]:
    return sorted(violation.invariant for violation in found)


@pytest.mark.parametrize("job", [PENDING_JOB, RUNNING_JOB, DONE_JOB])
def test_nothing_is_found_in_sound_jobs(job: JobFacts) -> None:
    assert numbers(check_job(job, NOW, 10)) == []


@pytest.mark.parametrize(
    ("job", "broken"),
    [
        (replace(RUNNING_JOB, attempts=(replace(RUNNING, state="FAILED"),)), [1]),
        (replace(RUNNING_JOB, state="PENDING"), [1]),
        (replace(RUNNING_JOB, attempt_number=2), [2, 2]),
        (replace(RUNNING_JOB, attempts=(RUNNING, RUNNING)), [2, 2]),
        (replace(DONE_JOB, attempts=(RUNNING,)), [4]),
        (replace(DONE_JOB, exit_code=1), [4, 4]),
        (replace(DONE_JOB, state="FAILED", reason="exit_nonzero"), [4]),
        (replace(DONE_JOB, finished_at=None), [4]),
        (replace(RUNNING_JOB, abort_requested_at=NOW - timedelta(seconds=41)), [6]),
        (replace(RUNNING_JOB, abort_requested_at=NOW - timedelta(seconds=39)), []),
    ],
)
def test_each_disagreement_of_a_job_bears_its_number(job: JobFacts, broken: list[int]) -> None:
    assert numbers(check_job(job, NOW, 10)) == broken


@pytest.mark.parametrize(
    ("executor", "jobs", "broken"),
    [
        (NODE, [RUNNING_JOB], []),
        (replace(NODE, cpu_millicores=999), [RUNNING_JOB], [3]),
        (replace(NODE, memory_bytes=99), [RUNNING_JOB], [3]),
        (replace(NODE, gpu_indices=()), [RUNNING_JOB], [3]),
        (NODE, [RUNNING_JOB, RUNNING_JOB], [3, 8]),
        (replace(NODE, lost=True), [RUNNING_JOB], [1]),
        (replace(NODE, last_command=0), [RUNNING_JOB], [8]),
    ],
)
def test_each_disagreement_of_an_executor_bears_its_number(
    executor: ExecutorFacts, jobs: list[JobFacts], broken: list[int]
) -> None:
    assert numbers(check_executor(executor, jobs)) == broken


def test_what_agents_hold_is_compared_with_what_the_database_counts() -> None:
    live = {"n1": [RUNNING_JOB]}
    held = frozenset({Token("j", 1)})
    assert numbers(check_held({"n1": Greeting(held, 1)}, live)) == []
    assert numbers(check_held({"n1": Greeting(frozenset(), 0)}, live)) == []  # its start is on its way
    assert numbers(check_held({"n1": Greeting(frozenset(), 1)}, live)) == [1]
    assert numbers(check_held({"n1": Greeting(held, 1), "n2": Greeting(held, 1)}, live)) == [2, 2]


def test_a_log_has_as_many_lines_as_it_says_and_goes_some_time_after_its_job() -> None:
    log = LogFacts("j", lines=10, dropped=4, kept=6, complete=True, expires=True)
    late = NOW + timedelta(minutes=1)
    assert numbers(check_log(log, DONE_JOB, [], late)) == []
    assert numbers(check_log(replace(log, kept=5), DONE_JOB, [], late)) == [5]
    assert numbers(check_log(replace(log, expires=False), DONE_JOB, [], late)) == [9]
    assert numbers(check_log(replace(log, expires=False), DONE_JOB, [], NOW)) == []
    assert numbers(check_log(replace(log, expires=False), RUNNING_JOB, [], late)) == []
    assert numbers(check_log(replace(log, expires=False), None, [], late)) == [9]


# --- The command -------------------------------------------------------------------------------------------------


def check(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("checkinvariants", "--wait", "0", *arguments, stdout=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


@pytest.fixture
def rows(db: None, redis_client: redis.Redis) -> Job:
    node = make_executor(last_command=1)
    make_job()
    make_job(State.SUCCEEDED, node)
    Job.objects.filter(state="SUCCEEDED").update(reason="completed", exit_code=0)
    Attempt.objects.update(exit_code=0)
    return make_job(State.RUNNING, node)


def test_all_is_well_where_all_agrees(rows: Job) -> None:
    assert check() == (0, "3 jobs, 0 logs in Redis, 0 agents: everything agrees\n")


def test_an_over_committed_executor_is_found_and_named(rows: Job) -> None:
    Executor.objects.update(cpu_millicores=500)
    status, text = check()
    assert status == 1
    assert "3  node-1  Its live attempts ask for 1000 millicores of 500." in text


def test_keys_that_nobody_needs_and_torn_logs_are_found(rows: Job, redis_client: redis.Redis) -> None:
    keys = Keys()
    redis_client.set("executor:gone:samples", "x")
    redis_client.set("reply:somebody", "x", ex=60)
    redis_client.rpush(keys.job_logs(str(rows.id)), "one", "two")
    redis_client.hset(keys.job_logs_meta(str(rows.id)), mapping={"lines": 3, "dropped": 0})
    status, text = check("--json")
    assert status == 1
    found = [(item["invariant"], item["subject"]) for item in json.loads(text)["violations"]]
    assert sorted(found) == [(5, str(rows.id)), (9, "executor:gone:samples")]


def test_without_redis_it_says_what_could_not_be_read(rows: Job, settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    with pytest.raises(CommandError, match="Not everything could be read") as raised:
        check()
    assert raised.value.returncode == 2
