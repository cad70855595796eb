"""Executors over REST."""

import pytest
import redis
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from executors.models import Executor
from jobs.models import Attempt, Job

GB = 1024**3
GPU = {"index": 0, "uuid": "GPU-1", "model": "NVIDIA A100", "memory_bytes": 80 * GB}


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


@pytest.fixture
def executor(db: None) -> Executor:
    return Executor.objects.create(
        id="node-1",
        name="node-a",
        address="10.0.0.7",
        cpu_millicores=8000,
        memory_bytes=16 * GB,
        reserve_cpu_millicores=500,
        reserve_memory_bytes=GB,
        gpus=[GPU],
        labels={"zone": "a"},
        last_heartbeat_at=timezone.now(),
    )


def occupy(executor: Executor, ended: bool = False, **needs: int) -> None:
    now = timezone.now()
    job = Job.objects.create(image="alpine", submitted_at=now, **needs)
    state = {"state": "SUCCEEDED", "finished_at": now} if ended else {}
    Attempt.objects.create(
        job=job, number=1, executor=executor, executor_name=executor.name, placed_at=now, start_command=1, **state
    )


def test_an_executor_shows_what_it_has_what_is_held_and_what_is_free(client: Client, executor: Executor) -> None:
    occupy(executor, cpu_millicores=1500, memory_bytes=4 * GB, gpu_count=1)
    occupy(executor, cpu_millicores=1000, memory_bytes=GB)
    occupy(executor, ended=True, cpu_millicores=4000, memory_bytes=8 * GB)
    (answer,) = client.get("/executors").json()["executors"]
    assert answer["capacity"] == {"cpu_cores": 7.5, "memory_gb": 15, "gpus": 1}
    assert answer["allocated"] == {"cpu_cores": 2.5, "memory_gb": 5, "gpus": 1}
    assert answer["free"] == {"cpu_cores": 5, "memory_gb": 10, "gpus": 0}
    assert answer["reserved"] == {"cpu_cores": 0.5, "memory_gb": 1, "gpus": 0}
    assert answer["running_jobs"] == 2
    assert answer["gpus"] == [{"index": 0, "uuid": "GPU-1", "model": "NVIDIA A100", "memory_gb": 80}]
    assert (answer["executor_id"], answer["name"], answer["state"]) == ("node-1", "node-a", "ONLINE")


def test_one_executor_is_looked_at_by_its_id(client: Client, executor: Executor) -> None:
    answer = client.get("/api/v1/executors/node-1").json()
    assert (answer["address"], answer["labels"], answer["schedulable"]) == ("10.0.0.7", {"zone": "a"}, True)


@pytest.mark.parametrize("executor_id", ["nowhere", "%00", "é"])
def test_an_executor_that_does_not_exist_is_not_found(client: Client, executor_id: str) -> None:
    response = client.get(f"/api/v1/executors/{executor_id}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "executor_not_found")


def test_without_executors_the_list_is_empty(client: Client) -> None:
    assert client.get("/executors").json() == {"executors": []}


def test_the_list_takes_as_many_queries_however_many_executors_there_are(
    client: Client, executor: Executor, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(10):
        Executor.objects.create(
            id=f"n{number}", name=f"n{number}", cpu_millicores=1, memory_bytes=1, last_heartbeat_at=timezone.now()
        )
    client.get("/executors")
    with django_assert_num_queries(2):
        assert len(client.get("/executors").json()["executors"]) == 11
