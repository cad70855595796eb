"""The page that submits: what stands beside the form, a pasted line, images known."""

import json
import re
import shlex
from html import unescape
from typing import Any

import pytest
import redis
from django.test import Client

from executors.models import Executor
from jobs import services
from jobs.models import Job
from jobs.snippets import as_curl, as_python, body_of
from jobs.submission import GB, parse_submission
from tests.rows import make_executor, make_job


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def preview(client: Client, **fields: str) -> str:
    response = client.post(
        "/jobs/new/preview/", {"docker_image": "alpine", "cpu_cores": "1", "memory_gb": "1", **fields}
    )
    assert response.status_code == 200
    return unescape(response.content.decode())


def test_the_command_is_shown_as_it_is_split_even_before_the_form_is_complete(client: Client) -> None:
    page = preview(client, command="sh -c 'echo a b'", docker_image="")
    assert re.findall(r"<span>(.*?)</span>", page) == ["sh", "-c", "echo a b"]
    assert "Shown when the form is complete" in page
    assert "Close the quote" in preview(client, command="echo 'a")


def test_it_says_on_how_many_executors_the_job_fits_now(client: Client) -> None:
    small = make_executor("small", cpu_millicores=1000, memory_bytes=2 * GB)
    make_executor("large")
    assert "Fits on 2 executors now" in preview(client)
    assert "Fits on 1 executor now" in preview(client, cpu_cores="4")
    make_job("RUNNING", small, cpu_cores=1, memory_gb=1)
    assert "Fits on 1 executor now</strong>, on 2 when they are idle" in preview(client)
    Executor.objects.update(schedulable=False)
    assert "Fits on none now" in preview(client)
    assert "offers 8 cores" in preview(client, cpu_cores="64")


def test_the_curl_line_and_the_python_beside_the_form_ask_for_what_is_typed() -> None:
    raw: dict[str, Any] = {
        "docker_image": "alpine:3.20",
        "command": ["sh", "-c", "echo 'it''s' \"$HOME\" é"],
        "cpu_cores": 0.5,
        "memory_gb": 2,
        "gpu_type": "any",
        "env": {"A": "1"},
    }
    body = body_of(parse_submission(raw))
    words = shlex.split(as_curl(body, "http://x/jobs").replace("\\\n", " "))
    assert words[:2] == ["curl", "http://x/jobs"]
    assert parse_submission(json.loads(words[-1])) == parse_submission(raw)
    python = as_python(body, "http://x/jobs")
    literal = python[python.index("{") : python.index("answer =")]
    assert parse_submission(eval(literal)) == parse_submission(raw)  # noqa: S307


def test_a_pasted_line_fills_in_the_form_and_submits_nothing(client: Client) -> None:
    line = "docker run -v /a:/b -m 512m -e A=1 alpine echo 'a b'"
    page = unescape(client.post("/jobs/new/", {"docker_run": line}).content.decode())
    assert 'value="alpine"' in page
    assert "echo 'a b'" in page
    assert 'value="0.5"' in page
    assert "--volume was left out" in page
    assert not Job.objects.exists()


def test_a_pasted_line_that_is_no_docker_run_is_kept_with_a_sentence(client: Client) -> None:
    response = client.post("/jobs/new/", {"docker_run": "docker build ."})
    assert response.status_code == 422
    assert "The line must begin with: docker run." in response.content.decode()
    assert "docker build ." in response.content.decode()


def test_the_own_last_images_are_offered_with_their_tags_newest_first(client: Client) -> None:
    client.get("/jobs/new/")  # makes the local user
    for image in ("alpine:3.19", "alpine:3.20", "alpine:3.19"):
        client.post("/jobs/new/", {"docker_image": image, "cpu_cores": "1", "memory_gb": "1"})
    services.submit(parse_submission({"docker_image": "of-somebody-else"}))
    page = client.get("/jobs/new/").content.decode()
    offered = re.search(r'<datalist id="known-images">(.*?)</datalist>', page)
    assert offered and re.findall(r'value="(.*?)"', offered[1]) == ["alpine:3.19", "alpine:3.20"]
