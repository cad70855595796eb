"""The API as a whole: the seed's paths, one shape for errors, the cluster in numbers, docs from this machine."""

import re
from typing import Any

import pytest
import redis
from django.contrib.staticfiles import finders
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from executors.models import Executor
from jobs import services
from jobs.lifecycle import State
from jobs.models import Job
from jobs.submission import parse_submission

GB = 1024**3
HTML = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def submit(**fields: object) -> Job:
    return services.submit(parse_submission({"docker_image": "alpine", **fields}))


# --- The seed's paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/jobs", "/executors", "/stats"])
def test_the_seeds_paths_answer_as_those_of_the_api(client: Client, path: str) -> None:
    submit()
    seed, versioned = client.get(path), client.get(f"/api/v1{path}")
    assert seed.status_code == versioned.status_code == 200
    assert seed.json() == versioned.json()


def test_the_path_of_a_job_answers_as_that_of_the_api(client: Client) -> None:
    job = submit()
    assert client.get(f"/jobs/{job.id}").json() == client.get(f"/api/v1/jobs/{job.id}").json()


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/jobs", "/jobs/"),
        ("/jobs/abc", "/jobs/abc/"),
        ("/jobs/new", "/jobs/new/"),
        ("/executors", "/executors/"),
        ("/stats", "/"),
    ],
)
def test_a_browser_is_sent_to_the_page(client: Client, path: str, page: str) -> None:
    response = client.get(path, headers=HTML)
    assert (response.status_code, response["Location"]) == (302, page)
    assert "Accept" in response["Vary"]


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/html;q=0.5", ""])
def test_a_script_is_answered_with_json(client: Client, accept: str) -> None:
    response = client.get("/stats", headers={"accept": accept})
    assert response.status_code == 200
    assert "Accept" in response["Vary"]


def test_what_is_under_api_v1_is_never_a_page(client: Client) -> None:
    assert client.get("/api/v1/stats", headers=HTML)["Content-Type"].startswith("application/json")
    assert client.get("/health", headers=HTML)["Content-Type"].startswith("application/json")


# --- One shape for errors --------------------------------------------------------------------------------------


def assert_error(response: Any, status: int, code: str) -> None:
    assert response.status_code == status
    assert response["Content-Type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"code", "message", "fields"}
    assert (error["code"], bool(error["message"])) == (code, True)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/", "/api/v1/", "/jobs/x/y/z", "/executors/x"])
def test_an_address_that_is_not_there(client: Client, settings: Settings, path: str, debug: bool) -> None:
    settings.DEBUG = debug
    assert_error(client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("put", "/jobs", "GET, POST"), ("get", "/schedule", "POST"), ("post", "/api/v1/stats", "GET")],
)
def test_a_method_that_an_address_does_not_take(client: Client, method: str, path: str, allowed: str) -> None:
    response = getattr(client, method)(path)
    assert_error(response, 405, "method_not_allowed")
    assert sorted(response["Allow"].split(", ")) == sorted(allowed.split(", "))


@pytest.mark.parametrize("debug", [False, True])
def test_a_crash_shows_nothing_of_the_inside(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    settings.DEBUG = debug

    def crash(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(services, "submit", crash)
    response = client.post("/jobs", {"docker_image": "alpine"}, content_type="application/json")
    assert_error(response, 500, "internal_error")
    assert b"secret detail" not in response.content


def test_a_host_that_is_not_ours(client: Client) -> None:
    assert_error(client.get("/jobs", headers={"host": "evil.example"}), 400, "bad_request")


def test_pages_keep_their_own_errors(client: Client) -> None:
    response = client.get("/nothing/")
    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")


# --- The cluster in numbers ------------------------------------------------------------------------------------


def test_stats_count_jobs_and_executors_by_state_and_add_up_what_is_online(client: Client) -> None:
    for name, state in (("a", "ONLINE"), ("b", "ONLINE"), ("c", "LOST")):
        Executor.objects.create(
            id=name,
            name=name,
            state=state,
            cpu_millicores=4000,
            memory_bytes=8 * GB,
            gpus=[{"index": 0, "uuid": "u", "model": "m", "memory_bytes": GB}],
            last_heartbeat_at=timezone.now(),
        )
    submit()
    Job.objects.filter(id=submit().id).update(state=State.SUCCEEDED)
    stats = client.get("/stats").json()
    assert stats["jobs"] == {
        "PENDING": 1,
        "STARTING": 0,
        "RUNNING": 0,
        "SUCCEEDED": 1,
        "FAILED": 0,
        "ABORTED": 0,
    }
    assert stats["executors"] == {"ONLINE": 2, "UNHEALTHY": 0, "LOST": 1}
    assert stats["capacity"] == stats["free"] == {"cpu_cores": 8, "memory_gb": 16, "gpus": 2}
    assert stats["allocated"] == {"cpu_cores": 0, "memory_gb": 0, "gpus": 0}


# --- Docs ------------------------------------------------------------------------------------------------------


def test_the_docs_come_from_this_machine_without_inline_scripts(client: Client) -> None:
    response = client.get("/api/v1/docs")
    page = response.content.decode()
    assert response.status_code == 200
    assert "://" not in page
    files = re.findall(r'(?:src|href)="/static/v-[0-9a-f]+/([^"]+)"', page)
    assert len(files) >= 3
    assert all(finders.find(file) for file in files)
    inline = re.findall(r"<script(?![^>]*\bsrc=)([^>]*)>", page)
    assert all('type="application/json"' in attributes for attributes in inline)
    assert not re.findall(r"<style|\son\w+=|\sstyle=", page)


def test_every_answer_forbids_scripts_from_elsewhere_and_inline(client: Client) -> None:
    for path in ("/api/v1/docs", "/jobs", "/", "/api/v1/nothing"):
        policy = client.get(path)["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy


def test_the_schema_describes_every_address(client: Client) -> None:
    schema = client.get("/api/v1/openapi.json").json()
    assert set(schema["paths"]) == {
        "/api/v1/jobs",
        "/api/v1/jobs/batch",
        "/api/v1/jobs/{job_id}",
        "/api/v1/jobs/{job_id}/abort",
        "/api/v1/jobs/{job_id}/retry",
        "/api/v1/jobs/bulk",
        "/api/v1/jobs/{job_id}/logs",
        "/api/v1/schedule",
        "/api/v1/executors",
        "/api/v1/executors/{executor_id}",
        *(
            f"/api/v1/executors/{{executor_id}}/{action}"
            for action in ("cordon", "drain", "resume", "forget", "labels")
        ),
        "/api/v1/stats",
        "/api/v1/health",
    }
    submission = schema["components"]["schemas"]["JobSubmission"]
    assert submission["required"] == ["docker_image"]
    assert submission["properties"]["cpu_cores"]["minimum"] == 0.01
