"""A Docker Engine that keeps its connections open and does not answer, or answers on new ones only."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.agent.harness import AgentProcess, wait_for
from tests.proxy import Proxy

pytestmark = pytest.mark.docker
MakeAgent = Callable[..., AgentProcess]
SOCKET = "/var/run/docker.sock"
SLOWLY = "for i in $(seq 60); do echo line $i; sleep 0.05; done; printf rest"
LINES = [*(f"line {number}" for number in range(1, 61)), "rest"]


@pytest.fixture
def engine(docker_client: docker.DockerClient) -> Iterator[Proxy]:
    """What stands between the agents and the engine."""
    if not Path(SOCKET).is_socket():
        pytest.skip(f"THE ENGINE DOES NOT LISTEN ON {SOCKET}, so a hanging one is not tested here")
    with Proxy(SOCKET) as proxy:
        yield proxy


@pytest.fixture
def agent(make_agent: MakeAgent, engine: Proxy) -> AgentProcess:
    return make_agent(DOCKER_HOST=f"tcp://127.0.0.1:{engine.port}")


def problem(agent: AgentProcess) -> str:
    beat = agent.last_heartbeat()
    return beat.problem if beat else ""


def test_an_engine_that_hangs_is_a_problem_until_it_answers_and_a_stop_waits_for_it(
    agent: AgentProcess, engine: Proxy, test_image: str, docker_client: docker.DockerClient
) -> None:
    goes_on = agent.run(test_image, ["sh", "-c", SLOWLY])
    stopped = agent.run(test_image, ["sleep", "100"])
    agent.running(goes_on)
    agent.running(stopped)
    engine.hang()
    wait_for(lambda: problem(agent) == "Docker does not answer within 10 s.", 15)
    agent.stop(stopped)
    late = agent.run(test_image, ["echo", "late"])
    assert agent.last_heartbeat(), "it goes on telling"
    engine.heal()
    wait_for(lambda: problem(agent) == "", 15)
    assert agent.finished(goes_on).reason == "completed"
    assert agent.texts(goes_on) == LINES
    assert agent.finished(stopped).reason == "stopped"
    assert agent.finished(late).reason == "completed"
    wait_for(lambda: agent.cleared(docker_client))
    assert "Traceback" not in agent.log


def test_output_whose_connection_leads_nowhere_is_read_from_dockers_copy(
    agent: AgentProcess, engine: Proxy, test_image: str, docker_client: docker.DockerClient
) -> None:
    start = agent.run(test_image, ["sh", "-c", SLOWLY])
    wait_for(lambda: len(agent.texts(start)) > 5)
    engine.lose()
    assert agent.finished(start, 60).reason == "completed"
    assert agent.texts(start) == LINES
    assert agent.log_meta(start)["complete"] == "1"
    assert agent.finished(agent.run(test_image, ["true"]), 60).reason == "completed"


def test_an_agent_ends_when_told_to_while_docker_hangs(agent: AgentProcess, engine: Proxy, test_image: str) -> None:
    agent.running(agent.run(test_image, ["sleep", "100"]))
    engine.hang()
    wait_for(lambda: problem(agent), 15)
    begin = time.monotonic()
    assert agent.terminate() == 0
    assert time.monotonic() - begin < 10
