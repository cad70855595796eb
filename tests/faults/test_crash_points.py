"""Killed at a named point of the code, again and again the same: what becomes of the job that was there."""

import signal
import time

import httpx
import pytest

from tests.cluster import wait_for
from tests.faults.system import LINES, System

pytestmark = pytest.mark.docker

AGENT_POINTS = {
    # point: what makes it go on
    "command-received": "the command is read again, since nothing says that it was passed",
    "attempt-recorded": "the record on disk says that it was accepted",
    "container-created": "the container is found by its name and started",
    "container-started": "the container is found running and taken up",
    "output-unshipped": "what was not shipped is read from the engine's copy",
    "container-ended": "the ended container is found and reported",
    "end-reported": "reported twice, which changes nothing",
    "attempt-forgotten": "the container is a left-over, removed at the start",
}


@pytest.mark.parametrize("point", AGENT_POINTS)
def test_2_5_7_agent_killed_at_a_point_goes_on_where_it_was(system: System, point: str) -> None:
    system.restart_agent(CRASH_POINT=point)
    job_id = system.submit_numbered(LINES, pause=0.02)
    assert system.cluster.wait_end("agent-a") == -signal.SIGKILL
    system.start()
    system.ends_exactly(job_id)


@pytest.mark.parametrize(
    "point", ["stop-received", "container-created", "container-started", "container-ended", "end-reported"]
)
def test_6_an_abort_holds_across_an_agent_killed_at_a_point(system: System, point: str) -> None:
    system.restart_agent(CRASH_POINT=point)
    job_id = system.submit_numbered(600, pause=0.1, then="")
    if point in ("stop-received", "container-ended", "end-reported"):
        system.printed(job_id, 2)
        system.cluster.api.delete(f"/jobs/{job_id}")
    assert system.cluster.wait_end("agent-a") == -signal.SIGKILL
    system.cluster.api.delete(f"/jobs/{job_id}")
    system.start()
    job = system.cluster.wait_final(job_id, timeout=10)
    assert (job["status"], len(job["attempts"])) == ("ABORTED", 1)
    system.nothing_wrong_with(job)


SCHEDULER_POINTS = [
    "wake-received",
    "placing-before-commit",
    "placing-before-send",
    "placing-before-acknowledge",
    "attempt_running-before-commit",
    "attempt_finished-before-commit",
    "attempt_finished-before-send",
    "attempt_finished-before-acknowledge",
]


@pytest.mark.parametrize("point", SCHEDULER_POINTS)
def test_1_2_8_scheduler_killed_at_a_point_loses_and_doubles_nothing(system: System, point: str) -> None:
    system.restart_scheduler(CRASH_POINT=point)
    job_id = system.submit_numbered(5, pause=0.02)
    assert system.cluster.wait_end("scheduler") == -signal.SIGKILL
    system.start()
    system.ends_exactly(job_id, 5)


@pytest.mark.parametrize("point", ["wake-received", "placing-before-send", "attempt_finished-received"])
def test_8_a_leader_paused_at_a_point_past_its_lease_writes_nothing(system: System, point: str) -> None:
    cluster = system.cluster
    system.restart_scheduler(CRASH_POINT=f"{point}:SIGSTOP")
    cluster.start_scheduler("standby")
    try:
        job_id = system.submit_numbered(5, pause=0.02)
        cluster.wait_stopped("scheduler")
        system.ends_exactly(job_id, 5)  # the standby takes over
        cluster.resume("scheduler")
        wait_for("it to stand by", lambda: "no longer leads" in cluster.output("scheduler"))
        assert cluster.job(job_id)["status"] == "SUCCEEDED"
        assert set(system.witness.starts(job_id).values()) == {1}
    finally:
        cluster.stop("standby")


def test_8_a_leader_paused_within_a_write_keeps_sqlite_locked_and_nothing_is_lost_or_doubled(system: System) -> None:
    """Nobody can take over before it goes on or is ended; PostgreSQL ends such a transaction after the lease."""
    cluster = system.cluster
    system.restart_scheduler(CRASH_POINT="placing-before-commit:SIGSTOP")
    cluster.start_scheduler("standby")
    wait_for("it to stand by", lambda: "standing by" in cluster.output("standby"))
    try:
        job_id = system.submit_numbered(5, pause=0.02)
        cluster.wait_stopped("scheduler")
        time.sleep(4)  # past the lease
        assert cluster.job(job_id)["status"] == "PENDING"
        cluster.resume("scheduler")
        system.ends_exactly(job_id, 5)
    finally:
        cluster.stop("standby")


def test_1_a_web_server_killed_between_commit_and_wake_up_has_accepted_the_job(system: System) -> None:
    """Nobody was told of it, not even who submitted it."""
    cluster = system.cluster
    cluster.stop("web")
    cluster.start_web(CRASH_POINT="committed-before-announced")
    with pytest.raises(httpx.TransportError):
        system.submit_numbered(3, name="unannounced")
    assert cluster.wait_end("web") == -signal.SIGKILL
    system.start()
    [job] = [job for job in cluster.api.get("/jobs").json()["jobs"] if job["name"] == "unannounced"]
    system.ends_exactly(job["job_id"], 3)
