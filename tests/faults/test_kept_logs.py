"""Redis loses its memory just after a job's end, before its log was archived: the log is whole all the same."""

import pytest

from tests.cluster import wait_for
from tests.evidence import check_lines
from tests.faults.harm import Fault, redis_emptied, redis_flushed
from tests.faults.system import System

pytestmark = pytest.mark.docker


def ended_and_not_archived(system: System, **fields: object) -> str:
    """A job whose container has ended and whose log is whole in Redis, with the scheduler, who archives, paused."""
    cluster = system.cluster
    job_id = system.submit_numbered(**fields)
    system.printed(job_id, 6)
    cluster.pause("scheduler")
    (container,) = cluster.containers()
    container.wait()
    meta = cluster.keys.job_logs_meta(job_id)
    wait_for("the log to be complete", lambda: cluster.redis.hget(meta, "complete") == "1")
    assert int(cluster.redis.hget(meta, "archived") or 0) < len(cluster.log(job_id))
    return job_id


@pytest.mark.parametrize(
    ("fault", "agent_too"),
    [(redis_flushed, False), (redis_emptied, False), (redis_emptied, True)],
    ids=["flushed", "emptied", "emptied, agent killed"],
)
def test_4_5_9_a_job_that_has_ended_keeps_its_log_though_redis_is(
    system: System, fault: Fault, agent_too: bool
) -> None:
    job_id = ended_and_not_archived(system)
    if agent_too:
        system.cluster.kill("agent-a")
    fault(system)
    system.start()
    job = system.ends_exactly(job_id)
    host = system.witness.host(job["attempts"][0]["container_id"])
    assert not (faults := check_lines(system.stored_log(job_id), [host], 20)), faults


def test_4_5_9_a_job_that_has_failed_keeps_its_log_too_though_redis_is_emptied(system: System) -> None:
    job_id = ended_and_not_archived(system, then="exit 3")
    redis_emptied(system)
    system.start()
    job = system.cluster.wait_final(job_id)
    assert (job["status"], job["exit_code"], len(job["attempts"])) == ("FAILED", 3, 1)
    system.nothing_left_of(job_id)
    host = system.witness.host(job["attempts"][0]["container_id"])
    assert not (faults := check_lines(system.stored_log(job_id), [host], 20)), faults
