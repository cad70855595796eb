"""Jobs over REST, as scripts see them."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import AsyncClient, Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from agent.protocol import FIELD, PassRequest, decode
from executors.broker import keys
from executors.models import Executor
from jobs import api, services
from jobs.lifecycle import State
from jobs.models import Attempt, Job, new_job_id
from jobs.schemas import JobList
from jobs.submission import GB, parse_submission
from tests.parts import free_port
from tests.rows import make_executor, make_job

SEED_BODY = {
    "docker_image": "alpine:latest",
    "command": ["echo", "hello"],
    "cpu_cores": 0.5,
    "memory_gb": 0.25,
    "gpu_type": None,
}


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def post(client: Client, body: object, path: str = "/jobs") -> Any:
    return client.post(path, body, content_type="application/json")


def submit(**fields: object) -> Job:
    return services.submit(parse_submission({"docker_image": "alpine", **fields}))


def add_executor(name: str = "node-a", **fields: object) -> Executor:
    capacity = {"cpu_millicores": 4000, "memory_bytes": 8 * GB, "last_heartbeat_at": timezone.now()}
    return Executor.objects.create(id=f"id-{name}", name=name, **{**capacity, **fields})


# --- Submitting ------------------------------------------------------------------------------------------------


def test_the_seeds_body_is_accepted_and_answered_with_the_job(client: Client) -> None:
    response = post(client, SEED_BODY)
    assert response.status_code == 201
    job = response.json()
    assert {name: job[name] for name in SEED_BODY} == SEED_BODY
    assert (job["status"], job["owner"], job["attempt"]) == ("PENDING", "local", 0)
    assert response["Location"] == f"/api/v1/jobs/{job['job_id']}"
    assert client.get(response["Location"]).json()["job_id"] == job["job_id"]


def test_a_command_given_as_a_line_is_answered_as_the_list_it_was_split_into(client: Client) -> None:
    assert post(client, {"docker_image": "alpine", "command": "sh -c 'echo hi'"}).json()["command"] == [
        "sh",
        "-c",
        "echo hi",
    ]


def test_curl_without_a_content_type_is_understood(client: Client) -> None:
    response = client.post("/jobs", json.dumps(SEED_BODY), content_type="application/x-www-form-urlencoded")
    assert response.status_code == 201


def test_what_is_wrong_is_answered_field_by_field_and_nothing_is_stored(client: Client) -> None:
    response = post(client, {"image": "alpine", "cpu_cores": 0})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["code"] == "invalid"
    assert set(error["fields"]) == {"image", "docker_image", "cpu_cores"}
    assert "docker_image" in error["fields"]["image"][0]
    assert not Job.objects.exists()


@pytest.mark.parametrize("body", ["[]", '"x"', "5", "null", ""])
def test_a_body_that_is_no_object_is_invalid(client: Client, body: str) -> None:
    response = post(client, body)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid")


@pytest.mark.parametrize("body", [b'{"docker_image":', b"\xff\xfe", b"[" * 100_000, b"hello"])
def test_a_body_that_is_no_json_is_malformed(client: Client, body: bytes) -> None:
    response = post(client, body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "malformed_json")


def test_a_body_over_a_megabyte_is_too_large(client: Client) -> None:
    response = post(client, {"docker_image": "alpine", "env": {"A": "x" * 1024 * 1024}})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")


def test_a_job_may_ask_to_run_at_most_once_and_then_for_no_retries(client: Client) -> None:
    body = {"docker_image": "alpine", "at_most_once": True}
    answer = client.post("/jobs", body, content_type="application/json").json()
    assert answer["at_most_once"] is True
    assert client.get(f"/jobs/{answer['job_id']}").json()["at_most_once"] is True
    refused = client.post("/jobs", {**body, "max_retries": 1}, content_type="application/json")
    assert refused.status_code == 422 and list(refused.json()["error"]["fields"]) == ["at_most_once"]


def test_a_job_that_no_executor_could_ever_fit_is_accepted_with_a_warning(client: Client) -> None:
    add_executor()
    large = post(client, {**SEED_BODY, "cpu_cores": 64})
    assert large.status_code == 201
    assert "64" in large.json()["warning"]
    assert post(client, SEED_BODY).json()["warning"] is None


def test_secrets_in_the_environment_are_never_answered(client: Client) -> None:
    response = post(client, {**SEED_BODY, "env": {"DB_PASSWORD": "hunter2", "LEVEL": "debug"}})
    job = response.json()
    assert job["env"]["LEVEL"] == "debug"
    for answer in (response, client.get(f"/jobs/{job['job_id']}"), client.get("/jobs")):
        assert b"hunter2" not in answer.content
    assert Job.objects.get().env["DB_PASSWORD"] == "hunter2"


def test_a_submission_takes_few_queries(client: Client, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    add_executor()
    post(client, SEED_BODY)
    with django_assert_num_queries(3):  # who asks, the insert, the executors for the warning
        assert post(client, SEED_BODY).status_code == 201


# --- Looking ---------------------------------------------------------------------------------------------------


def test_a_pending_job_says_why_it_waits(client: Client) -> None:
    job = client.get(f"/jobs/{submit().id}").json()
    assert job["status"] == "PENDING"
    assert "scheduler" in job["waiting_reason"]


def test_a_job_is_answered_with_its_attempts_and_where_it_runs(client: Client) -> None:
    job, executor, now = submit(gpu_type="A100"), add_executor(), timezone.now()
    Attempt.objects.create(
        job=job,
        number=1,
        executor=executor,
        executor_name=executor.name,
        placed_at=now,
        finished_at=now,
        state=State.FAILED,
        reason="oom_killed",
        oom_killed=True,
        exit_code=137,
        start_command=1,
    )
    Attempt.objects.create(
        job=job, number=2, executor=executor, executor_name="node-a", placed_at=now, start_command=2, gpu_indices=[3]
    )
    Job.objects.filter(id=job.id).update(state=State.STARTING, attempt_number=2, executor=executor)
    answer = client.get(f"/jobs/{job.id}").json()
    assert answer["executor"] == {"executor_id": "id-node-a", "name": "node-a"}
    assert (answer["status"], answer["attempt"], answer["waiting_reason"]) == ("STARTING", 2, None)
    first, second = answer["attempts"]
    assert (first["status"], first["reason"], first["oom_killed"], first["exit_code"]) == (
        "FAILED",
        "oom_killed",
        True,
        137,
    )
    assert (second["status"], second["gpu_indices"], second["finished_at"]) == ("STARTING", [3], None)


def test_the_end_of_the_log_and_the_count_of_all_lines_come_with_the_job(
    client: Client, redis_client: redis.Redis
) -> None:
    job = submit()
    redis_client.rpush(keys().job_logs(str(job.id)), *[f"t stdout {number}" for number in range(250)])
    answer = client.get(f"/jobs/{job.id}").json()
    assert answer["logs_total"] == 250
    assert answer["logs"] == [f"t stdout {number}" for number in range(150, 250)]


def test_a_job_is_answered_without_its_log_while_redis_is_away(local_client: Client, settings: Settings) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    answer = local_client.get(f"/jobs/{submit().id}")
    assert answer.status_code == 200
    assert (answer.json()["logs"], answer.json()["logs_total"]) == (None, None)


@pytest.mark.parametrize("job_id", [str(new_job_id()), "no-such-job", "%00", "x" * 500])
@pytest.mark.parametrize(("method", "rest"), [("get", ""), ("delete", ""), ("post", "/abort"), ("get", "/logs")])
def test_a_job_that_does_not_exist_is_not_found(client: Client, job_id: str, method: str, rest: str) -> None:
    response = getattr(client, method)(f"/api/v1/jobs/{job_id}{rest}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "job_not_found")


# --- Listing ---------------------------------------------------------------------------------------------------


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [job["job_id"] for job in response.json()["jobs"]]


def test_jobs_are_listed_newest_first_and_paged_by_cursor(client: Client) -> None:
    submitted = [str(submit().id) for _ in range(5)]
    first = client.get("/jobs?limit=2")
    assert ids(first) == [submitted[4], submitted[3]]
    submit()  # what arrives meanwhile shifts nothing
    second = client.get(f"/jobs?limit=2&cursor={first.json()['next_cursor']}")
    assert ids(second) == [submitted[2], submitted[1]]
    third = client.get(f"/jobs?limit=2&cursor={second.json()['next_cursor']}")
    assert ids(third) == [submitted[0]]
    assert third.json()["next_cursor"] is None


def test_a_list_holds_of_each_job_what_the_schema_says(client: Client) -> None:
    make_job(State.FAILED, make_executor(), gpu_type="any", gpu_count=1, labels={"zone": "a"}, env={"A": "1"})
    make_job(name="waits", memory_gb=0.1)
    answer = client.get("/api/v1/jobs?limit=1")
    assert JobList.model_validate_json(answer.content).model_dump_json() == answer.content.decode()
    whole = client.get("/api/v1/jobs")
    assert JobList.model_validate_json(whole.content).model_dump_json() == whole.content.decode()
    assert [job["status"] for job in whole.json()["jobs"]] == ["PENDING", "FAILED"]


def test_jobs_are_filtered_by_one_status_or_several(client: Client) -> None:
    pending, running, failed = submit(), submit(), submit()
    Job.objects.filter(id=running.id).update(state=State.RUNNING)
    Job.objects.filter(id=failed.id).update(state=State.FAILED)
    assert ids(client.get("/jobs?status=PENDING")) == [str(pending.id)]
    assert ids(client.get("/jobs?status=failed&status=RUNNING")) == [str(failed.id), str(running.id)]


def test_jobs_are_filtered_by_executor(client: Client) -> None:
    here, _elsewhere = submit(), submit()
    Job.objects.filter(id=here.id).update(executor=add_executor())
    assert ids(client.get("/jobs?executor=id-node-a")) == [str(here.id)]
    assert ids(client.get("/jobs?executor=nowhere")) == []


def test_jobs_are_found_by_words_in_name_image_and_command(client: Client) -> None:
    named = str(submit(name="nightly Report").id)
    image = str(submit(docker_image="example.com/reporting:1").id)
    command = str(submit(command=["python", "größe.py", '"quoted"']).id)
    assert ids(client.get("/jobs", {"q": "report"})) == [image, named]
    assert ids(client.get("/jobs", {"q": "nightly report"})) == [named]
    assert ids(client.get("/jobs", {"q": "python größe"})) == [command]
    assert ids(client.get("/jobs", {"q": '"quoted"'})) == [command]
    assert ids(client.get("/jobs", {"q": named})) == [named]
    assert ids(client.get("/jobs", {"q": "100%"})) == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=BOGUS", "status"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_by_name(client: Client, query: str, field: str) -> None:
    response = client.get(f"/jobs?{query}")
    assert response.status_code == 422
    assert list(response.json()["error"]["fields"]) == [field]


def test_a_list_takes_as_many_queries_however_long_it_is(
    client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(20):
        post(client, SEED_BODY)
    with django_assert_num_queries(2):
        assert len(ids(client.get("/jobs"))) == 20


# --- Aborting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("post", "/api/v1/jobs/{}/abort"), ("delete", "/jobs/{}")])
def test_a_job_is_aborted_once(client: Client, method: str, path: str) -> None:
    job = submit()
    answer = getattr(client, method)(path.format(job.id))
    assert (answer.status_code, answer.json()["status"]) == (200, "ABORTED")
    again = getattr(client, method)(path.format(job.id))
    assert (again.status_code, again.json()["error"]["code"]) == (409, "job_is_final")


def test_aborting_a_running_job_answers_that_it_was_asked_for(client: Client) -> None:
    job = submit()
    Job.objects.filter(id=job.id).update(state=State.RUNNING)
    answer = client.delete(f"/jobs/{job.id}").json()
    assert answer["status"] == "RUNNING"
    assert answer["abort_requested_at"]


# --- The log ---------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(client: Client, redis_client: redis.Redis, transactional_db: None) -> Job:
    """A job with ten lines, of which the first two are gone and every other is on stderr.

    Not in a transaction: reading a log gives its thread's connection back, which on PostgreSQL would end it.
    """
    job = submit()
    lines = [f"t {'stderr' if number % 2 else 'stdout'} line {number}" for number in range(2, 10)]
    redis_client.rpush(keys().job_logs(str(job.id)), *lines)
    redis_client.hset(keys().job_logs_meta(str(job.id)), "dropped", 2)
    return job


def texts(content: bytes) -> list[str]:
    return [line.split(" ", 2)[2] for line in content.decode().splitlines()]


def test_a_log_is_read_as_text_by_offset(client: Client, logged: Job) -> None:
    response = client.get(f"/api/v1/jobs/{logged.id}/logs?offset=4&limit=3")
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert texts(response.content) == ["line 4", "line 5", "line 6"]
    wanted = {"X-Log-Offset": "4", "X-Next-Offset": "7", "X-Log-Total": "10", "X-Log-Dropped": "2"}
    assert {name: response[name] for name in wanted} == wanted


def test_without_an_offset_the_tail_of_the_log_is_read(client: Client, logged: Job) -> None:
    response = client.get(f"/api/v1/jobs/{logged.id}/logs?limit=2")
    assert texts(response.content) == ["line 8", "line 9"]
    assert response["X-Log-Offset"] == "8"


def test_one_stream_of_a_log_is_read_alone(client: Client, logged: Job) -> None:
    response = client.get(f"/api/v1/jobs/{logged.id}/logs?stream=stderr&offset=4")
    assert texts(response.content) == ["line 5", "line 7", "line 9"]
    assert response["X-Next-Offset"] == "10"


def test_the_log_cannot_be_read_while_redis_is_away(client: Client, settings: Settings) -> None:
    job = submit()
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    response = client.get(f"/api/v1/jobs/{job.id}/logs")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "redis_unavailable")


@pytest.mark.parametrize("query", ["offset=-1", "limit=0", "stream=stdin", "follow=perhaps"])
def test_a_log_query_that_means_nothing_is_refused_by_name(client: Client, logged: Job, query: str) -> None:
    response = client.get(f"/api/v1/jobs/{logged.id}/logs?{query}")
    assert response.status_code == 422
    assert list(response.json()["error"]["fields"]) == [query.split("=")[0]]


@pytest.fixture
def async_client(transactional_db: None, redis_client: redis.Redis) -> AsyncClient:
    client = AsyncClient()
    client.force_login(User.objects.create_user("ann"))
    return client


async def test_a_log_is_downloaded_whole_as_a_file(async_client: AsyncClient, redis_client: redis.Redis) -> None:
    job = await sync_to_async(submit)()
    lines = [f"t stdout line {number}" for number in range(2500)]
    redis_client.rpush(keys().job_logs(str(job.id)), *lines)
    response = await async_client.get(f"/api/v1/jobs/{job.id}/logs?download=1")
    assert f"job-{job.id}.log" in response["Content-Disposition"]
    content = b"".join([chunk async for chunk in response.streaming_content])
    assert content.decode().splitlines() == lines


async def test_a_log_is_followed_until_the_job_has_ended(async_client: AsyncClient, redis_client: redis.Redis) -> None:
    job = await sync_to_async(submit)()
    key, channel = keys().job_logs(str(job.id)), keys().log_channel(str(job.id))
    redis_client.rpush(key, "t stdout early")
    async with asyncio.timeout(5):
        response = await async_client.get(f"/api/v1/jobs/{job.id}/logs?follow=1")
        chunks = aiter(response.streaming_content)
        assert await anext(chunks) == b"t stdout early\n"
        redis_client.rpush(key, "t stdout late")
        redis_client.publish(channel, "grown")
        assert await anext(chunks) == b"t stdout late\n"
        await sync_to_async(services.abort)(job.id)
        assert b"".join([chunk async for chunk in chunks]) == b""


# --- A pass ----------------------------------------------------------------------------------------------------


@pytest.fixture
def answering_scheduler(redis_client: redis.Redis) -> Iterator[dict[str, Any]]:
    """A scheduler that speaks the protocol and answers one request for a pass with this."""
    answer: dict[str, Any] = {"placed": [], "waiting": [], "waiting_count": 0}
    redis_client.xgroup_create(keys().events, "scheduler", id="0", mkstream=True)

    def serve() -> None:
        while True:
            read = redis_client.xreadgroup("scheduler", "scheduler", {keys().events: ">"}, block=4000)
            for _, entry in read[0][1] if read else []:
                event = decode(entry[FIELD])
                if isinstance(event, PassRequest):
                    redis_client.rpush(event.reply_to, json.dumps(answer))
                    redis_client.expire(event.reply_to, 60)
                    return

    thread = threading.Thread(target=serve)
    thread.start()
    yield answer
    thread.join()


def test_a_pass_is_answered_with_what_it_placed_and_what_waits(
    client: Client, answering_scheduler: dict[str, Any]
) -> None:
    placed, waiting = str(new_job_id()), str(new_job_id())
    answering_scheduler["placed"] = [
        {"job_id": placed, "attempt": 1, "executor_id": "e", "executor_name": "node-a", "gpu_indices": [0]}
    ]
    answering_scheduler["waiting"] = [{"job_id": waiting, "reason": "It needs 64 cores."}]
    answering_scheduler["waiting_count"] = 1
    response = client.post("/schedule")
    assert response.status_code == 200
    assert response.json() == answering_scheduler


def test_a_pass_that_no_scheduler_runs_is_unavailable_with_a_remedy(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PASS_WAIT_SECONDS", 0.1)
    response = client.post("/schedule")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_scheduler")
    assert "runscheduler" in response.json()["error"]["message"]


def test_a_pass_is_unavailable_while_redis_is_away(local_client: Client, settings: Settings) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    assert local_client.post("/schedule").status_code == 503


def test_times_are_utc_and_say_so(client: Client) -> None:
    submitted = client.get(f"/jobs/{submit().id}").json()["submitted_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", submitted)
    assert abs(timezone.now() - timezone.datetime.fromisoformat(submitted)) < timedelta(seconds=5)


# --- Retry, priority, many at once ---------------------------------------------------------------------------------


def test_a_job_that_ended_is_retried_as_a_new_one(client: Client) -> None:
    job = submit(name="again")
    assert client.post(f"/api/v1/jobs/{job.id}/retry").status_code == 409
    services.abort(job.id)
    response = client.post(f"/api/v1/jobs/{job.id}/retry")
    assert response.status_code == 201
    body = response.json()
    assert (body["retry_of"], body["name"], body["status"]) == (str(job.id), "again", "PENDING")
    assert response["Location"] == f"/api/v1/jobs/{body['job_id']}"
    assert client.post(f"/api/v1/jobs/{new_job_id()}/retry").status_code == 404


def patch(client: Client, job: Job, body: object) -> Any:
    return client.patch(f"/api/v1/jobs/{job.id}", json.dumps(body), content_type="application/json")


def test_the_priority_of_a_pending_job_is_changed_and_nothing_else_is(client: Client) -> None:
    job = submit()
    assert patch(client, job, {"priority": 12}).json()["priority"] == 12
    assert "priority" in patch(client, job, {"priority": 5000}).json()["error"]["fields"]
    assert patch(client, job, {"docker_image": "other"}).status_code == 422
    services.abort(job.id)
    assert patch(client, job, {"priority": 1}).json()["error"]["code"] == "job_not_pending"


def test_many_jobs_are_changed_by_their_ids_or_by_what_they_match(client: Client) -> None:
    first, second, third = submit(name="x"), submit(name="x"), submit(name="y")
    answer = post(client, {"action": "abort", "job_ids": [str(first.id), str(new_job_id())]}, "/api/v1/jobs/bulk")
    assert answer.json()["done"] == [str(first.id)]
    assert len(answer.json()["refused"]) == 1
    answer = post(client, {"action": "priority", "priority": 4, "match": {"q": "x"}}, "/api/v1/jobs/bulk")
    assert answer.json()["done"] == [str(second.id)]
    assert answer.json()["refused"][0]["job_id"] == str(first.id)
    third.refresh_from_db()
    assert third.priority == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "abort"}, "match"),
        ({"action": "abort", "match": {}}, "match"),
        ({"action": "abort", "match": {"status": "NONSENSE"}}, "match"),
        ({"action": "abort", "job_ids": [], "match": {"q": "x"}}, "match"),
        ({"action": "explode", "job_ids": []}, "action"),
        ({"action": "priority", "job_ids": []}, "priority"),
        ({"action": "abort", "match": {"q": "x", "since": "sometime"}}, "since"),
    ],
)
def test_a_bulk_request_that_says_too_little_or_too_much_changes_nothing(
    client: Client, body: dict[str, object], field: str
) -> None:
    job = submit(name="x")
    response = post(client, body, "/api/v1/jobs/bulk")
    assert (response.status_code, list(response.json()["error"]["fields"])) == (422, [field])
    job.refresh_from_db()
    assert job.state == State.PENDING


def test_a_list_is_filtered_by_owner_image_and_time_and_a_wrong_time_is_said(client: Client) -> None:
    submit(name="mine")
    Job.objects.update(owner=User.objects.create_user("ann"))
    submit(name="other")
    assert [job["name"] for job in client.get("/jobs?owner=ann&image=alpine&since=1h").json()["jobs"]] == ["mine"]
    assert list(client.get("/jobs?since=yesterday").json()["error"]["fields"]) == ["since"]
