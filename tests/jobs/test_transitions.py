"""`request_abort` and the writing itself; what events lead to is in test_scheduler.py."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from agent.protocol import AttemptFinished, AttemptProgress, AttemptRunning, Layer, Use
from executors.models import Executor
from jobs.lifecycle import EndReason, IllegalTransition
from jobs.models import Attempt, Job
from jobs.scheduling.placement import Placement
from jobs.transitions import Ledger, bounded, clean, end_reason, engine_time, request_abort
from tests.jobs.node import submit

pytestmark = pytest.mark.django_db
NOW = timezone.now()


@pytest.fixture
def executor() -> Executor:
    return Executor.objects.create(
        id="n1", name="n1", cpu_millicores=4000, memory_bytes=2**33, last_heartbeat_at=NOW, last_command=10
    )


def place(*jobs: Job) -> Ledger:
    ledger = Ledger(NOW)
    ledger.place([Placement(job.id, "n1", []) for job in jobs])
    return ledger


def test_a_pending_jobs_abort_is_its_end() -> None:
    job = submit()
    with transaction.atomic():
        request_abort(job, NOW)
    for seen in (job, Job.objects.get()):
        assert (seen.state, seen.reason, seen.finished_at) == ("ABORTED", "aborted_by_user", NOW)


def test_a_placed_jobs_abort_is_noted_once(executor: Executor) -> None:
    job = submit()
    place(job)
    job.refresh_from_db()
    request_abort(job, NOW)
    later = datetime(2030, 1, 1, tzinfo=UTC)
    request_abort(job, later)
    job = Job.objects.get()
    assert (job.state, job.abort_requested_at, job.is_aborting) == ("STARTING", NOW, True)


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "ABORTED"])
def test_a_final_job_cannot_be_aborted(state: str) -> None:
    job = submit(state=state)
    with pytest.raises(IllegalTransition):
        request_abort(job, NOW)
    assert Job.objects.get().abort_requested_at is None


def test_placing_numbers_the_commands_on_from_the_executors_last(executor: Executor) -> None:
    jobs = [submit(), submit()]
    ledger = place(*jobs)
    assert list(Attempt.objects.order_by("start_command").values_list("job_id", "start_command", "number")) == [
        (jobs[0].id, 11, 1),
        (jobs[1].id, 12, 1),
    ]
    assert Executor.objects.get().last_command == 12
    assert [command.seq for command in ledger.outcome.commands["n1"]] == [11, 12]
    assert ledger.outcome.changed_jobs == {job.id for job in jobs}


def test_a_job_that_is_no_longer_pending_is_not_placed(executor: Executor) -> None:
    job = submit()
    place(job)
    assert not place(job).outcome.commands
    assert Attempt.objects.count() == 1


def test_a_job_is_not_placed_on_an_executor_that_was_forgotten() -> None:
    job = submit()
    place(job)
    assert Job.objects.get().state == "PENDING"


def test_an_attempt_that_ended_is_not_found_again(executor: Executor) -> None:
    job = submit()
    place(job)
    ledger = Ledger(NOW)
    with transaction.atomic():
        [attempt] = ledger.load(Q(job_id=job.id))
        ledger.close(attempt, EndReason.EXECUTOR_LOST)
        assert ledger.find(job.id, 1, "n1") is None
        assert ledger.load(Q(job_id=job.id)) == []
    assert Job.objects.get().state == "PENDING"


def test_what_the_agent_tells_of_start_settings_and_use_is_kept(executor: Executor) -> None:
    job = submit()
    place(job)
    names = {"executor_id": "n1", "job_id": str(job.id), "attempt": 1}
    layers = [Layer("a1\0", "downloading", 5, 9), Layer("b2", "waiting")]
    start = {"accepted_at": "2026-11-24T13:00:00Z", "pulled_at": "2026-11-24T13:00:05.5Z"}
    created = {**start, "created_at": "2026-11-24T13:00:06Z"}

    def apply(what: str, event: AttemptProgress | AttemptRunning | AttemptFinished) -> Attempt:
        ledger = Ledger(NOW)
        with transaction.atomic():
            [attempt] = ledger.load(Q(job_id=job.id))
            getattr(ledger, what)(attempt, event)
            ledger.write()
        return Attempt.objects.get()

    attempt = apply("progress", AttemptProgress(**names, detail="pulling", layers=layers, accepted_at=None))
    assert [(layer["id"], layer["current"]) for layer in attempt.layers] == [("a1", 5), ("b2", 0)]
    assert (attempt.accepted_at, attempt.use) == (None, None)
    settings = {"Image": "sha256:1", "HostConfig": {"CapAdd": ["CHOWN\0"], "Memory": 1}}
    running = AttemptRunning(**names, container_id="c", started_at="2026-11-24T13:00:07Z", **created, settings=settings)
    attempt = apply("running", running)
    assert (attempt.layers, attempt.container_settings.applied["HostConfig"]["CapAdd"]) == ([], ["CHOWN"])
    assert attempt.created_at - attempt.accepted_at == timedelta(seconds=6)
    attempt = apply("finish", AttemptFinished(**names, reason="completed", exit_code=0, use=Use(3, memory_bytes=2**40)))
    assert (attempt.use["samples"], attempt.use["memory_bytes"]) == (3, 2**40)
    assert attempt.pulled_at == datetime(2026, 11, 24, 13, 0, 5, 500000, tzinfo=UTC)


def test_settings_that_are_too_many_are_not_kept_and_said_to_be() -> None:
    assert bounded({"a": "x" * 20_000}) == {"": "20009 characters of settings are too many to be kept"}


@pytest.mark.parametrize(
    ("reason", "exit_code", "expected"),
    [
        ("oom_killed", 137, EndReason.OOM_KILLED),
        ("new_word", 0, EndReason.COMPLETED),
        ("new_word", 2, EndReason.EXIT_NONZERO),
        ("new_word", None, EndReason.ENGINE_ERROR),
    ],
)
def test_reasons_are_read_from_words_old_and_new(reason: str, exit_code: int | None, expected: EndReason) -> None:
    event = AttemptFinished(executor_id="n1", job_id="j", attempt=1, reason=reason, exit_code=exit_code)
    assert end_reason(event) is expected


def test_the_engines_times_are_read_to_the_microsecond() -> None:
    assert engine_time("2026-11-24T13:00:00.123456789Z") == datetime(2026, 11, 24, 13, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-13-45T00:00:00Z", "0001-01-01T00:00:00Z", "2026-11-24"])
def test_what_is_no_time_or_the_engines_never_is_none(text: str | None) -> None:
    assert engine_time(text) is None


def test_text_is_cut_and_made_storable() -> None:
    assert clean("a\0bcd", 3) == "abc"
