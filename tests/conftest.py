"""Real parts for the tests: a private Redis, the Docker Engine, an image made from a static busybox."""

from collections.abc import Iterator

import docker
import pytest
import redis
from django.db import DEFAULT_DB_ALIAS, close_old_connections, connections
from django.test import Client
from pytest_django import Settings

from executors import broker, lately
from script.sample_image import import_busybox
from tests.cluster import cluster, empty_cluster
from tests.parts import free_port, start_redis

__all__ = ["cluster", "empty_cluster"]

TEST_IMAGE = "workload-runner-test:latest"


@pytest.fixture(autouse=True)
def nothing_seen_lately() -> None:
    """Each test has a database of its own; what a process keeps for a moment is of the last one's."""
    lately.forget_all()


@pytest.fixture(autouse=True)
def no_connection_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database with a connection to it, in whatever thread, cannot be removed at the end. Channels' communicators,
    ten of them at once, leave their stand-in for what closes connections behind, which is taken back here."""
    monkeypatch.setitem(connections.settings[DEFAULT_DB_ALIAS], "CONN_MAX_AGE", 0)
    monkeypatch.setattr("channels.db.close_old_connections", close_old_connections)


SLOW_LAST = ("e2e", "faults")
DATABASE = {"db", "transactional_db"}
"""Fixtures by which a test gets at the database."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs Docker or this process's database, and runs the quick tests first: what is wrong shows early."""

    def slowness(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return (
            SLOW_LAST.index(folder) + 2 if folder in SLOW_LAST else int(item.get_closest_marker("docker") is not None)
        )

    for item in items:
        if "docker_client" in getattr(item, "fixturenames", ()):
            item.add_marker("docker")
        if item.get_closest_marker("django_db") or DATABASE & set(getattr(item, "fixturenames", ())):
            item.add_marker("database")
    items.sort(key=slowness)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis that belongs to this test run alone."""
    port = free_port()
    process = start_redis(tmp_path_factory.mktemp("redis"), port)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait()


@pytest.fixture
def redis_client(redis_server: str, settings: Settings) -> redis.Redis:
    """An empty Redis that the server's code uses too (`executors.broker`)."""
    settings.REDIS_URL = redis_server
    client = broker.client()
    client.flushall()
    return client


@pytest.fixture
def local_client(db: None, settings: Settings) -> Client:
    """A client of pages and API on this machine, acting as the local superuser; what crashes is answered with 500."""
    settings.OPEN_TO_LOCAL_USER = True
    return Client(headers={"host": "localhost"}, raise_request_exception=False)


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The real engine. Tests that need it are skipped by name where none answers."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"NO DOCKER ENGINE ANSWERS, so this test proves nothing here: {error}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def test_image(docker_client: docker.DockerClient) -> str:
    """The name of a small image with a shell, made from Debian's static busybox: no registry is needed."""
    import_busybox(docker_client, TEST_IMAGE)
    return TEST_IMAGE
