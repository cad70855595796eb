"""Many jobs in one request: all or none, and under an idempotency key only once."""

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.db import connection
from django.test import Client
from django.utils import timezone

from jobs import idempotency, services
from jobs.models import Job, SubmissionKey
from jobs.submission import MOST_IN_BATCH, parse_submission
from tests.jobs.node import Node

BATCH = "/api/v1/jobs/batch"
KEY = {"Idempotency-Key": "nightly-17"}


def bodies(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"docker_image": "alpine:3.20", "command": f"echo {number}", **fields} for number in range(count)]


def post(client: Client, body: object, path: str = BATCH, **headers: str) -> Any:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.post(path, text, content_type="application/json", headers=headers)


def events(client: redis.Redis) -> list[dict[str, Any]]:
    entries: Any = client.xrange("events")
    return [json.loads(fields[b"m"]) for _, fields in entries]


def test_a_batch_makes_its_jobs_in_order_and_wakes_the_scheduler_once(
    local_client: Client, redis_client: redis.Redis
) -> None:
    response = post(local_client, {"jobs": bodies(1200, name="n", labels={"zone": "eu"})})
    assert response.status_code == 201, response.content
    ids = response.json()["job_ids"]
    jobs = {str(job.id): job for job in Job.objects.all()}
    assert [jobs[job_id].command for job_id in ids] == [["echo", str(number)] for number in range(1200)]
    assert {job.state for job in jobs.values()} == {"PENDING"}
    assert {str(job.owner) for job in jobs.values()} == {"local"}
    (wake,) = events(redis_client)
    assert (wake["kind"], wake["first_job_id"], wake["last_job_id"]) == ("wake", min(ids), max(ids))


def test_the_list_alone_is_a_batch_too(local_client: Client, redis_client: redis.Redis) -> None:
    assert len(post(local_client, bodies(2)).json()["job_ids"]) == Job.objects.count() == 2


def test_one_wrong_job_refuses_all_and_is_named_with_its_field(local_client: Client, redis_client: redis.Redis) -> None:
    wrong: list[Any] = bodies(30)
    wrong[17]["docker_image"] = "no spaces please"
    wrong[18] = "echo"
    wrong[19]["cpu_coers"] = 1
    response = post(local_client, {"jobs": wrong})
    assert response.status_code == 422
    fields = response.json()["error"]["fields"]
    assert list(fields) == ["jobs[17].docker_image", "jobs[18]", "jobs[19].cpu_coers"]
    assert "white space" in fields["jobs[17].docker_image"][0]
    assert "'cpu_cores'" in fields["jobs[19].cpu_coers"][0]
    assert not Job.objects.exists()
    assert not events(redis_client)


def test_very_many_mistakes_are_counted_and_not_all_listed(local_client: Client, redis_client: redis.Redis) -> None:
    fields = post(local_client, bodies(50, cpu_cores=-1)).json()["error"]["fields"]
    assert len(fields) == 21
    assert "first 20 of 50 mistakes" in fields["jobs"][0]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"jobs": []}, 422, "at least one job"),
        ({}, 422, "at least one job"),
        ("7", 422, "at least one job"),
        ({"jobs": bodies(1), "owner": "me"}, 422, "no such field"),
        ({"jobs": [{}] * (MOST_IN_BATCH + 1)}, 422, "10,001 jobs, and 10,000 are the most"),
        ("[{", 400, "not JSON"),
        ("[" * 100_000, 400, "nested too deeply"),
        (b"\xff", 400, "UTF-8"),
        (" " * (32 * 1024**2 + 1), 413, "32 MB at most"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_in_words(
    local_client: Client, redis_client: redis.Redis, body: object, status: int, words: str
) -> None:
    response = post(local_client, body)
    assert response.status_code == status
    assert words in json.dumps(response.json(), ensure_ascii=False)


def test_a_batch_may_be_larger_than_other_requests(local_client: Client, redis_client: redis.Redis) -> None:
    assert post(local_client, {"jobs": bodies(15, env={"BIG": "x" * 100_000})}).status_code == 201


def test_a_repeated_batch_answers_the_same_jobs_and_wakes_again(
    local_client: Client, redis_client: redis.Redis
) -> None:
    first, again = (post(local_client, {"jobs": bodies(20)}, **KEY) for _ in range(2))
    assert first.status_code == again.status_code == 201
    assert first.json()["job_ids"] == again.json()["job_ids"]
    assert (first.json()["repeated"], again.json()["repeated"]) == (False, True)
    assert Job.objects.count() == 20
    assert len(events(redis_client)) == 2


def test_a_key_stands_for_one_submission_only_and_belongs_to_its_owner(
    local_client: Client, redis_client: redis.Redis, django_user_model: Any
) -> None:
    assert post(local_client, bodies(2), **KEY).status_code == 201
    response = post(local_client, bodies(3), **KEY)
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "idempotency_key_used"
    other = django_user_model.objects.create_user("other")
    theirs = services.submit_all([parse_submission(body) for body in bodies(3)], other, KEY["Idempotency-Key"])
    assert len(theirs.new) == 3
    assert Job.objects.count() == 5


def test_one_job_can_be_submitted_under_a_key(local_client: Client, redis_client: redis.Redis) -> None:
    first, again = (post(local_client, bodies(1)[0], "/api/v1/jobs", **KEY) for _ in range(2))
    assert first.status_code == again.status_code == 201
    assert first.json()["job_id"] == again.json()["job_id"]
    assert first["Location"] == again["Location"]
    assert Job.objects.count() == 1


def test_a_key_that_cannot_be_one_is_refused(local_client: Client, redis_client: redis.Redis) -> None:
    response = post(local_client, bodies(1), **{"Idempotency-Key": "k" * 256})
    assert response.status_code == 422
    assert "255 printable" in response.json()["error"]["fields"]["Idempotency-Key"][0]


def test_a_batch_that_fails_leaves_its_key_free(
    local_client: Client, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(services, "insert_rows", lambda rows: 1 / 0)
        assert post(local_client, bodies(2), **KEY).status_code == 500
    assert not SubmissionKey.objects.exists()
    assert post(local_client, bodies(2), **KEY).json()["repeated"] is False


def test_keys_are_forgotten_after_a_day(local_client: Client, redis_client: redis.Redis) -> None:
    post(local_client, bodies(1), **KEY)
    idempotency.forget_old(timezone.now() + timedelta(hours=23))
    assert SubmissionKey.objects.exists()
    idempotency.forget_old(timezone.now() + timedelta(hours=25))
    assert not SubmissionKey.objects.exists()


def test_a_batch_warns_of_jobs_that_no_executor_could_fit(local_client: Client, node: Node) -> None:
    response = post(local_client, bodies(2) + bodies(3, cpu_cores=1000))
    (warning,) = response.json()["warnings"]
    assert (warning["jobs"], warning["first"]) == (3, 2)
    assert warning["message"]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite in memory refuses a second writer at once")
@pytest.mark.django_db(transaction=True)
def test_of_two_who_submit_the_same_at_once_one_makes_the_jobs(redis_client: redis.Redis) -> None:
    accepted: list[services.Accepted] = []
    together = threading.Barrier(2)

    def submit() -> None:
        submissions = [parse_submission(body) for body in bodies(50)]
        together.wait()
        try:
            accepted.append(services.submit_all(submissions, key="k"))
        finally:
            connection.close()

    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert accepted[0].ids == accepted[1].ids
    assert sorted(len(one.new) for one in accepted) == [0, 50]
    assert Job.objects.count() == 50
