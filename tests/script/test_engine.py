import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil
import pytest

from script import engine
from script.console import Problem
from script.engine import available_engine


@pytest.fixture
def dockerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a dockerd which a script started; the engine that answers is another."""
    process = subprocess.Popen(["sleep", "60"])
    ours = tmp_path / "dockerd"
    ours.write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")
    monkeypatch.setattr(engine, "OURS", ours)
    yield process
    process.kill()
    process.wait()


def test_the_last_script_to_leave_stops_the_dockerd_that_a_script_started(
    dockerd: subprocess.Popen[bytes], docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    with available_engine(tmp_path / "log"):
        with available_engine(tmp_path / "log"):
            pass
        assert dockerd.poll() is None
    assert dockerd.poll() is not None


def test_an_engine_that_no_script_started_is_left_alone(
    dockerd: subprocess.Popen[bytes], docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    engine.OURS.write_text(f"{dockerd.pid} 1.0")  # another process that has got the number since
    with available_engine(tmp_path / "log") as client:
        assert client.ping()
    assert dockerd.poll() is None
    assert docker_client.ping()


def test_a_named_engine_that_does_not_answer_is_an_error_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(Problem, match=r"DOCKER_HOST=unix.*unset DOCKER_HOST"), available_engine(tmp_path / "log"):
        pass


def test_pid_files_of_dead_daemons_are_removed_and_those_of_living_ones_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dockerd: subprocess.Popen[bytes]
) -> None:
    living, reused, dead = tmp_path / "living", tmp_path / "reused", tmp_path / "dead"
    living.write_text(str(dockerd.pid))
    reused.write_text(str(dockerd.pid))
    dead.write_text("4194999")
    monkeypatch.setattr(engine, "LEFT_OVERS", {living: "sleep", reused: "dockerd", dead: "dockerd"})
    engine._remove_left_overs()
    assert [path.exists() for path in (living, reused, dead)] == [True, False, False]
