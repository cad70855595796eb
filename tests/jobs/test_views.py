"""The job pages: what they show, what they let one do, and that nothing in a job can break out of them."""

import re
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from executors.broker import keys
from executors.models import Executor
from jobs.lifecycle import State
from jobs.models import Attempt, ContainerSettings, Job, JobEvent, new_job_id
from tests.rows import make_executor, make_job

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def text_of(client: Client, address: str, **options: Any) -> str:
    response = client.get(address, **options)
    assert response.status_code == 200
    return response.content.decode()


# --- List --------------------------------------------------------------------------------------------------------


def test_with_no_job_the_list_says_how_to_submit_one(client: Client) -> None:
    page = text_of(client, "/jobs/")
    assert "/jobs/new/" in page
    assert "curl http://" in page


def test_the_list_shows_jobs_newest_first(client: Client) -> None:
    make_job(name="the-first")
    make_job(name="the-second")
    page = text_of(client, "/jobs/")
    assert page.index("the-second") < page.index("the-first")


def test_the_list_filters_by_what_stands_in_its_address(client: Client) -> None:
    node = make_executor("node-1")
    make_job(State.RUNNING, node, name="runs-there")
    make_job(State.PENDING, name="waits")
    assert "waits" not in text_of(client, "/jobs/?state=RUNNING")
    assert "waits" not in text_of(client, "/jobs/?executor=node-1")
    assert "runs-there" not in text_of(client, "/jobs/?text=wait")
    assert "No job matches" in text_of(client, "/jobs/?text=nothing-like-it")
    assert "waits" in text_of(client, "/jobs/?state=nonsense&text=%00")


def test_htmx_gets_the_list_alone_and_the_browsers_back_button_the_page(client: Client) -> None:
    make_job()
    part = text_of(client, "/jobs/", headers={"HX-Request": "true"})
    assert part.startswith('<section id="job-list"')
    assert "<html" in text_of(client, "/jobs/", headers={"HX-Request": "true", "HX-History-Restore-Request": "true"})


def test_the_pages_of_the_list_hold_every_job_once_and_lead_back(client: Client) -> None:
    jobs = [make_job() for _ in range(120)]
    seen: list[str] = []
    address, back = "/jobs/", ""
    while address:
        page = text_of(client, address)
        seen += re.findall(r'id="row-([^"]+)"', page)
        older = re.search(r'rel="next" href="([^"]+)"', page)
        newer = re.search(r'rel="prev" href="([^"]+)"', page)
        back = newer[1] if newer else ""
        address = older[1].replace("&amp;", "&") if older else ""
    assert seen == [str(job.id) for job in reversed(jobs)]
    page = text_of(client, back)
    assert re.findall(r'id="row-([^"]+)"', page) == seen[50:100]


