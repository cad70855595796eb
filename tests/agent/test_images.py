"""Pulls from a real registry on this machine."""

import base64
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from agent.protocol import AttemptFinished, AttemptProgress, Prefetch
from tests.agent.harness import AgentProcess, wait_for
from tests.parts import free_port, start_registry

pytestmark = pytest.mark.docker


USER, PASSWORD = "tester", "open-sesame"
PASSWORD_HASH = "$2b$04$jWo4oC.CpHZl9NF89nbC0ejTU8Nmw/GlH5188kAZmgsdqXjxChgrG"


@contextlib.contextmanager
def serving(folder: Path, more: str = "") -> Iterator[str]:
    """A registry of our own, at the address yielded, with `more` in its configuration."""
    port = free_port()
    process = start_registry(folder, port, more)
    if process is None:
        pytest.skip("NO docker-registry IS INSTALLED, so the pulls are not tested here")
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def locked_image(tmp_path: Path, docker_client: docker.DockerClient, test_image: str) -> Iterator[str]:
    """An image in a registry that wants a login."""
    (tmp_path / "htpasswd").write_text(f"{USER}:{PASSWORD_HASH}\n")
    with serving(tmp_path, f"auth: {{htpasswd: {{realm: tests, path: {tmp_path}/htpasswd}}}}\n") as address:
        name = f"{address}/tools/locked:1"
        docker_client.images.get(test_image).tag(name)
        docker_client.images.push(name, auth_config={"username": USER, "password": PASSWORD})
        docker_client.images.remove(name)
        yield name
        with contextlib.suppress(docker.errors.ImageNotFound):
            docker_client.images.remove(name, force=True)


def write_login(folder: Path, image: str, password: str = PASSWORD) -> Path:
    """A config.json as `docker login` writes it."""
    folder.mkdir(exist_ok=True)
    login = base64.b64encode(f"{USER}:{password}".encode()).decode()
    file = folder / "config.json"
    file.write_text(json.dumps({"auths": {image.split("/")[0]: {"auth": login}}}))
    return file


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
    command = ["sh", "-c", "echo hello; sleep 0.5"]
    starts = [agent.run(remote_image, command, cpu_millicores=100) for _ in range(4)]
    for start in starts:
        assert agent.finished(start).reason == "completed"
        assert agent.texts(start) == ["hello"]
    assert agent.events(AttemptProgress)[0].detail == f"pulling {remote_image}"
    told = agent.events(AttemptProgress, starts[0])[-1]
    assert (told.detail, told.layers) == ("making the container", [])
    running = agent.running(starts[0])
    moments = [running.accepted_at, running.pulled_at, running.created_at, running.started_at]
    assert moments == sorted(moments, key=str) and told.pulled_at == running.pulled_at
    assert running.settings["HostConfig"]["PidsLimit"] > 0 and running.settings["Image"].startswith("sha256:")


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


# --- Registries that say nothing -------------------------------------------------------------------------------


def test_a_registry_that_never_answers_fails_the_pull_and_holds_up_nobody(
    make_agent: Callable[..., AgentProcess], test_image: str, remote_image: str
) -> None:
    agent = make_agent(AGENT_PULL_TIMEOUT="4", AGENT_START_CONCURRENCY="1")
    with contextlib.ExitStack() as silent:
        sockets = [silent.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        hanging = [
            agent.run(f"127.0.0.1:{server.getsockname()[1]}/silent:1", ["true"], cpu_millicores=100)
            for server in sockets
        ]
        for start in hanging:
            wait_for(lambda start=start: agent.events(AttemptProgress, start))
        others = [agent.run(image, ["true"]) for image in (test_image, remote_image)]
        assert [agent.finished(start).reason for start in others] == ["completed", "completed"]
        for start in hanging:
            finished = agent.finished(start)
            assert finished.reason == "image_pull_failed"
            assert finished.message == f"{start.image} could not be pulled: nothing was heard for 4 s."
    order = [event.job_id for event in agent.events(AttemptFinished)]
    assert order[:2] == [start.job_id for start in others]
    assert "Traceback" not in agent.log


# --- Registries that want a login ------------------------------------------------------------------------------


def test_an_image_behind_a_login_is_refused_in_words(
    make_agent: Callable[..., AgentProcess], locked_image: str, tmp_path: Path
) -> None:
    agent = make_agent(DOCKER_CONFIG=str(tmp_path / "nothing"))
    finished = agent.finished(agent.run(locked_image, ["true"]))
    assert finished.reason == "image_access_denied"
    assert locked_image in finished.message and "no basic auth credentials" in finished.message


def test_a_wrong_password_is_refused_in_words(
    make_agent: Callable[..., AgentProcess], locked_image: str, tmp_path: Path
) -> None:
    agent = make_agent(AGENT_REGISTRY_AUTH_FILE=str(write_login(tmp_path / "wrong", locked_image, "wrong")))
    assert agent.finished(agent.run(locked_image, ["true"])).reason == "image_access_denied"


def test_the_login_that_docker_keeps_for_its_user_is_used(
    make_agent: Callable[..., AgentProcess], locked_image: str, tmp_path: Path
) -> None:
    write_login(tmp_path / "docker", locked_image)
    agent = make_agent(DOCKER_CONFIG=str(tmp_path / "docker"))
    assert agent.finished(agent.run(locked_image, ["true"])).reason == "completed"


def test_a_login_given_to_the_agent_is_used_and_read_anew_for_each_pull(
    make_agent: Callable[..., AgentProcess], locked_image: str, tmp_path: Path
) -> None:
    file = tmp_path / "logins.json"
    file.write_text("{}")
    agent = make_agent(AGENT_REGISTRY_AUTH_FILE=str(file), DOCKER_CONFIG=str(tmp_path / "nothing"))
    assert agent.finished(agent.run(locked_image, ["true"])).reason == "image_access_denied"
    write_login(tmp_path / "logins", locked_image).rename(file)
    agent.seq += 1
    agent.send(Prefetch(seq=agent.seq, image=locked_image))
    wait_for(lambda: f"Prefetched {locked_image}" in agent.log)
    assert agent.finished(agent.run(locked_image, ["true"])).reason == "completed"
