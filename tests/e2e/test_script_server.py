"""script/server as a person runs it, but for the virtual environment, which the tests have already."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import psutil
import pytest

from agent.containers import LABEL_EXECUTOR
from script.private_redis import free_port
from tests.cluster import ROOT, wait_for

pytestmark = pytest.mark.docker


class Server:
    """A run of script/server in folders of its own, its console kept in a file."""

    def __init__(self, directory: Path, **env: str) -> None:
        self.console = directory / "console"
        self.port = free_port()
        inherited = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "REDIS_HOST")}
        own = {
            "VAR_DIR": str(directory / "var"),
            "LOG_DIR": str(directory),
            "SCHEDULER_API_PORT": str(self.port),
            "AGENT_NAME": directory.name,
        }
        self.env = {**inherited, **own, **env}
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=self.env, check=True)
        with self.console.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "script.server"], cwd=ROOT, env=self.env, stdout=output, stderr=output
            )

    def text(self) -> str:
        return self.console.read_text()

    def wait_for_text(self, text: str) -> None:
        wait_for(f"{text!r} on the console", lambda: text in self.text() or self.process.poll() is not None, 90)
        assert text in self.text(), self.text()


@pytest.fixture
def server(tmp_path: Path, docker_client: docker.DockerClient) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.process.kill()
    server.process.wait()
    # An agent ended so soon after a job leaves its container for the next one, and here none comes.
    for identity in (tmp_path / "var").rglob("executor_id"):
        label = {"label": f"{LABEL_EXECUTOR}={identity.read_text()}"}
        for container in docker_client.containers.list(all=True, filters=label, ignore_removed=True):
            container.remove(force=True)


def test_it_runs_a_sample_job_serves_and_leaves_nothing_behind(server: Server) -> None:
    server.wait_for_text("Stop      Ctrl-C")
    console = server.text()
    for line in ("Hello from inside a container", "step 1 of 3", "step 3 of 3", "The sample job is SUCCEEDED"):
        assert line in console
    assert f"http://127.0.0.1:{server.port}/" in console
    assert " ERROR " not in console
    assert httpx.get(f"http://127.0.0.1:{server.port}/stats").json()["jobs"]["SUCCEEDED"] == 1

    started = psutil.Process(server.process.pid).children(recursive=True)
    assert {"redis-server", "valkey-server"} & {process.name() for process in started}
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0
    assert [process for process in started if process.is_running()] == []


def test_a_second_one_in_the_same_folder_is_refused_and_disturbs_nothing(server: Server, tmp_path: Path) -> None:
    server.wait_for_text("Stop      Ctrl-C")
    second = subprocess.run(
        [sys.executable, "-m", "script.server"], cwd=ROOT, env=server.env, capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 1
    assert "already runs" in second.stderr
    assert "Traceback" not in second.stderr
    assert httpx.get(f"http://127.0.0.1:{server.port}/health").status_code == 200


def test_a_port_in_use_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = Server(tmp_path, SCHEDULER_API_PORT=str(other.getsockname()[1]))
        assert server.process.wait(30) == 1
    assert "Choose another port: SCHEDULER_API_PORT=" in server.text()
    assert "Traceback" not in server.text()


def test_it_refuses_to_be_open_without_a_login_on_a_network_address(tmp_path: Path) -> None:
    server = Server(tmp_path, SCHEDULER_API_HOST="0.0.0.0", OPEN_TO_LOCAL_USER="1")  # noqa: S104
    assert server.process.wait(30) == 1
    assert "SCHEDULER_API_HOST=0.0.0.0 is not a loopback address" in server.text()
