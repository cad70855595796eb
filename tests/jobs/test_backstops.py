"""What the scheduler does where a node is lost, slow or has another time: nothing twice, early or for ever."""

from datetime import timedelta

import pytest
import redis
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from agent.protocol import StopAttempt
from jobs.models import Attempt, Job
from jobs.scheduler import Scheduler
from tests.jobs.node import Node
from tests.jobs.passes import Clock, fresh, run, settle, submit

pytestmark = pytest.mark.django_db

NO_SECOND_TIME = "It may have run, and may run at most once: it is not tried again."


# --- At most once ----------------------------------------------------------------------------------------------


def test_a_job_that_may_run_at_most_once_fails_with_its_executor(
    leader: Scheduler, node: Node, redis_client: redis.Redis, clock: Clock
) -> None:
    once, again = run(leader, node, at_most_once=True), run(leader, node)
    other = Node(redis_client, "n2")
    for _ in range(4):
        clock.now += 29
        other.hello()
        settle(leader)
    job = fresh(once)
    assert (job.state, job.reason, job.attempt_number) == ("FAILED", "executor_lost", 1)
    assert job.reason_text == f"The executor stopped sending heartbeats. {NO_SECOND_TIME}"
    assert (fresh(again).state, fresh(again).executor_id) == ("STARTING", "n2")
    node.finished(once)
    settle(leader)
    assert fresh(once).state == "FAILED", "a final state never changes"


def test_a_job_that_may_run_at_most_once_fails_where_its_agent_has_forgotten_it(leader: Scheduler, node: Node) -> None:
    job = run(leader, node, at_most_once=True)
    node.held = []
    node.heartbeat()
    settle(leader)
    job = fresh(job)
    assert (job.state, job.reason) == ("FAILED", "attempt_gone")
    assert job.reason_text.endswith(NO_SECOND_TIME)


@pytest.mark.parametrize("reason", ["start_refused", "image_pull_failed"])
def test_a_job_that_may_run_at_most_once_is_queued_again_where_it_was_never_started(
    leader: Scheduler, node: Node, reason: str
) -> None:
    job = submit(at_most_once=True)
    settle(leader)
    node.receive()
    node.finished(job, reason, exit_code=None)
    settle(leader)
    assert fresh(job).attempt_number == 2


# --- STARTING for ever -----------------------------------------------------------------------------------------


def test_a_job_that_an_agent_never_starts_is_taken_from_it_and_queued_again(
    leader: Scheduler, node: Node, settings: Settings
) -> None:
    settings.STARTING_TIMEOUT_SECONDS = 600
    job, running = submit(), run(leader, node)
    settle(leader)
    node.receive()
    Attempt.objects.update(placed_at=timezone.now() - timedelta(seconds=590))
    leader.start_over()
    settle(leader)
    assert node.receive() == []
    Attempt.objects.update(placed_at=timezone.now() - timedelta(seconds=610))
    leader.start_over()
    settle(leader)
    [stop] = node.receive()
    assert isinstance(stop, StopAttempt) and (stop.job_id, stop.why) == (str(job.id), "start_timeout")
    node.finished(job, "stopped", exit_code=None, message="Stopped on request.")
    settle(leader)
    attempt = job.attempts.get(number=1)
    assert attempt.reason == "start_timeout"
    assert attempt.reason_text.startswith("The executor did not start the container in time.")
    assert (fresh(job).attempt_number, fresh(running).state) == (2, "RUNNING")


def test_a_job_whose_agent_does_not_even_obey_is_given_up_there(
    leader: Scheduler, node: Node, settings: Settings
) -> None:
    settings.STARTING_TIMEOUT_SECONDS = 600
    job = submit()
    settle(leader)
    node.receive()
    Attempt.objects.update(placed_at=timezone.now() - timedelta(seconds=610))
    leader.start_over()
    settle(leader)
    node.receive()
    Attempt.objects.update(placed_at=timezone.now() - timedelta(seconds=910))
    leader.start_over()
    settle(leader)
    attempt = job.attempts.get(number=1)
    assert (attempt.state, attempt.reason) == ("FAILED", "start_timeout")
    node.heartbeat()
    settle(leader)
    [*_, stop] = node.receive()
    assert isinstance(stop, StopAttempt) and stop.why == "superseded"
    node.running(job, 1)
    settle(leader)
    assert fresh(job).started_at is None


# --- Clocks that differ ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_node_whose_clock_is_off_changes_no_decision_and_no_duration(
    leader: Scheduler, node: Node, client: Client, settings: Settings, clock: Clock, minutes: int
) -> None:
    settings.OPEN_TO_LOCAL_USER = True

    def by_its_clock(seconds_ago: float) -> str:
        moment = timezone.now() + timedelta(minutes=minutes) - timedelta(seconds=seconds_ago)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    jobs = [submit(timeout_seconds=60), submit(timeout_seconds=60), submit(timeout_seconds=60)]
    settle(leader)
    node.receive()
    for job in jobs:
        node.running(job, started_at=by_its_clock(0))
    settle(leader)
    overdue, ended, lost = jobs
    heard = timezone.now()

    def ran_for(seconds: float, *whose: Job) -> None:
        """Lets the time since the scheduler heard of them be that long, and their node's clock agree."""
        Attempt.objects.filter(job__in=whose).update(
            placed_at=heard - timedelta(seconds=seconds + 1),
            running_since=heard - timedelta(seconds=seconds),
            started_at=heard + timedelta(minutes=minutes) - timedelta(seconds=seconds),
        )
        leader.start_over()

    ran_for(360, overdue)
    settle(leader)
    assert node.receive() == [], "within its time, its grace and the margin"
    ran_for(380, overdue)
    settle(leader)
    assert [command.job_id for command in node.receive() if isinstance(command, StopAttempt)] == [str(overdue.id)]

    node.finished(ended, started_at=by_its_clock(42), finished_at=by_its_clock(0))
    ran_for(42, lost)
    for _ in range(4):
        settle(leader)
        clock.now += 29
    settle(leader)
    assert lost.attempts.get().reason == "executor_lost"
    for attempt in (ended.attempts.get(), lost.attempts.get()):
        assert attempt.started_at is not None and attempt.finished_at is not None
        assert 41 < (attempt.finished_at - attempt.started_at).total_seconds() < 45
    page = client.get(f"/jobs/{ended.id}/", headers={"host": "localhost"}).content.decode()
    assert "42 s" in page and "10 min" not in page and "9 min" not in page
