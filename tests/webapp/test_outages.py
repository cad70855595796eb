"""What people see while Redis or the database is away."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest
from django.test import Client
from pytest_django import Settings

from executors import broker
from jobs.lifecycle import State
from jobs.models import Job
from jobs.services import NOT_TOLD
from tests.cluster import Cluster
from tests.parts import free_port, start_redis
from tests.rows import make_executor, make_job

BANNER = '<div class="connection" role="status" data-redis-away>'
NO_LOG = '<p class="notice" data-level="warning" data-redis-away>'
PAGES = ["/", "/jobs/", "/jobs/new/", "/executors/"]


@pytest.fixture
def redis_away(settings: Settings, tmp_path: Path) -> str:
    """A Redis that answered and was stopped."""
    port = free_port()
    process = start_redis(tmp_path, port)
    settings.REDIS_URL = f"redis://127.0.0.1:{port}/0"
    assert not broker.is_away()
    process.kill()
    process.wait()
    time.sleep(broker.AWAY_CHECKED_SECONDS)
    return settings.REDIS_URL


@pytest.fixture
def redis_hangs(settings: Settings) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        yield


# --- Redis -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", PAGES)
def test_without_redis_every_page_is_shown_with_a_banner(local_client: Client, redis_away: str, address: str) -> None:
    make_job(State.RUNNING, make_executor())
    response = local_client.get(address)
    assert response.status_code == 200
    assert BANNER in response.content.decode()


def test_without_redis_job_and_executor_have_their_page_and_the_log_says_why_it_is_not_there(
    local_client: Client, redis_away: str
) -> None:
    node = make_executor()
    job = make_job(State.RUNNING, node)
    page = local_client.get(job.get_absolute_url()).content.decode()
    assert BANNER in page and NO_LOG in page and "cannot be read while Redis is away" in page
    executor = local_client.get(node.get_absolute_url())
    assert executor.status_code == 200 and BANNER in executor.content.decode()


def test_with_redis_there_is_no_banner(local_client: Client, redis_client: object) -> None:
    page = local_client.get(make_job(State.RUNNING, make_executor()).get_absolute_url()).content.decode()
    assert BANNER not in page and NO_LOG not in page


def test_without_redis_a_job_is_accepted_from_the_form_and_it_is_said_what_becomes_of_it(
    local_client: Client, redis_away: str
) -> None:
    form = {"docker_image": "alpine", "cpu_cores": "1", "memory_gb": "1"}
    response = local_client.post("/jobs/new/", form, follow=True)
    job = Job.objects.get()
    assert job.state == State.PENDING
    assert response.redirect_chain == [(job.get_absolute_url(), 302)]
    page = response.content.decode()
    assert NOT_TOLD in page and "PENDING" in page


def test_without_redis_a_job_is_accepted_by_the_api_and_shown_and_aborted(
    local_client: Client, redis_away: str
) -> None:
    make_executor()
    response = local_client.post("/jobs", {"docker_image": "alpine"}, content_type="application/json")
    assert response.status_code == 201
    body = response.json()
    assert (body["status"], body["warning"]) == ("PENDING", NOT_TOLD)
    shown = local_client.get(f"/jobs/{body['job_id']}").json()
    assert (shown["status"], shown["logs"]) == ("PENDING", None)
    logs = local_client.get(f"/api/v1/jobs/{body['job_id']}/logs")
    assert logs.status_code == 503 and "Redis" in logs.json()["error"]["message"]
    aborted = local_client.post(f"/api/v1/jobs/{body['job_id']}/abort")
    assert aborted.json()["status"] == "ABORTED"


@pytest.mark.usefixtures("redis_hangs")
def test_a_redis_that_hangs_is_waited_for_shortly_and_once_for_all_pages(local_client: Client) -> None:
    begin = time.monotonic()
    assert BANNER in local_client.get("/jobs/").content.decode()
    assert time.monotonic() - begin < 3
    begin = time.monotonic()
    assert all(broker.is_away() for _ in range(20))
    assert time.monotonic() - begin < 2


# --- The database ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_database(tmp_path: Path, docker_client: docker.DockerClient) -> Iterator[Cluster]:
    """A web server whose PostgreSQL does not answer."""
    with Cluster(tmp_path, "none", docker_client) as cluster:
        cluster.env["DATABASE_URL"] = f"postgres://u:p@127.0.0.1:{free_port()}/none"
        cluster.start_web()
        yield cluster


def test_without_a_database_pages_and_api_say_so_with_503(no_database: Cluster) -> None:
    cluster = no_database
    for address in (*PAGES, "/nowhere/", "/login/"):
        page = httpx.get(cluster.url + address, headers={"Accept": "text/html"})
        assert page.status_code == 503, address
        assert "The database does not answer" in page.text
        assert page.headers["Retry-After"] == "5"
    for answer in (cluster.api.get("/jobs"), cluster.api.post("/jobs", json={"docker_image": "a"})):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "database_unavailable"
    health = cluster.api.get("/health")
    assert health.status_code == 503
    assert health.json()["database"]["status"] == "down"
    assert health.json()["redis"]["status"] == "ok"
    assert cluster.api.get("/static/css/app.css").status_code == 200
    output = cluster.output("web")
    assert "Traceback" not in output and "connection refused" in output.lower()
