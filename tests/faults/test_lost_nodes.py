"""A node that falls silent: its attempts go elsewhere, and what it still runs does not count when it is back."""

from collections.abc import Iterator

import docker
import pytest

from tests.cluster import wait_for
from tests.faults.system import System, running_system

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def shared_system(
    tmp_path_factory: pytest.TempPathFactory, test_image: str, docker_client: docker.DockerClient
) -> Iterator[System]:
    """As in conftest, with heartbeats so fast that a silent node is soon lost."""
    with running_system(tmp_path_factory.mktemp("system"), test_image, docker_client) as system:
        yield system


@pytest.fixture
def two_agents(system: System) -> Iterator[System]:
    """Besides `a` a second agent, `b`, which is later in the order of placement."""
    system.cluster.start_agent("b")
    yield system
    if "agent-b" in system.cluster.processes:
        system.cluster.stop("agent-b")
    wait_for("the second agent to be lost", lambda: _state(system, "b") == "LOST")


def _state(system: System, agent: str) -> str:
    name = f"{system.cluster.tag}-{agent}"
    return next(str(item["state"]) for item in system.cluster.executors() if item["name"] == name)


def test_1_2_a_lost_nodes_attempt_runs_elsewhere_and_its_return_changes_nothing(two_agents: System) -> None:
    cluster = two_agents.cluster
    job_id = two_agents.submit_numbered(pause=0.25)
    two_agents.printed(job_id, 4)
    cluster.pause("agent-a")
    job = wait_for("a second attempt", lambda: (job := cluster.job(job_id))["attempts"][1:] and job)
    assert job["attempts"][0]["reason"] == "executor_lost"
    assert _state(two_agents, "a") == "LOST"
    cluster.wait_status(job_id, "RUNNING")
    cluster.resume("agent-a")
    wait_for(
        "the superseded container to be gone", lambda: [c.name for c in cluster.containers()] == [f"job-{job_id}-2"]
    )
    cluster.wait_online("a")
    job = two_agents.ends_exactly(job_id, attempts=2)
    assert job["attempts"][1]["executor"]["name"] == f"{cluster.tag}-b"
    assert job["attempts"][0]["status"] == "FAILED"


def test_2_4_what_a_lost_node_reports_late_is_ignored(two_agents: System) -> None:
    """Its container ends well while nobody hears the node, and is reported when another attempt has counted."""
    cluster = two_agents.cluster
    job_id = cluster.shell("sleep 1; echo done")
    cluster.wait_status(job_id, "RUNNING")
    cluster.pause("agent-a")
    wait_for("a second attempt", lambda: cluster.job(job_id)["attempts"][1:])
    job = cluster.wait_final(job_id)
    cluster.resume("agent-a")
    cluster.wait_online("a")
    wait_for("everything to be removed", lambda: not cluster.containers())
    assert cluster.job(job_id) == job
    assert [attempt["reason"] for attempt in job["attempts"]] == ["executor_lost", "completed"]
    cut_off = "[workload-runner] Attempt 1 was cut off here; whatever else it printed is missing"
    assert cluster.log_text(job_id) == [cut_off, "done"]


def test_2_a_job_that_must_run_at_most_once_fails_with_its_node(two_agents: System) -> None:
    cluster = two_agents.cluster
    job_id = two_agents.submit_numbered(pause=0.25, at_most_once=True)
    two_agents.printed(job_id, 4)
    cluster.pause("agent-a")
    job = cluster.wait_final(job_id)
    assert (job["status"], job["reason"], len(job["attempts"])) == ("FAILED", "executor_lost", 1)
    cluster.resume("agent-a")
    wait_for("its container to be stopped", lambda: not cluster.containers())
    assert cluster.job(job_id)["status"] == "FAILED"
    cluster.wait_online("a")


def test_7_a_node_that_reboots_while_unheard_comes_back_with_its_attempts_still_its_own(two_agents: System) -> None:
    """Killed and back within three heartbeats: nothing was lost, so nothing is run again."""
    job_id = two_agents.submit_numbered(pause=0.1)
    two_agents.printed(job_id, 4)
    two_agents.restart_agent()
    two_agents.ends_exactly(job_id, attempts=1)
