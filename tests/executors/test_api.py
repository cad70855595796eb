"""Executors over REST."""

import json

import pytest
import redis
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from executors.api import ExecutorList
from executors.models import Executor
from jobs.lifecycle import State
from jobs.models import Attempt, Job
from tests.rows import make_job

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


def test_a_list_holds_of_each_what_the_schema_says_and_what_it_is_by_itself(client: Client, executor: Executor) -> None:
    occupy(executor, cpu_millicores=2000, memory_bytes=3 * GB, gpu_count=1)
    answer = client.get("/api/v1/executors")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert ExecutorList.model_validate_json(answer.content).model_dump_json() == answer.content.decode()
    assert answer.json()["executors"] == [client.get("/api/v1/executors/node-1").json()]


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
    with django_assert_num_queries(3):
        assert len(client.get("/executors").json()["executors"]) == 11


# --- What operators do -------------------------------------------------------------------------------------------


def test_an_operator_cordons_drains_and_resumes(client: Client, executor: Executor) -> None:
    answers = [client.post(f"/api/v1/executors/node-1/{action}") for action in ("cordon", "drain", "resume")]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.json()["duty"] for answer in answers] == ["CORDONED", "DRAINED", ""]
    assert [answer.json()["schedulable"] for answer in answers] == [False, False, True]
    assert [event.by for event in executor.events.filter(kind="cordoned")] == ["local"]


def test_labels_are_set_and_removed_one_by_one(client: Client, executor: Executor) -> None:
    def patch(changes: object) -> HttpResponse:
        return client.patch("/api/v1/executors/node-1/labels", json.dumps(changes), content_type="application/json")

    assert patch({"zone": "us", "rack": "7"}).json()["operator_labels"] == {"rack": "7", "zone": "us"}
    body = patch({"rack": None}).json()
    assert (body["operator_labels"], body["labels"]["zone"]) == ({"zone": "us"}, "us")
    refused = patch({"two words": "x"})
    assert refused.status_code == 422
    assert "two words" in refused.json()["error"]["fields"]
    assert patch({"zone": 5}).status_code == 422
    assert patch(["zone"]).status_code == 422


def test_an_executor_is_forgotten_only_while_nothing_runs_there(client: Client, executor: Executor) -> None:
    job = make_job(State.RUNNING, executor)
    refused = client.post("/api/v1/executors/node-1/forget")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "executor_in_use")
    job.delete()
    assert client.post("/api/v1/executors/node-1/forget").status_code == 204
    assert client.post("/api/v1/executors/node-1/forget").status_code == 404


def test_who_may_not_change_executors_is_refused(executor: Executor, redis_client: redis.Redis) -> None:
    User.objects.create_user("viewer", password="correct horse")
    client = Client(headers={"host": "localhost"})
    client.login(username="viewer", password="correct horse")
    for action in ("cordon", "drain", "resume", "forget"):
        answer = client.post(f"/api/v1/executors/node-1/{action}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert client.post(f"/executors/node-1/{action}/").status_code == 403
    executor.refresh_from_db()
    assert executor.schedulable
    assert "Drain" not in client.get("/executors/node-1/").content.decode()
