"""What the scheduler does where a node is lost, slow or has another time: nothing twice, early or for ever."""

import pytest
import redis

from jobs.scheduler import Scheduler
from tests.jobs.node import Node, submit
from tests.jobs.passes import Clock, fresh, run, settle

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
