"""Containers that Docker removes (`removing`) or could not remove (`dead`).

A dead one is had from the real engine by something immutable in its file system. To be found while it is removed is a
matter of luck, so that engine is played.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from agent.containers import LABEL_EXECUTOR
from agent.protocol import AttemptRunning, StartAttempt
from agent.state import Record, State
from tests.agent.harness import MB, AgentProcess, wait_for
from tests.agent.played_engine import CONTAINER, REMOVING, played_engine
from tests.agent.test_recovery import accept_without_starting

pytestmark = pytest.mark.docker

ENDS = ["sh", "-c", "echo begun; sleep 1; exit 3"]


@pytest.fixture
def stick() -> Iterator[Callable[[Any], Callable[[], None]]]:
    """Has Docker fail to remove a container, until what it returns is called."""
    with contextlib.ExitStack() as stack:

        def stick(container: Any) -> Callable[[], None]:
            layer = Path(container.attrs["GraphDriver"]["Data"].get("UpperDir", "/nowhere"))
            if os.geteuid() != 0 or not shutil.which("chattr") or not layer.is_dir():
                pytest.skip("NEEDS ROOT, chattr AND AN overlay2 IN REACH, so dead containers are not tested here")
            stuck = layer / "stuck"
            stuck.touch()
            if subprocess.run(["chattr", "+i", stuck]).returncode != 0:
                pytest.skip("DOCKER'S FILE SYSTEM KNOWS NO IMMUTABLE FILES, so dead containers are not tested here")
            undo = contextlib.ExitStack()
            undo.callback(subprocess.run, ["chattr", "-i", stuck], stderr=subprocess.DEVNULL)
            stack.push(undo)
            return undo.close

        yield stick


def remove_in_vain(container: Any) -> None:
    with pytest.raises(docker.errors.APIError, match="operation not permitted"):
        container.remove(force=True, v=True)
    assert status(container) == "dead"


def status(container: Any) -> str:
    container.reload()
    return str(container.status)


def test_containers_that_cannot_be_removed_hold_up_neither_reports_nor_other_removals(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient, stick: Any
) -> None:
    stuck = [agent.run(test_image, ENDS, cpu_millicores=100) for _ in range(3)]
    containers = [docker_client.containers.get(agent.running(start).container_id) for start in stuck]
    unstick = [stick(container) for container in containers]
    for start in stuck:
        assert (agent.finished(start).reason, agent.finished(start).exit_code) == ("exit_nonzero", 3)
    wait_for(lambda: agent.archive() or all(status(container) == "dead" for container in containers))
    assert agent.finished(agent.run(test_image, ["true"])).reason == "completed"
    wait_for(lambda: len(agent.containers(docker_client)) == 3, what="the removal of what can be removed")
    for release in unstick:
        release()
    wait_for(lambda: not agent.containers(docker_client))
    assert "Traceback" not in agent.log


def test_an_attempt_whose_container_died_in_a_removal_ends_and_says_what_is_missing_of_its_log(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient, stick: Any
) -> None:
    start = agent.run(test_image, ["sh", "-c", "echo begun; sleep 60"])
    container = docker_client.containers.get(agent.running(start).container_id)
    wait_for(lambda: agent.texts(start) == ["begun"])
    agent.kill()
    unstick = stick(container)
    remove_in_vain(container)
    agent.start()
    finished = agent.finished(start)
    assert (finished.reason, finished.exit_code) == ("container_gone", 137)
    begun, note = agent.log_lines(start)
    assert begun.endswith("begun") and "removed before all of its output had been read" in note
    assert agent.log_meta(start)["complete"] == "1"
    unstick()
    agent.kill()
    agent.start()
    wait_for(lambda: not agent.containers(docker_client))


def test_a_container_that_died_before_it_was_started_is_no_job_that_ran(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient, stick: Any
) -> None:
    start = accept_without_starting(agent, test_image, docker_client, "true")
    container = agent.containers(docker_client)[0]
    unstick = stick(container)
    remove_in_vain(container)
    agent.start()
    finished = agent.finished(start)
    assert (finished.reason, finished.exit_code) == ("container_gone", None)
    assert not agent.events(AttemptRunning, start)
    unstick()
    wait_for(lambda: not agent.containers(docker_client))


def test_a_left_over_that_cannot_be_removed_holds_up_no_other(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient, stick: Any
) -> None:
    agent.kill()
    labels = {"workload-runner.executor": agent.id, "workload-runner.job": "gone", "workload-runner.attempt": "1"}
    _, second, _ = (docker_client.containers.create(test_image, ["true"], labels=labels) for _ in range(3))
    unstick = stick(second)
    remove_in_vain(second)
    agent.start()
    wait_for(lambda: agent.containers(docker_client) == [second])
    unstick()
    wait_for(lambda: not agent.containers(docker_client))
    assert "Traceback" not in agent.log


@pytest.mark.parametrize(
    ("started_at", "reason", "exit_code"),
    [
        pytest.param(REMOVING["State"]["StartedAt"], "exit_nonzero", 3, id="ran"),
        pytest.param("0001-01-01T00:00:00Z", "container_gone", None, id="never ran"),
    ],
)
def test_an_attempt_whose_container_is_being_removed_ends_as_docker_says(
    make_agent: Callable[..., AgentProcess], tmp_path: Path, started_at: str, reason: str, exit_code: int | None
) -> None:
    with played_engine(tmp_path / "docker.sock") as engine:
        agent = make_agent(DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
        agent.kill()
        start = StartAttempt(
            seq=1,
            job_id="0190a000-0000-7000-8000-000000000001",
            attempt=1,
            image="i",
            command=[],
            cpu_millicores=500,
            memory_bytes=64 * MB,
            timeout_seconds=120,
        )
        state = State(agent.directory / "state", "test")
        state.save(Record(start, CONTAINER))
        state.close()
        engine.container = {
            **REMOVING,
            "State": {**REMOVING["State"], "StartedAt": started_at},
            "Config": {**REMOVING["Config"], "Labels": {LABEL_EXECUTOR: agent.id}},
        }
        agent.start()
        finished = agent.finished(start)
        assert (finished.reason, finished.exit_code) == (reason, exit_code)
        assert not agent.events(AttemptRunning, start)
        wait_for(lambda: not list((agent.directory / "state" / "attempts").iterdir()), what="the attempt's end")
        assert "Traceback" not in agent.log
