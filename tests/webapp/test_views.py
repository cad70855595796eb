"""The dashboard, the login and the error pages."""

from datetime import timedelta

import pytest
import redis
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from jobs.lifecycle import State
from jobs.models import Job, new_job_id
from tests.rows import GB, make_executor, make_job
from webapp.moments import oldest_job_id
from webapp.views import queue_by_state


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def text_of(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def test_an_empty_dashboard_says_how_to_begin(client: Client) -> None:
    page = text_of(client, "/")
    assert "python -m agent" in page
    assert "curl http://" in page
    assert "/jobs/new/" in page


def test_the_dashboard_adds_up_what_the_executors_have_and_what_is_allocated(client: Client) -> None:
    first, _ = make_executor("a"), make_executor("b", cpu_millicores=2000, memory_bytes=8 * GB)
    make_executor("gone", state="LOST", problem="No heartbeat.")
    make_job(State.RUNNING, first, cpu_cores=2.5, memory_gb=4)
    page = text_of(client, "/")
    assert "<strong>2.5</strong> of 10 cores allocated" in page
    assert "<strong>4 GB</strong> of 24 GB allocated" in page


def test_what_ails_stands_on_top(client: Client) -> None:
    make_executor("gone", state="LOST", problem="No heartbeat for 94 s.")
    page = text_of(client, "/")
    assert page.index("No heartbeat for 94 s.") < page.index("cores allocated")


def test_the_queue_counts_what_is_under_way_and_what_ended_in_the_last_day(db: None) -> None:
    now = timezone.now()
    make_job()
    make_job(State.FAILED, make_executor())
    old = oldest_job_id(now - timedelta(hours=25))
    Job.objects.create(id=old, image="a", submitted_at=now, state=State.FAILED, cpu_millicores=1, memory_bytes=1)
    older = oldest_job_id(now - timedelta(hours=26))
    Job.objects.create(id=older, image="a", submitted_at=now, cpu_millicores=1, memory_bytes=1)
    counts = {state: count for state, count, _ in queue_by_state()}
    assert counts == {"PENDING": 2, "STARTING": 0, "RUNNING": 0, "SUCCEEDED": 0, "FAILED": 1, "ABORTED": 0}


def test_the_least_id_of_a_moment_lies_between_the_ids_of_before_and_after() -> None:
    before = new_job_id()
    assert oldest_job_id(timezone.now() - timedelta(seconds=1)) < before
    assert oldest_job_id(timezone.now() + timedelta(seconds=1)) > new_job_id()


def test_the_dashboard_costs_the_same_queries_however_much_it_shows(
    client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(30):
        make_job(State.RUNNING, make_executor(f"node-{number}"))
    text_of(client, "/")
    with django_assert_max_num_queries(12):
        text_of(client, "/")


def test_a_person_logs_in_and_comes_to_the_page_that_was_asked_for(db: None, redis_client: redis.Redis) -> None:
    User.objects.create_user("ada", password="correct horse")
    client = Client(headers={"host": "localhost"})
    page = client.get("/login/?next=/jobs/").content.decode()
    assert "Password" in page
    assert "/jobs/new/" not in page
    wrong = client.post("/login/?next=/jobs/", {"username": "ada", "password": "x"})
    assert "correct username and password" in wrong.content.decode()
    right = client.post("/login/?next=/jobs/", {"username": "ada", "password": "correct horse", "next": "/jobs/"})
    assert (right.status_code, right["Location"]) == (302, "/jobs/")
    assert "Log out" in text_of(client, "/jobs/")


def test_an_unknown_address_is_answered_with_a_page(client: Client) -> None:
    response = client.get("/nothing/here/")
    assert response.status_code == 404
    assert "There is nothing at this address" in response.content.decode()
