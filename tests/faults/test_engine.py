"""The engine itself is stopped, killed or hangs under running jobs: with a private one, for each of two settings."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from script.sample_image import import_busybox
from tests.cluster import wait_for
from tests.evidence import check_lines
from tests.faults import private_engine
from tests.faults.private_engine import PrivateEngine
from tests.faults.system import LINES, System, running_system

pytestmark = pytest.mark.docker
Fault = Callable[[PrivateEngine], None]


@pytest.fixture(scope="module", params=["", "--live-restore"], ids=["containers die with it", "containers live on"])
def engine(request: pytest.FixtureRequest, docker_client: docker.DockerClient) -> Iterator[PrivateEngine]:
    if os.geteuid() != 0 or not private_engine.available():
        pytest.skip("A DOCKERD OF ITS OWN NEEDS ROOT AND dockerd, so the engine's faults are not tested here")
    directory = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    with PrivateEngine(directory, *filter(None, [request.param])) as engine:
        import_busybox(engine.client, "workload-runner-test:latest")
        yield engine
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def shared_system(engine: PrivateEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """As in conftest, on the private engine; the witness does not outlive it, so host names must be containers' own."""
    image, settings = "workload-runner-test:latest", {"DOCKER_HOST": engine.host, "AGENT_SANDBOX_POOL": "0"}
    with running_system(tmp_path_factory.mktemp("system"), image, engine.client, **settings) as system:
        yield system


@pytest.fixture
def lives_on(request: pytest.FixtureRequest) -> bool:
    return "live on" in request.node.name


def restarted(engine: PrivateEngine) -> None:
    engine.end(signal.SIGTERM)
    engine.start()


def killed(engine: PrivateEngine) -> None:
    engine.end(signal.SIGKILL)
    engine.start()


@pytest.mark.parametrize("fault", [restarted, killed])
def test_1_4_5_a_job_outlives_an_engine_that_is(
    system: System, engine: PrivateEngine, lives_on: bool, fault: Fault
) -> None:
    cluster = system.cluster
    job_id = system.submit_numbered(40, pause=0.1)
    system.printed(job_id, 6)
    fault(engine)
    job = cluster.wait_final(job_id)
    attempts = [(attempt["status"], attempt["reason"]) for attempt in job["attempts"]]
    assert attempts[-1] == ("SUCCEEDED", "completed")
    if lives_on:
        assert len(attempts) == 1
    else:  # an engine that ends in good order kills its containers first, as a person would
        assert {reason for _, reason in attempts[:-1]} <= {"engine_error", "container_gone"} and 2 <= len(attempts) <= 3
    container = system.witness.host(job["attempts"][-1]["container_id"])
    meta = cluster.keys.job_logs_meta(job_id)
    wait_for("the log to be complete", lambda: cluster.redis.hget(meta, "complete") == "1")
    faults = check_lines(cluster.log(job_id), [container], 40)
    assert not faults, faults
    system.nothing_left_of(job_id)


@pytest.mark.parametrize("engine", ["--live-restore"], ids=["containers live on"], indirect=True)
def test_1_a_hanging_engine_makes_its_executor_unhealthy_and_its_jobs_go_on_when_it_is_back(
    system: System, engine: PrivateEngine, docker_client: docker.DockerClient, test_image: str
) -> None:
    cluster = system.cluster
    job_id = system.submit_numbered(LINES, pause=0.1)
    system.printed(job_id, 6)
    engine.pause()
    executor = wait_for(
        "it to be unhealthy", lambda: next((e for e in cluster.executors() if e["state"] == "UNHEALTHY"), {})
    )
    assert "Docker does not answer" in executor["problem"]
    waiting = system.submit_numbered(3)
    answer = cluster.api.post("/schedule").json()
    assert "Docker does not answer" in next(w["reason"] for w in answer["waiting"] if w["job_id"] == waiting)
    cluster.start_agent("b", DOCKER_HOST=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    elsewhere = cluster.wait_final(waiting)
    assert (elsewhere["status"], elsewhere["attempts"][0]["executor"]["name"]) == ("SUCCEEDED", f"{cluster.tag}-b")
    cluster.stop("agent-b")
    engine.resume()
    system.ends_exactly(job_id)


@pytest.mark.parametrize("engine", [""], ids=["containers die with it"], indirect=True)
@pytest.mark.parametrize("fault", [restarted, killed, PrivateEngine.reboot])
def test_1_4_what_died_with_its_node_is_no_failure_of_the_job(
    system: System, engine: PrivateEngine, fault: Fault
) -> None:
    """The agent is gone as well, as in a reboot: the next one has only what the engine remembers."""
    cluster = system.cluster
    job_id = system.submit_numbered(40, pause=0.05)
    system.printed(job_id, 6)
    cluster.kill("agent-a")
    fault(engine)
    cluster.launch_agent("a")
    job = system.ends_exactly(job_id, 40, attempts=2)
    assert job["attempts"][0]["reason"] == "engine_error"


@pytest.mark.parametrize("engine", [""], ids=["containers die with it"], indirect=True)
@pytest.mark.parametrize("point", ["container-created", "output-unshipped", "attempt-forgotten"])
def test_1_2_5_9_an_engine_killed_while_a_container_is_made_read_to_its_end_or_removed_costs_no_attempt(
    system: System, engine: PrivateEngine, point: str
) -> None:
    system.restart_agent(CRASH_POINT=f"{point}:SIGSTOP")
    job_id = system.submit_numbered(5, pause=0.02)
    system.cluster.wait_stopped("agent-a")
    killed(engine)
    system.cluster.resume("agent-a")
    system.ends_exactly(job_id, 5, attempts=1)


@pytest.mark.parametrize("engine", [""], ids=["containers die with it"], indirect=True)
def test_1_4_an_engine_killed_while_it_pulls_is_no_failure_of_the_job(system: System, engine: PrivateEngine) -> None:
    def pulling() -> bool:
        return any("pulling" in attempt["progress"] for attempt in system.cluster.job(job_id)["attempts"])

    with engine.silent_registry() as address:
        image = f"{address}/tools/slow:1"
        job_id = system.submit_numbered(5, docker_image=image)
        wait_for("the pull", pulling)
        # Before the engine dies, so that the next attempt finds it however early it comes.
        engine.client.images.get("workload-runner-test:latest").tag(image)
        engine.end(signal.SIGKILL)
    engine.start()
    job = system.cluster.wait_final(job_id)
    *failed, last = [attempt["reason"] for attempt in job["attempts"]]
    # The next attempt may be there before the engine is.
    assert failed in (["image_pull_failed"], ["image_pull_failed", "engine_error"]) and last == "completed"
    system.nothing_wrong_with(job, 5)