def test_the_list_costs_the_same_queries_however_many_jobs_it_shows(
    client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(60):
        make_job(State.RUNNING, make_executor(f"node-{number}"))
    text_of(client, "/jobs/")
    with django_assert_max_num_queries(5):
        text_of(client, "/jobs/")


# --- Submit ------------------------------------------------------------------------------------------------------


def test_a_job_submitted_in_the_form_is_in_the_database_and_its_page_comes(client: Client) -> None:
    response = client.post("/jobs/new/", {"docker_image": "alpine", "command": "echo hi", "cpu_cores": "0.5"})
    job = Job.objects.get()
    assert (response.status_code, response["Location"]) == (302, f"/jobs/{job.id}/")
    assert (job.command, job.cpu_millicores, job.owner.get_username()) == (["echo", "hi"], 500, "local")


def test_a_form_that_is_refused_keeps_what_was_typed_and_ties_the_error_to_its_field(client: Client) -> None:
    response = client.post("/jobs/new/", {"docker_image": "alpine", "command": "my typed words", "cpu_cores": "lots"})
    page = response.content.decode()
    assert response.status_code == 422
    assert "my typed words" in page
    assert 'value="lots"' in page
    field = re.search(r'<input[^>]*name="cpu_cores"[^>]*>', page)
    assert field
    assert 'aria-invalid="true"' in field[0]
    (described_by,) = re.findall(r'aria-describedby="([^"]+)"', field[0])
    assert all(f'id="{name}"' in page for name in described_by.split())
    assert "id_cpu_cores_error" in described_by
    assert not Job.objects.exists()


def test_the_folded_part_is_open_when_the_error_is_in_it(client: Client) -> None:
    page = client.post("/jobs/new/", {"docker_image": "alpine", "env": "NOVALUE"}).content.decode()
    assert re.search(r'<details class="advanced" open>', page)
    assert '<details class="advanced">' in text_of(client, "/jobs/new/")


def test_without_the_token_of_the_page_nothing_is_submitted(client: Client) -> None:
    strict = Client(enforce_csrf_checks=True, headers={"host": "localhost"})
    assert strict.post("/jobs/new/", {"docker_image": "alpine"}).status_code == 403
    assert not Job.objects.exists()


def test_cloning_fills_the_form_but_not_with_secrets(client: Client) -> None:
    job = make_job(command=["sh", "-c", "echo 1"], env={"TOKEN": "hunter2", "A": "1"}, memory_gb=0.5)
    page = text_of(client, f"/jobs/new/?from={job.id}")
    assert "sh -c &#x27;echo 1&#x27;" in page
    assert 'value="0.5"' in page
    assert "hunter2" not in page
    assert text_of(client, "/jobs/new/?from=nonsense")


def test_the_form_offers_the_gpus_that_executors_have(client: Client) -> None:
    gpu = {"index": 0, "uuid": "GPU-1", "model": "NVIDIA L4", "memory_bytes": 1}
    make_executor(gpus=[gpu])
    assert '<option value="NVIDIA L4">' in text_of(client, "/jobs/new/")


# --- One job -----------------------------------------------------------------------------------------------------


def test_a_pending_job_says_why_it_waits(client: Client) -> None:
    page = text_of(client, f"/jobs/{make_job().id}/")
    assert "No scheduler is running" in page


def test_a_starting_job_shows_its_progress(client: Client) -> None:
    job = make_job(State.STARTING, make_executor())
    job.attempts.update(progress="pulling alpine:latest: 40 %")
    page = text_of(client, f"/jobs/{job.id}/")
    assert "Pulling alpine:latest: 40 %" in page
    assert re.search(r'<progress max="100" value="40"', page)


def test_a_failed_job_shows_the_sentence_and_every_attempt(client: Client) -> None:
    node = make_executor()
    job = make_job(State.FAILED, node)
    Job.objects.update(reason="exit_nonzero", reason_text="The command exited with code 3.", exit_code=3)
    now = timezone.now()
    Attempt.objects.create(
        job=job, number=2, executor=None, executor_name="forgotten-node", state=State.FAILED, placed_at=now,
        finished_at=now, start_command=2, reason_text="The executor stopped sending heartbeats.",
    )  # fmt: skip
    page = text_of(client, f"/jobs/{job.id}/")
    assert "The command exited with code 3." in page
    assert "forgotten-node" in page
    assert "The executor stopped sending heartbeats." in page


def test_a_job_that_never_ran_says_so_and_what_to_do(client: Client) -> None:
    job = make_job(State.FAILED, make_executor())
    Job.objects.update(reason="image_not_found", reason_text="There is no image alpine:latset.")
    assert "data-never-ran" not in text_of(client, f"/jobs/{job.id}/")
    Attempt.objects.update(started_at=None)
    page = text_of(client, f"/jobs/{job.id}/")
    assert "data-never-ran" in page
    assert "Check the image&#x27;s name and tag" in page


def test_a_job_keeps_the_name_of_an_executor_that_was_forgotten(client: Client) -> None:
    job = make_job(State.SUCCEEDED, make_executor("gone-node"))
    Executor.objects.all().delete()
    facts = re.search(r"<dt>Executor</dt><dd>(.*?)</dd>", text_of(client, f"/jobs/{job.id}/"))
    assert facts and facts[1] == "gone-node"


def test_what_is_very_long_scrolls_in_its_place(client: Client) -> None:
    short = make_job(command=["true"], env={"MODE": "fast"})
    long = make_job(command=["sh", "-c", "x" * 3000], env={f"V{number}": "1" for number in range(100)})
    for name in ("Command", "Environment"):
        scrolls = f'tabindex="0" role="group" aria-label="{name}"'
        assert scrolls in text_of(client, f"/jobs/{long.id}/")
        assert scrolls not in text_of(client, f"/jobs/{short.id}/")


def test_secrets_are_hidden_and_other_variables_shown(client: Client) -> None:
    page = text_of(client, f"/jobs/{make_job(env={'DB_PASSWORD': 'hunter2', 'MODE': 'fast'}).id}/")
    assert "hunter2" not in page
    assert "DB_PASSWORD" in page
    assert "fast" in page


def test_nothing_that_a_job_is_named_becomes_markup(client: Client) -> None:
    node = make_executor(name=HOSTILE, id="node-1", problem=HOSTILE, labels={HOSTILE: HOSTILE})
    job = make_job(
        State.STARTING,
        node,
        name=HOSTILE,
        command=[HOSTILE],
        env={"A" + HOSTILE.replace("=", ""): HOSTILE},
        labels={HOSTILE: HOSTILE},
    )
    job.attempts.update(progress=HOSTILE, reason_text=HOSTILE)
    Job.objects.update(reason_text=HOSTILE)
    for address in ("/", "/jobs/", f"/jobs/?text={HOSTILE}", f"/jobs/{job.id}/", f"/jobs/new/?from={job.id}",
                    "/executors/", "/executors/node-1/"):  # fmt: skip
        page = text_of(client, address)
        assert "<script>alert" not in page, address
        assert "<img" not in page, address


def test_pages_hold_no_inline_script_or_style_which_the_policy_would_refuse(client: Client) -> None:
    job = make_job(State.RUNNING, make_executor())
    ours = (
        "/",
        "/jobs/",
        f"/jobs/{job.id}/",
        "/jobs/new/",
        "/executors/",
        "/executors/node-1/",
        "/executors/join/",
        "/no/",
    )
    admins = ("/admin/", "/admin/jobs/job/", f"/admin/jobs/job/{job.id}/change/", "/admin/executors/executor/")
    for address in (*ours, *admins):
        response = client.get(address)
        page = response.content.decode()
        assert "default-src 'self'" in response["Content-Security-Policy"]
        assert "unsafe" not in response["Content-Security-Policy"]
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page), address


