"""The executor pages."""

import io
import json
import tarfile
import time
from datetime import timedelta

import pytest
import redis
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from executors import joining, nodemap
from executors.broker import keys
from executors.models import Executor
from executors.overview import shown_executors
from executors.usage import GpuUsage, latest_usage
from jobs.lifecycle import State
from jobs.models import Attempt, Job
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


@pytest.mark.django_db
def test_what_an_executor_holds_is_read_without_all_that_it_ever_ran() -> None:
    plan = Attempt.objects.filter(finished_at__isnull=True, executor_id__in=["a", "b"]).explain()
    assert "attempt_executor" not in plan


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
    with django_assert_max_num_queries(4):
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
    make_job(State.STARTING, node, name="starts").attempts.update(progress="pulling tools/busybox:1: 40 % of 2.1 MB")
    sample(redis_client, node.id, gpus=json.dumps([{"index": 0, "percent": 87.0, "memory_bytes": 3 * GB}]))
    page = text_of(client, "/executors/node-1/")
    for words in ("Unhealthy", "The Docker Engine does not answer.", "zone=a", "27.3.1", "0.1.0", "runs", "ended",
                  "pulling tools/busybox:1: 40 % of 2.1 MB",
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


# --- Finding executors -------------------------------------------------------------------------------------------


def names(client: Client, query: str) -> list[str]:
    rows = client.get(f"/executors/{query}").context["executors"]
    return [item.executor.name for item in rows]


def test_the_list_is_narrowed_by_state_and_words_in_its_address(client: Client) -> None:
    make_executor("alpha", labels={"zone": "eu"}, gpus=GPUS)
    make_executor("beta", operator_labels={"zone": "us"}, address="10.0.0.9")
    make_executor("gone", state="LOST")
    make_executor("shut", schedulable=False)
    assert names(client, "?state=online") == ["alpha", "beta"]
    assert names(client, "?state=CLOSED") == ["shut"]
    assert names(client, "?state=LOST") == ["gone"]
    assert names(client, "?text=zone%3Deu") == ["alpha"]
    assert names(client, "?text=zone%3Dus+beta") == ["beta"]
    assert names(client, "?text=l4") == ["alpha"]
    assert names(client, "?text=10.0.0.9") == ["beta"]
    assert names(client, "?state=nonsense&page=x") == ["alpha", "beta", "gone", "shut"]
    assert "No executor matches" in text_of(client, "/executors/?text=nobody")
    assert 'data-socket="/ws/executors?state=LOST"' in text_of(client, "/executors/?state=LOST&page=1")


def test_a_thousand_executors_are_shown_fifty_at_a_time_in_few_queries(
    client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    many(1000)
    text_of(client, "/executors/")
    with django_assert_max_num_queries(6):
        page = text_of(client, "/executors/?page=20")
    assert names(client, "?page=20")[-1] == "n0999"
    assert "Earlier in the list" in page
    assert "Further in the list" not in page
    with django_assert_max_num_queries(12):
        assert text_of(client, "/").count("|n0") == 1000


def many(count: int) -> None:
    """So many executors, each with a running job."""
    nodes = Executor.objects.bulk_create(
        Executor(id=f"n{n:04}", name=f"n{n:04}", cpu_millicores=8000, memory_bytes=GB, last_heartbeat_at=timezone.now())
        for n in range(count)
    )
    asked = {"cpu_millicores": 1000, "memory_bytes": 1, "submitted_at": timezone.now(), "image": "a", "shape": "s"}
    jobs = Job.objects.bulk_create(Job(state=State.RUNNING, executor=node, attempt_number=1, **asked) for node in nodes)
    Attempt.objects.bulk_create(
        Attempt(
            job=job,
            number=1,
            executor=job.executor,
            executor_name="",
            state=State.RUNNING,
            placed_at=timezone.now(),
            start_command=1,
        )
        for job in jobs
    )


# --- The node map ------------------------------------------------------------------------------------------------


def test_the_map_has_a_line_an_executor_in_the_same_order_in_both_texts(
    client: Client, redis_client: redis.Redis
) -> None:
    node = make_executor("a | b\nc", id="one", gpus=GPUS)
    make_executor("gone", id="two", state="LOST")
    make_job(State.RUNNING, node, cpu_cores=2, memory_gb=4, gpu_type="any")
    sample(redis_client, "one", gpus=json.dumps([{"index": 0, "percent": 50.0, "memory_bytes": 1}]))
    shown = shown_executors()
    assert nodemap.names(shown).split("\n") == ["one|8|16|2|a | b c", "two|8|16|0|gone"]
    assert nodemap.figures(shown).split("\n") == ["ONLINE|1|25|50|25|25|50|25", "LOST|0|0||0|||"]


# --- What operators do -------------------------------------------------------------------------------------------


def test_labels_are_taken_a_line_each_and_what_is_gone_is_removed(client: Client) -> None:
    node = make_executor(operator_labels={"old": "1"})
    assert client.post("/executors/node-1/labels/", {"labels": "zone=eu\n\n disk = ssd "}).status_code == 302
    node.refresh_from_db()
    assert node.operator_labels == {"disk": "ssd", "zone": "eu"}
    refused = client.post("/executors/node-1/labels/", {"labels": "zone"})
    assert refused.status_code == 422
    assert "is not name=value" in refused.content.decode()
    node.refresh_from_db()
    assert node.operator_labels == {"disk": "ssd", "zone": "eu"}


def test_an_executor_with_jobs_is_not_forgotten_and_the_page_says_why(client: Client) -> None:
    node = make_executor()
    job = make_job(State.RUNNING, node)
    page = client.post("/executors/node-1/forget/", follow=True).content.decode()
    assert "node-1 cannot be forgotten: 1 job still counts as running there." in page
    job.delete()
    assert "The executor was forgotten." in client.post("/executors/node-1/forget/", follow=True).content.decode()


def test_what_is_posted_about_an_unknown_executor_is_answered_with_404(client: Client) -> None:
    for action in ("cordon", "drain", "resume", "forget", "labels"):
        assert client.post(f"/executors/nobody/{action}/").status_code == 404
        assert client.get(f"/executors/nobody/{action}/").status_code == 405
    assert client.get("/executors/nobody/history/").status_code == 404


def test_a_drain_shows_how_many_jobs_are_left(client: Client) -> None:
    node = make_executor()
    job = make_job(State.RUNNING, node)
    make_job(State.RUNNING, node)
    client.post("/executors/node-1/drain/")
    Attempt.objects.filter(job=job).update(state=State.SUCCEEDED, finished_at=timezone.now())
    assert "1 of 2 jobs still runs" in text_of(client, "/executors/node-1/")


# --- Join --------------------------------------------------------------------------------------------------------


def test_the_command_to_join_names_server_redis_and_what_differs(client: Client, settings: Settings) -> None:
    settings.REDIS_URL, settings.REDIS_KEY_PREFIX = "redis://:se cret@10.0.0.5:6379/0", "lab:"
    command = joining.join_command("https://jobs.example.com/executors/join/agent.tar.gz", True)
    assert "curl -fsS https://jobs.example.com/executors/join/agent.tar.gz | tar xz" in command
    assert "REDIS_URL='redis://:se cret@10.0.0.5:6379/0' REDIS_KEY_PREFIX=lab: .venv/bin/python -m agent" in command
    hidden = joining.join_command("https://jobs.example.com/", False)
    assert "se cret" not in hidden
    assert "redis://:…@10.0.0.5:6379/0" in hidden
    assert not joining.redis_is_local()


def test_a_redis_that_other_nodes_cannot_reach_is_warned_of(client: Client) -> None:
    assert "Only this machine can join for now." in text_of(client, "/executors/join/")


def test_the_agent_is_handed_out_without_a_login_and_holds_what_it_needs(db: None) -> None:
    answer = Client(headers={"host": "localhost"}).get("/executors/join/agent.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as bundle:
        files = bundle.getnames()
    assert {"agent/__main__.py", "agent/protocol.py", "agent/requirements.txt"} <= set(files)
    assert all(name.startswith("agent/") and name.endswith((".py", ".txt")) for name in files)


def test_images_are_listed_and_an_agent_that_says_nothing_is_said_so(client: Client, redis_client: redis.Redis) -> None:
    make_executor()
    assert "has not said lately" in text_of(client, "/executors/node-1/")
    redis_client.set(keys().images("node-1"), json.dumps([["alpine:3.20", 8 * 1024**2]]))
    page = text_of(client, "/executors/node-1/")
    assert "alpine:3.20" in page and "8 MB" in page
    redis_client.set(keys().images("node-1"), "nonsense")
    assert "has not said lately" in text_of(client, "/executors/node-1/")


def test_what_ended_last_stands_first_however_long_ago_it_was_placed(client: Client) -> None:
    executor = make_executor()
    for name in ("long", "short"):
        make_job(State.SUCCEEDED, executor, name=name)
    Attempt.objects.filter(job__name="long").update(finished_at=timezone.now() + timedelta(hours=2))
    page = text_of(client, "/executors/node-1/")
    assert page.index(">long<") < page.index(">short<")
