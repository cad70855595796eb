"""Jobs and executors in Django's admin: to look at and to abort, never to write a state."""

import pytest
import redis
from django.test import Client

from jobs import admin
from jobs.lifecycle import State
from jobs.models import Job
from tests.rows import make_executor, make_job


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def test_jobs_are_listed_found_and_filtered(client: Client) -> None:
    make_job(State.RUNNING, make_executor(), name="found")
    make_job(name="other")
    page = client.get("/admin/jobs/job/?q=found&state__exact=RUNNING").content.decode()
    assert "found" in page
    assert "other" not in page


def test_a_job_is_shown_with_its_attempts_and_without_secrets_and_cannot_be_changed(client: Client) -> None:
    job = make_job(State.RUNNING, make_executor(), env={"API_KEY": "hunter2", "A": "1"})
    address = f"/admin/jobs/job/{job.id}/change/"
    page = client.get(address).content.decode()
    assert "hunter2" not in page
    assert "API_KEY" in page
    assert "node-1" in page
    assert client.post(address, {"state": "SUCCEEDED"}).status_code == 403
    assert client.post(f"/admin/jobs/job/{job.id}/delete/", {"post": "yes"}).status_code == 403
    job.refresh_from_db()
    assert job.state == State.RUNNING


def test_the_selected_jobs_are_aborted_as_everywhere_else(client: Client) -> None:
    waiting, running = make_job(), make_job(State.RUNNING, make_executor())
    ended = make_job(State.SUCCEEDED, make_executor("node-2"))
    chosen = {"action": "abort", "_selected_action": [str(job.id) for job in (waiting, running, ended)]}
    page = client.post("/admin/jobs/job/", chosen, follow=True).content.decode()
    assert "2 asked to abort; 1 had ended already." in page
    assert Job.objects.get(id=waiting.id).state == State.ABORTED
    assert Job.objects.get(id=running.id).is_aborting
    assert Job.objects.get(id=ended.id).state == State.SUCCEEDED


def test_reasons_and_words_are_looked_for_among_the_newest_jobs_and_an_id_among_all(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (make_job(State.FAILED, make_executor(node), name=f"same-{node}") for node in "ab")
    Job.objects.update(reason="oom_killed")
    both = client.get("/admin/jobs/job/?reason=oom_killed").content.decode()
    monkeypatch.setattr(admin, "LOOKED_THROUGH", 1)
    for query in ("reason=oom_killed", "q=same"):
        page = client.get(f"/admin/jobs/job/?{query}").content.decode()
        assert new.name in page, query
        assert old.name in both
        assert old.name not in page, query
    assert old.name in client.get(f"/admin/jobs/job/?q={old.id}").content.decode()
