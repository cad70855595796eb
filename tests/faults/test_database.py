"""PostgreSQL goes away, or hangs, while everything runs: nothing is lost, and everybody is told."""

import time
from collections.abc import Callable, Iterator

import docker
import pytest

from script.private_postgresql import find_programs, private_postgresql
from tests.cluster import wait_for
from tests.faults.system import System, running_system
from tests.proxy import Proxy

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[Proxy, str]]:
    """What stands between everybody and the database, and the database's URL through it."""
    if find_programs() is None:
        pytest.skip("NO POSTGRESQL IS INSTALLED, so its going away is not tested here")
    with private_postgresql() as server, Proxy(server.port) as proxy:
        yield proxy, server.url.replace(str(server.port), str(proxy.port))


@pytest.fixture(scope="module")
def shared_system(
    network: tuple[Proxy, str],
    tmp_path_factory: pytest.TempPathFactory,
    test_image: str,
    docker_client: docker.DockerClient,
) -> Iterator[System]:
    """As in conftest, on PostgreSQL."""
    settings = {"HEARTBEAT_INTERVAL": "2", "DATABASE_URL": network[1]}
    with running_system(tmp_path_factory.mktemp("system"), test_image, docker_client, **settings) as system:
        yield system


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.hang], ids=["cut off", "hanging"])
def test_1_4_5_a_job_outlives_a_database_that_is(
    system: System, network: tuple[Proxy, str], fault: Callable[[Proxy], None]
) -> None:
    cluster, proxy = system.cluster, network[0]
    job_id = system.submit_numbered(20, pause=0.05)
    system.printed(job_id, 6)
    fault(proxy)
    try:
        begin = time.monotonic()
        health = cluster.api.get("/health")
        assert time.monotonic() - begin < 8
        assert (health.status_code, health.json()["database"]["status"]) == (503, "down")
        assert health.json()["redis"]["status"] == "ok"
        for address in ("/", f"/jobs/{job_id}/"):
            page = cluster.api.get(address, headers={"Accept": "text/html"})
            assert page.status_code == 503 and "The database does not answer" in page.text, address
        refused = cluster.api.post("/jobs", json={"docker_image": "alpine"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
        wait_for("the job's last line", lambda: len(cluster.log(job_id)) == 40)
        wait_for("its end to be waiting", lambda: b"attempt_finished" in _events(system))
        assert "Traceback" not in cluster.output("scheduler") + cluster.output("web")
    finally:
        proxy.heal()
    wait_for("health", lambda: cluster.api.get("/health").status_code == 200)
    system.ends_exactly(job_id)
    wait_for("the events to be acknowledged", lambda: b"attempt_finished" not in _events(system))
    system.ends_exactly(system.submit_numbered(3), 3)


def _events(system: System) -> bytes:
    """All that waits for the scheduler."""
    return repr(system.cluster.redis.xrange(system.cluster.keys.events)).encode()
