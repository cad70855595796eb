"""What the browser's tests share, one of each a module: a browser, a whole cluster, a web server alone."""

from collections.abc import Iterator

import docker
import pytest
from playwright.sync_api import Browser

from tests.cluster import Cluster
from tests.e2e.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def whole_cluster(
    tmp_path_factory: pytest.TempPathFactory, test_image: str, docker_client: docker.DockerClient
) -> Iterator[Cluster]:
    """Web, a scheduler and an agent, which makes no network of its own accord: Chromium drops what it is loading when
    one comes or goes."""
    with Cluster(tmp_path_factory.mktemp("cluster"), test_image, docker_client) as cluster:
        cluster.start_web()
        cluster.start_scheduler()
        cluster.start_agent(AGENT_SANDBOX_POOL="0")
        yield cluster


@pytest.fixture(scope="module")
def web_alone(
    tmp_path_factory: pytest.TempPathFactory, test_image: str, docker_client: docker.DockerClient
) -> Iterator[Cluster]:
    """Web and Redis: what is submitted waits."""
    with Cluster(tmp_path_factory.mktemp("cluster"), test_image, docker_client) as cluster:
        cluster.start_web()
        yield cluster
