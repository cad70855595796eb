"""Where one pass follows another, Redis is read and written beside them, in a thread: nothing is lost by that."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from agent.protocol import Keys, StartAttempt
from jobs import crashpoints, events, scheduler
from jobs.models import Attempt, Job
from jobs.scheduler import Scheduler
from tests.jobs.node import Node
from tests.jobs.passes import Clock, fresh, new_leader, settle, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def leader(redis_client: redis.Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    """One that reads three events a pass and places two jobs, so that pass follows pass."""
    monkeypatch.setattr(events, "BATCH", 3)
    monkeypatch.setattr(scheduler, "PLACEMENTS_PER_PASS", 2)
    with ThreadPoolExecutor(1) as beside:
        yield new_leader(clock, beside)


@pytest.fixture
def node(redis_client: redis.Redis, leader: Scheduler) -> Node:
    node = Node(redis_client, cores=16, gb=64)
    node.hello()
    settle(leader)
    return node


def started(node: Node) -> list[str]:
    """The jobs that the node is told to start, in the order of the commands."""
    return [command.job_id for command in node.receive() if isinstance(command, StartAttempt)]


def fail_once(monkeypatch: pytest.MonkeyPatch, leader: Scheduler) -> None:
    """A pass that places, and fails before its commit."""
    with monkeypatch.context() as patch:
        patch.setattr(crashpoints, "reach", lambda name: 1 / 0 if name == "placing-before-commit" else None)
        with pytest.raises(ZeroDivisionError):
            leader.run_pass()


def test_all_that_passes_decide_is_sent_once_and_in_order_and_all_events_are_acknowledged(
    leader: Scheduler, node: Node, redis_client: redis.Redis
) -> None:
    jobs = [submit() for _ in range(10)]
    settle(leader)
    assert started(node) == [str(job.id) for job in jobs]
    for job in jobs:
        node.running(job)
        node.finished(job)
    settle(leader)
    assert {fresh(job).state for job in jobs} == {"SUCCEEDED"}
    assert redis_client.xlen(Keys().events) == 0
    pending = redis_client.xpending(Keys().events, events.group_of(leader.term))
    assert pending["pending"] == 0  # type: ignore[index]


def test_the_end_of_a_batch_is_read_while_the_pass_before_it_commits(
    leader: Scheduler, node: Node, redis_client: redis.Redis
) -> None:
    for _ in range(9):
        submit()
    leader.run_pass()  # from now on it knows that there is more
    leader.run_pass()
    leader.finish()
    pending = redis_client.xpending(Keys().events, events.group_of(leader.term))
    assert pending["pending"] == 3, "read, and neither applied nor acknowledged"  # type: ignore[index]


def test_what_was_read_ahead_of_a_pass_that_fails_is_read_again(
    leader: Scheduler, node: Node, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [submit() for _ in range(9)]
    leader.run_pass()
    fail_once(monkeypatch, leader)
    assert redis_client.xlen(Keys().events) >= 6, "nothing is acknowledged before its commit"
    leader.start_over()
    settle(leader)
    assert sorted(started(node)) == sorted(str(job.id) for job in jobs)
    assert redis_client.xlen(Keys().events) == 0


def test_what_could_not_be_sent_beside_a_pass_stops_the_next_and_is_sent_again(
    leader: Scheduler, node: Node, redis_client: redis.Redis
) -> None:
    jobs = [submit() for _ in range(9)]
    redis_client.set(Keys().commands(node.executor_id), "not a stream")
    leader.run_pass()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        leader.run_pass()
    redis_client.delete(Keys().commands(node.executor_id))
    leader.start_over()
    settle(leader)
    assert started(node) == [str(attempt.job_id) for attempt in Attempt.objects.order_by("start_command")]
    assert Attempt.objects.count() == Job.objects.filter(state="STARTING").count() == len(jobs)
