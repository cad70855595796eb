"""Agents for the tests of this package."""

from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
import redis

from tests.agent.harness import AgentProcess


@pytest.fixture
def make_agent(
    tmp_path: Path, redis_server: str, redis_client: redis.Redis, docker_client: docker.DockerClient
) -> Iterator[Callable[..., AgentProcess]]:
    """Starts agents (each keyword is an environment variable) and leaves nothing of them."""
    agents: list[AgentProcess] = []

    def make(**environment: str) -> AgentProcess:
        agent = AgentProcess(tmp_path / f"agent{len(agents)}", redis_server, redis_client, **environment)
        agents.append(agent)
        return agent.start()

    yield make
    for agent in agents:
        agent.clean_up(docker_client)


@pytest.fixture
def agent(make_agent: Callable[..., AgentProcess]) -> AgentProcess:
    return make_agent()
