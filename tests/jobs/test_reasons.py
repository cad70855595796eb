"""Why a job waits, and where it fits, as pages and API are told."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from executors import lately
from executors.models import Executor
from jobs import leadership, reasons
from jobs.models import Attempt
from jobs.reasons import never_fits, why_waiting
from tests.jobs.node import GB, make_executor_with_gpus, place, submit

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def executor() -> Executor:
    return make_executor_with_gpus()


def test_a_job_waits_for_the_scheduler_when_none_runs() -> None:
    assert why_waiting(submit()) == "No scheduler is running; jobs are placed as soon as one is."


def test_a_job_is_told_what_is_in_its_way() -> None:
    leadership.acquire("a")
    place(submit(cpu_millicores=3000, timeout_seconds=60), [])
    Attempt.objects.update(state="RUNNING", running_since=timezone.now())
    text = why_waiting(submit(cpu_millicores=2000))
    assert text.startswith("It needs 2 cores; 1 executor has that, but it is busy; the first is free at the latest at ")


def test_a_job_that_waits_for_its_time_says_until_when_and_why() -> None:
    leadership.acquire("a")
    due = timezone.now() + timedelta(minutes=5)
    text = why_waiting(submit(not_before=due, reason_text="The image could not be pulled."))
    assert text == f"It is tried again at {due:%H:%M:%S} UTC. The last attempt: The image could not be pulled."


def test_only_pending_jobs_wait() -> None:
    assert why_waiting(submit(state="RUNNING")) == ""


def test_the_reserve_is_not_offered() -> None:
    assert never_fits(submit(cpu_millicores=3000)) == ""
    assert never_fits(submit(cpu_millicores=3500)) == "It needs 3.5 cores; the largest executor offers 3 cores."


# --- Looks that may be a moment old ------------------------------------------------------------------------------


def test_a_large_cluster_is_looked_at_once_for_all_who_ask(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    leadership.acquire("a")
    monkeypatch.setattr(reasons, "FEW_EXECUTORS", 0)
    job = submit(cpu_millicores=3500)
    with django_assert_num_queries(4):
        first = never_fits(job), why_waiting(job)
    with django_assert_num_queries(1):  # whether a scheduler runs
        assert (never_fits(job), why_waiting(job)) == first
    lately.forget_all()
    Executor.objects.update(reserve_cpu_millicores=0)
    assert never_fits(job) == ""


def test_executors_that_are_alike_are_told_apart_by_what_jobs_may_ask_for(executor: Executor) -> None:
    labelled = {"labels": {"zone": "a"}, "gpus": []}
    for number, more in enumerate([{}, labelled, {"labels": {"zone": "b"}, "gpus": []}]):
        Executor.objects.create(
            id=f"m{number}", name=f"m{number}", cpu_millicores=4000, memory_bytes=8 * GB,
            last_heartbeat_at=timezone.now(), **more,
        )  # fmt: skip
    assert never_fits(submit(labels={"zone": "a"})) == never_fits(submit(labels={"zone": "b"})) == ""
    assert never_fits(submit(gpu_type="t4", gpu_count=2)) == ""
    assert never_fits(submit(gpu_type="t4", gpu_count=1, labels={"zone": "a"})) != ""
