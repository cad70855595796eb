"""One running system for all faults but the engine's own and lost nodes: each test harms it and must leave it whole."""

from collections.abc import Iterator

import docker
import pytest

from tests.faults.system import System, running_system


@pytest.fixture(scope="session")
def shared_system(
    tmp_path_factory: pytest.TempPathFactory, test_image: str, docker_client: docker.DockerClient
) -> Iterator[System]:
    # Heartbeats so slow that an agent which is started again on a busy machine is back before it counts as lost.
    settings = {"HEARTBEAT_INTERVAL": "5", "LEASE_SECONDS": "1.5"}
    with running_system(tmp_path_factory.mktemp("system"), test_image, docker_client, **settings) as system:
        yield system


@pytest.fixture
def system(shared_system: System) -> Iterator[System]:
    """Web, a scheduler and agent `a`, all well; what a test stopped is started again before the next one."""
    shared_system.start()
    yield shared_system
    shared_system.start()