def test_an_unknown_job_is_answered_with_a_page_that_says_so(client: Client) -> None:
    response = client.get(f"/jobs/{new_job_id()}/")
    assert response.status_code == 404
    assert "There is no job" in response.content.decode()


def test_who_is_not_logged_in_is_sent_to_the_login(db: None) -> None:
    response = Client(headers={"host": "localhost"}).get("/jobs/")
    assert (response.status_code, response["Location"]) == (302, "/login/?next=/jobs/")


def test_the_job_page_costs_the_same_queries_however_many_attempts_it_shows(
    client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    node = make_executor()
    job = make_job(State.FAILED, node)
    now = timezone.now()
    for number in range(2, 30):
        Attempt.objects.create(
            job=job, number=number, executor=node, executor_name=node.name, state=State.FAILED, placed_at=now,
            finished_at=now, start_command=number,
        )  # fmt: skip
    text_of(client, f"/jobs/{job.id}/")
    with django_assert_max_num_queries(7):
        text_of(client, f"/jobs/{job.id}/")


def test_the_page_says_what_happened_and_how_docker_runs_the_container(client: Client) -> None:
    job = make_job(State.RUNNING, make_executor(), env={"TOKEN": "hunter2", "MODE": "fast"})
    JobEvent.objects.create(job=job, at=timezone.now(), kind="priority", by="ann", text="from 0 to 5")
    applied = {
        "Image": "sha256:abc",
        "Config": {"Env": ["TOKEN", "MODE", "PATH"], "Cmd": [HOSTILE]},
        "HostConfig": {"CpuQuota": 50_000, "CpuPeriod": 100_000, "Memory": 2**29, "CapDrop": ["ALL"],
                       "LogConfig": {"Type": "x"}},
    }  # fmt: skip
    ContainerSettings.objects.create(attempt=job.attempts.get(), applied=applied)
    page = text_of(client, f"/jobs/{job.id}/")
    for words in ("sha256:abc", "536870912 (512 MB)", "50000 of every 100000 µs (0.5 cores)", "Type=x", "MODE=fast",
                  "PATH (the image", "Priority changed from 0 to 5", "by ann", "Placed on node-1"):  # fmt: skip
        assert words in page, words
    assert "hunter2" not in page
    assert "<script>alert" not in page


def test_a_pull_is_shown_layer_by_layer(client: Client) -> None:
    job = make_job(State.STARTING, make_executor())
    loading = {"id": "a1", "status": "downloading", "current": 2**20, "total": 2**21}
    layers = [loading, {"id": HOSTILE, "status": "waiting", "current": 0, "total": 0}]
    job.attempts.update(progress="pulling alpine: 50 % of 2.1 MB", layers=layers)
    page = text_of(client, f"/jobs/{job.id}/")
    assert re.search(r'<code>a1</code><progress max="2097152" value="1048576"', page)
    assert "downloading, 1 MB of 2 MB" in page
    assert page.index("Image pulled") < page.index("Created")
    assert "<script>alert" not in page


# --- Abort -------------------------------------------------------------------------------------------------------


def test_aborting_a_waiting_job_ends_it(client: Client) -> None:
    job = make_job()
    assert client.post(f"/jobs/{job.id}/abort/")["Location"] == f"/jobs/{job.id}/"
    job.refresh_from_db()
    assert job.state == State.ABORTED


def test_htmx_gets_the_new_head_of_the_page(client: Client) -> None:
    job = make_job(State.RUNNING, make_executor())
    response = client.post(f"/jobs/{job.id}/abort/", headers={"HX-Request": "true"})
    assert response.content.decode().startswith('<header id="job-head"')
    assert "Aborting…" in response.content.decode()


def test_aborting_what_has_ended_says_so(client: Client) -> None:
    job = make_job(State.SUCCEEDED, make_executor())
    page = client.post(f"/jobs/{job.id}/abort/", follow=True).content.decode()
    assert "already ended" in page


def test_a_job_is_not_aborted_by_looking_at_an_address(client: Client) -> None:
    assert client.get(f"/jobs/{make_job().id}/abort/").status_code == 405
    assert client.post(f"/jobs/{new_job_id()}/abort/").status_code == 404


# --- Its log -----------------------------------------------------------------------------------------------------


def write_log(client: redis.Redis, job: Job, count: int, dropped: int = 0) -> None:
    lines = [f"2026-01-01T00:00:00.{number:06}Z stdout line {number}" for number in range(dropped, count)]
    client.rpush(keys().job_logs(str(job.id)), *lines)
    client.hset(keys().job_logs_meta(str(job.id)), mapping={"lines": count, "dropped": dropped})


def test_earlier_lines_come_by_their_number(client: Client, redis_client: redis.Redis) -> None:
    job = make_job()
    write_log(redis_client, job, 50, dropped=10)
    page = client.get(f"/jobs/{job.id}/log/?offset=20&limit=5").json()
    assert (page["first"], page["total"], page["dropped"]) == (20, 50, 10)
    assert [line.rsplit(" ", 1)[1] for line in page["lines"]] == ["20", "21", "22", "23", "24"]
    assert client.get(f"/jobs/{job.id}/log/?offset=x").status_code == 422


@pytest.mark.django_db(transaction=True)
async def test_the_download_holds_every_kept_line_and_says_what_is_gone(
    redis_client: redis.Redis, async_client: Any, settings: Any
) -> None:
    user = await User.objects.acreate(username="u")
    await async_client.aforce_login(user)
    job = await Job.objects.acreate(image="a", submitted_at=timezone.now(), cpu_millicores=1, memory_bytes=1)
    write_log(redis_client, job, 12_000, dropped=7)
    response = await async_client.get(f"/jobs/{job.id}/log/download/")
    body = "".join([chunk.decode() async for chunk in response.streaming_content])
    assert response["Content-Disposition"] == f'attachment; filename="job-{job.id}.log"'
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    lines = body.splitlines()
    assert "7 lines are gone" in lines[0]
    assert [line.rsplit(" ", 1)[1] for line in lines[1:]] == [str(number) for number in range(7, 12_000)]


def test_without_redis_earlier_lines_are_refused_with_a_reason(local_client: Client, settings: Any) -> None:
    job = make_job()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    response = local_client.get(f"/jobs/{job.id}/log/")
    assert response.status_code == 503
    assert "Redis" in response.json()["detail"]
    assert local_client.get(f"/jobs/{job.id}/").status_code == 200
    assert local_client.get("/").status_code == 200
