"""Pulls from a real registry on this machine."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import urllib3

from agent.protocol import AttemptProgress, Prefetch
from tests.agent.harness import AgentProcess, wait_for
from tests.parts import free_port

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = shutil.which("docker-registry") or shutil.which("registry")
    if binary is None:
        pytest.skip("NO docker-registry IS INSTALLED, so the pulls are not tested here")
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    config = Path(folder / "config.yml")
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    process = subprocess.Popen([binary, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    http = urllib3.PoolManager(retries=False)

    def answers() -> bool:
        try:
            return http.request("GET", f"http://127.0.0.1:{port}/v2/").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    wait_for(answers, what="the registry's answer")
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def remote_image(registry: str, docker_client: docker.DockerClient, test_image: str) -> Iterator[str]:
    """An image that is in the registry and not on this machine."""
    name = f"{registry}/tools/busybox:1"
    docker_client.images.get(test_image).tag(name)
    docker_client.images.push(name)
    docker_client.images.remove(name)
    yield name
    with contextlib.suppress(docker.errors.ImageNotFound):
        docker_client.images.remove(name, force=True)


def test_a_missing_image_is_pulled_once_for_all_who_wait(agent: AgentProcess, remote_image: str) -> None:
    starts = [agent.run(remote_image, ["echo", "hello"], cpu_millicores=100) for _ in range(4)]
    for start in starts:
        assert agent.finished(start).reason == "completed"
        assert agent.texts(start) == ["hello"]
    assert agent.events(AttemptProgress)[0].detail == f"pulling {remote_image}"


def test_an_image_that_the_registry_lacks_is_not_found(agent: AgentProcess, registry: str, remote_image: str) -> None:
    for name in (f"{registry}/tools/busybox:2", f"{registry}/nobody/nothing:1"):
        finished = agent.finished(agent.run(name, ["true"]))
        assert finished.reason == "image_not_found"
        assert name in finished.message


def test_an_attempt_that_waits_for_a_pull_can_be_stopped(agent: AgentProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = agent.run(f"127.0.0.1:{silent.getsockname()[1]}/silent:1", ["true"])
        wait_for(lambda: agent.events(AttemptProgress, start))
        agent.stop(start)
        assert agent.finished(start, seconds=3).reason == "stopped"


def test_an_image_is_fetched_before_a_job_needs_it(
    agent: AgentProcess, remote_image: str, docker_client: docker.DockerClient
) -> None:
    agent.seq += 1
    agent.send(Prefetch(seq=agent.seq, image=remote_image))
    wait_for(lambda: f"Prefetched {remote_image}" in agent.log)
    assert docker_client.images.get(remote_image)
