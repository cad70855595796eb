"""A full disk: the agent goes on with what it has, says so, takes nothing new, and recovers."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from agent.config import BadSetting
from agent.protocol import Hello, StartAttempt, StopAttempt
from agent.state import Record, State
from script.sample_image import import_busybox
from tests.agent.harness import AgentProcess, wait_for
from tests.faults import private_engine
from tests.faults.private_engine import PrivateEngine

MakeAgent = Callable[..., AgentProcess]
START = StartAttempt(
    seq=7, job_id="j", attempt=1, image="i", command=[], cpu_millicores=1, memory_bytes=1, timeout_seconds=1
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("MOUNTING A SMALL FILE SYSTEM NEEDS ROOT, so a full disk is not tested here")
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "1m"):
        yield folder


@pytest.fixture
def small_engine(docker_client: docker.DockerClient) -> Iterator[tuple[PrivateEngine, Path]]:
    """A Docker Engine of our own whose images and containers are on a file system of 48 MB, and that."""
    if os.geteuid() != 0 or not private_engine.available():
        pytest.skip("A DOCKERD OF ITS OWN NEEDS ROOT AND dockerd, so its full disk is not tested here")
    directory = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    data = directory / "data"
    data.mkdir()
    with mounted(data, "48m"), PrivateEngine(directory) as engine:
        import_busybox(engine.client, "workload-runner-test:latest")
        yield engine, data
    shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        if folder.is_mount():  # The private engine unmounts its data itself.
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Fills it to the last byte; deleting what is returned empties it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return filler


def test_a_state_folder_on_a_full_disk_says_so_and_keeps_what_matters(small_disk: Path) -> None:
    state = State(small_disk / "state", "n")
    state.save(Record(START))
    filler = fill(small_disk)
    stopped = Record(START, "c" * 64, StopAttempt(seq=9, job_id="j", attempt=1, why="abort"))
    state.update(stopped)
    state.passed(9)
    with pytest.raises(OSError, match="No space"):
        state.save(Record(START, "x" * 100_000))
    assert "No space left on device" in state.problem
    assert state.check() == state.problem != ""
    assert (state.records(), state.last_command) == ([Record(START)], 9)
    filler.unlink()
    assert state.check() == state.problem == ""
    state.close()
    again = State(small_disk / "state", "n")
    assert (again.records(), again.last_command) == ([stopped], 9)
    again.close()


def test_an_agent_starts_again_on_a_full_disk_and_knows_the_last_command(small_disk: Path) -> None:
    state = State(small_disk / "state", "n")
    state.close()
    fill(small_disk)
    again = State(small_disk / "state", "n")
    again.passed(12)
    again.close()
    last = State(small_disk / "state", "n")
    assert (last.executor_id, last.last_command) == (state.executor_id, 12)
    last.close()


def test_a_disk_full_from_the_beginning_is_one_clear_message(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(BadSetting, match=r"AGENT_STATE_DIR .* No space left on device"):
        State(small_disk / "state", "n")


@pytest.mark.docker
def test_an_agent_on_a_full_disk_goes_on_refuses_new_jobs_in_words_and_recovers(
    make_agent: MakeAgent, small_disk: Path, test_image: str, docker_client: docker.DockerClient
) -> None:
    agent = make_agent(AGENT_STATE_DIR=str(small_disk / "state"), LOG_DIR=str(small_disk))
    agent.directory = small_disk
    ends, stopped = agent.run(test_image, ["sh", "-c", "sleep 3; echo done"]), agent.run(test_image, ["sleep", "60"])
    agent.running(ends)
    agent.running(stopped)
    filler = fill(small_disk)

    refused = agent.run(test_image, ["true"])
    finished = agent.finished(refused)
    assert finished.reason == "start_refused"
    assert finished.message.startswith("The agent cannot write its state folder")
    assert "No space left on device" in finished.message
    events = agent.all_events()
    told = [index for index, event in enumerate(events) if "No space" in getattr(event, "problem", "")]
    assert told and told[0] < events.index(finished), "the scheduler must not send the job here again"

    agent.stop(stopped)
    assert agent.finished(stopped).reason == "stopped"
    assert agent.finished(ends).reason == "completed"
    assert agent.texts(ends) == ["done"]
    agent.kill()
    agent.start()
    assert "No space" in agent.events(Hello)[-1].problem
    assert agent.events(Hello)[-1].held == []

    filler.unlink()
    wait_for(lambda: (beat := agent.last_heartbeat()) and beat.problem == "")
    assert agent.finished(agent.run(test_image, ["true"])).reason == "completed"
    wait_for(lambda: agent.cleared(docker_client))


@pytest.mark.docker
def test_an_engine_on_a_full_disk_is_the_platforms_failure_in_words_and_takes_no_jobs_for_a_while(
    make_agent: MakeAgent, small_engine: tuple[PrivateEngine, Path]
) -> None:
    engine, data = small_engine
    agent = make_agent(DOCKER_HOST=engine.host)
    image = "workload-runner-test:latest"
    assert agent.finished(agent.run(image, ["true"])).reason == "completed"
    filler = fill(data)
    finished = agent.finished(agent.run(image, ["true"]))
    assert finished.reason == "engine_error"
    assert finished.message.startswith("The executor's disk is full. Docker said:")
    events = agent.all_events()
    told = [
        index for index, event in enumerate(events) if getattr(event, "problem", "") == "The disk of Docker is full."
    ]
    assert told and told[0] < events.index(finished), "the scheduler must not send the job here again"
    filler.unlink()
    assert agent.finished(agent.run(image, ["true"])).reason == "completed"
