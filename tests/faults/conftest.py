"""One running system for all faults but the engine's own: each test harms it and must leave it whole."""

from collections.abc import Iterator

import docker
import pytest

from tests.cluster import Cluster
from tests.evidence import Witness
from tests.faults.system import System


@pytest.fixture(scope="session")
def shared_system(
    tmp_path_factory: pytest.TempPathFactory, test_image: str, docker_client: docker.DockerClient
) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("system")
    with (
        Cluster(directory, test_image, docker_client, ABORT_GRACE_SECONDS="1", LEASE_SECONDS="1.5") as cluster,
        Witness(docker_client, f"{cluster.tag}-") as witness,
    ):
        system = System(cluster, witness)
        system.start()
        yield system


@pytest.fixture
def system(shared_system: System) -> Iterator[System]:
    """Web, a scheduler and agent `a`, all well; what a test stopped is started again before the next one."""
    shared_system.start()
    yield shared_system
    shared_system.start()
