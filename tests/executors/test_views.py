"""The executor pages."""

import json
import time

import pytest
import redis
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from executors.broker import keys
from executors.usage import GpuUsage, latest_usage
from jobs.lifecycle import State
from tests.rows import GB, make_executor, make_job

GPUS = [{"index": index, "uuid": f"GPU-{index}", "model": "NVIDIA L4", "memory_bytes": 24 * GB} for index in (0, 1)]


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def text_of(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def sample(client: redis.Redis, executor_id: str, age: float = 0, **fields: object) -> None:
    body = {"t": time.time() - age, "cpu_percent": 50.0, "memory_bytes": 4 * GB, "gpus": "[]", "held": 0, **fields}
    client.xadd(keys().samples(executor_id), body)


def test_with_no_executor_the_list_says_how_to_start_one(client: Client) -> None:
    assert "python -m agent" in text_of(client, "/executors/")


def test_the_list_shows_what_is_allocated_of_what_may_be(client: Client) -> None:
    node = make_executor(reserve_cpu_millicores=500, reserve_memory_bytes=GB, gpus=GPUS)
    make_job(State.RUNNING, node, cpu_cores=1.5, memory_gb=4, gpu_type="any")
    make_job(State.SUCCEEDED, node, cpu_cores=8)
    page = text_of(client, "/executors/")
    assert "1.5 / 7.5" in page
    assert "4 GB / 15 GB" in page
    assert "1 / 2" in page


def test_the_list_costs_the_same_queries_however_many_executors_it_shows(
    client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(50):
        make_job(State.RUNNING, make_executor(f"node-{number}"))
    text_of(client, "/executors/")
    with django_assert_max_num_queries(3):
        text_of(client, "/executors/")


def test_the_page_shows_state_problem_versions_labels_and_what_runs(client: Client, redis_client: redis.Redis) -> None:
    node = make_executor(
        state="UNHEALTHY",
        problem="The Docker Engine does not answer.",
        labels={"zone": "a"},
        docker_version="27.3.1",
        agent_version="0.1.0",
        gpus=GPUS,
        schedulable=False,
    )
    make_job(State.RUNNING, node, name="runs", gpu_type="any", gpu_count=1)
    make_job(State.FAILED, node, name="ended")
    sample(redis_client, node.id, gpus=json.dumps([{"index": 0, "percent": 87.0, "memory_bytes": 3 * GB}]))
    page = text_of(client, "/executors/node-1/")
    for words in ("Unhealthy", "The Docker Engine does not answer.", "zone=a", "27.3.1", "0.1.0", "runs", "ended",
                  "Closed to new jobs", "87 %", "3 GB / 24 GB", "4 GB in use", "50 % of the node in use"):  # fmt: skip
        assert words in page, words


def test_an_unknown_executor_is_answered_with_a_page_that_says_so(client: Client) -> None:
    response = client.get("/executors/nobody/")
    assert response.status_code == 404
    assert "There is no executor nobody" in response.content.decode()


def test_use_is_read_from_the_newest_fresh_sample(redis_client: redis.Redis, db: None) -> None:
    fresh, stale, broken, silent = (make_executor(name) for name in ("fresh", "stale", "broken", "silent"))
    sample(redis_client, "fresh", cpu_percent=10.0)
    sample(redis_client, "fresh", gpus=json.dumps([{"index": 3, "percent": None, "memory_bytes": 5}]))
    sample(redis_client, "stale", age=3600)
    redis_client.xadd(keys().samples("broken"), {"t": "soon"})
    usage = latest_usage([fresh, stale, broken, silent])
    assert list(usage) == ["fresh"]
    assert (usage["fresh"].cpu_millicores, usage["fresh"].memory_bytes) == (4000, 4 * GB)
    assert usage["fresh"].gpus == {3: GpuUsage(None, 5)}
