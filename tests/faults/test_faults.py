"""Each fault at each moment of a job's life, and how the job ends: the table that docs/operations.md tells in words."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import docker
import pytest

from tests.cluster import wait_for
from tests.faults.harm import (
    Fault,
    agent_away_at_the_end,
    agent_ended,
    agent_killed,
    everything_killed,
    killed_by_hand,
    redis_away,
    redis_emptied,
    redis_emptied_at_the_end,
    redis_flushed,
    redis_restarted,
    removed_by_hand,
    scheduler_away_at_the_end,
    scheduler_killed,
    web_killed,
)
from tests.faults.system import LINES, System
from tests.parts import free_port, start_registry
from tests.proxy import Proxy

pytestmark = pytest.mark.docker

Moment = Callable[[System, "SlowRegistry"], str]


# --- Moments: a job is submitted and has come there; the job's id ------------------------------------------------


@dataclass(slots=True)
class SlowRegistry:
    """A registry that can be kept from answering, with an image that the engine lacks."""

    proxy: Proxy
    image: str


@pytest.fixture(scope="module")
def registry_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    process = start_registry(tmp_path_factory.mktemp("registry"), port)
    if process is None:
        pytest.skip("NO docker-registry IS INSTALLED, so faults during a pull are not tested here")
    yield port
    process.kill()
    process.wait()


@pytest.fixture
def registry(registry_process: int, docker_client: docker.DockerClient, test_image: str) -> Iterator[SlowRegistry]:
    with Proxy(registry_process) as proxy:
        image = f"127.0.0.1:{proxy.port}/tools/busybox:1"
        docker_client.images.get(test_image).tag(image)
        docker_client.images.push(image)
        docker_client.images.remove(image)
        yield SlowRegistry(proxy, image)
        with contextlib.suppress(docker.errors.ImageNotFound):
            docker_client.images.remove(image, force=True)


def while_pulling(system: System, registry: SlowRegistry) -> str:
    registry.proxy.hang()
    job_id = system.submit_numbered(docker_image=registry.image)
    wait_for("the pull", lambda: any("pulling" in item["progress"] for item in system.cluster.job(job_id)["attempts"]))
    return job_id


def while_logging(system: System, registry: SlowRegistry) -> str:
    job_id = system.submit_numbered(pause=0.1)
    system.printed(job_id, 6)
    return job_id


def while_logging_on(system: System, registry: SlowRegistry) -> str:
    """As `while_logging`, of a job that does not end by itself."""
    job_id = system.submit_numbered(600, pause=0.1)
    system.printed(job_id, 6)
    return job_id


def while_running(system: System, registry: SlowRegistry) -> str:
    job_id = system.submit_numbered(1, then=f"sleep 2; {NUMBERED_FROM_1}")
    system.cluster.wait_status(job_id, "RUNNING")
    return job_id


NUMBERED_FROM_1 = f'i=1; while [ $i -lt {LINES} ]; do echo "$HOSTNAME $i"; echo "$HOSTNAME $i" >&2; i=$((i+1)); done'


# --- The table ----------------------------------------------------------------------------------------------------

TABLE: list[tuple[Fault, Moment, int]] = [
    # fault, moment, attempts until it succeeds
    (agent_killed, while_pulling, 1),
    (agent_killed, while_running, 1),
    (agent_killed, while_logging, 1),
    (agent_ended, while_pulling, 1),
    (agent_ended, while_logging, 1),
    (agent_away_at_the_end, while_logging, 1),
    (scheduler_away_at_the_end, while_logging, 1),
    (scheduler_killed, while_pulling, 1),
    (scheduler_killed, while_logging, 1),
    (web_killed, while_logging, 1),
    (redis_restarted, while_pulling, 1),
    (redis_restarted, while_logging, 1),
    (redis_emptied, while_pulling, 1),
    (redis_emptied, while_running, 1),
    (redis_emptied, while_logging, 1),
    (redis_emptied_at_the_end, while_logging, 1),
    (redis_flushed, while_logging, 1),
    (redis_away, while_pulling, 1),
    (redis_away, while_logging, 1),
    (everything_killed, while_pulling, 1),
    (everything_killed, while_logging, 1),
    (killed_by_hand, while_logging, 2),
    (removed_by_hand, while_logging, 2),
]


@pytest.mark.parametrize(
    ("fault", "moment", "attempts"), TABLE, ids=[f"{fault.__name__}-{moment.__name__}" for fault, moment, _ in TABLE]
)
def test_1_2_5_7_9_a_job_ends_as_it_should_after(
    system: System, registry: SlowRegistry, fault: Fault, moment: Moment, attempts: int
) -> None:
    job_id = moment(system, registry)
    fault(system)
    registry.proxy.heal()
    system.ends_exactly(job_id, attempts=attempts)


ABORTED: list[tuple[Fault, Moment]] = [
    (agent_killed, while_pulling),
    (agent_killed, while_logging_on),
    (scheduler_killed, while_pulling),
    (redis_emptied, while_logging_on),
    (redis_away, while_logging_on),
]


@pytest.mark.parametrize(
    ("fault", "moment"), ABORTED, ids=[f"{fault.__name__}-{moment.__name__}" for fault, moment in ABORTED]
)
def test_6_an_abort_ends_a_job_in_spite_of(
    system: System, registry: SlowRegistry, fault: Fault, moment: Moment
) -> None:
    job_id = moment(system, registry)
    assert system.cluster.api.delete(f"/jobs/{job_id}").status_code in (200, 202)
    fault(system)
    job = system.cluster.wait_final(job_id)
    assert (job["status"], len(job["attempts"])) == ("ABORTED", 1)
    system.nothing_left_of(job_id)


def test_6_a_pull_that_an_agent_takes_up_though_it_is_to_stop_ends_at_once(
    system: System, registry: SlowRegistry
) -> None:
    system.restart_agent(CRASH_POINT="stop-received")
    job_id = while_pulling(system, registry)
    system.cluster.api.delete(f"/jobs/{job_id}")
    system.cluster.wait_end("agent-a")
    system.cluster.launch_agent("a")
    assert system.cluster.wait_final(job_id, timeout=8)["status"] == "ABORTED"


def test_1_a_job_submitted_while_redis_is_away_is_accepted_and_runs_when_it_is_back(system: System) -> None:
    system.cluster.kill("redis")
    job_id = system.submit_numbered(3)
    system.cluster.start_redis(empty=False)
    system.ends_exactly(job_id, 3)


def test_1_a_job_submitted_while_no_scheduler_runs_waits_for_one(system: System) -> None:
    system.cluster.stop("scheduler")
    job_id = system.submit_numbered(3)
    assert system.cluster.job(job_id)["status"] == "PENDING"
    system.cluster.start_scheduler()
    system.ends_exactly(job_id, 3)
