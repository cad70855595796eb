"""Submitting and aborting: what is in the database and what was sent when they return."""

import json
from datetime import timedelta

import pytest
import redis
from django.contrib.auth.models import AnonymousUser, User
from django.utils import timezone

from agent.protocol import FIELD, Wake, decode
from executors.broker import keys
from jobs import services
from jobs.lifecycle import State
from jobs.models import Job, new_job_id
from jobs.submission import parse_submission
from tests.parts import free_port

pytestmark = pytest.mark.django_db


def submission(**fields: object) -> services.JobSubmission:
    return parse_submission({"docker_image": "alpine", **fields})


def wakes(client: redis.Redis) -> list[list[str]]:
    events = [decode(entry[FIELD]) for _, entry in client.xrange(keys().events)]
    return [event.job_ids for event in events if isinstance(event, Wake)]


def test_a_submitted_job_is_pending_and_the_scheduler_is_woken(redis_client: redis.Redis) -> None:
    job = services.submit(submission(cpu_cores=0.5, memory_gb=0.5))
    stored = Job.objects.get(id=job.id)
    assert (stored.state, stored.cpu_millicores, stored.memory_bytes) == (State.PENDING, 500, 512 * 1024**2)
    assert timezone.now() - stored.submitted_at < timedelta(seconds=5)
    assert wakes(redis_client) == [[str(job.id)]]


def test_open_pages_are_told_of_a_submission(redis_client: redis.Redis) -> None:
    with redis_client.pubsub() as hints:
        hints.subscribe(keys().changes_channel)
        assert hints.get_message(timeout=2)["type"] == "subscribe"
        job = services.submit(submission())
        message = hints.get_message(timeout=2)
    assert json.loads(message["data"]) == {"jobs": [str(job.id)], "executors": []}


def test_jobs_sort_by_the_time_of_their_submission(redis_client: redis.Redis) -> None:
    ids = [services.submit(submission()).id for _ in range(20)]
    assert ids == sorted(ids)


def test_a_job_belongs_to_who_submitted_it(redis_client: redis.Redis) -> None:
    user = User.objects.create_user("ann")
    assert services.submit(submission(), user).owner == user
    assert services.submit(submission(), AnonymousUser()).owner is None


def test_a_job_is_accepted_while_redis_is_away(settings: object) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"  # type: ignore[attr-defined]
    job = services.submit(submission())
    assert Job.objects.filter(id=job.id, state=State.PENDING).exists()
    assert services.abort(job.id).state == State.ABORTED


def test_a_pending_job_is_aborted_at_once(redis_client: redis.Redis) -> None:
    job = services.submit(submission())
    aborted = services.abort(job.id)
    assert (aborted.state, aborted.reason) == (State.ABORTED, "aborted_by_user")
    assert aborted.finished_at is not None
    assert Job.objects.get(id=job.id).state == State.ABORTED
    assert wakes(redis_client) == [[str(job.id)]] * 2


def test_a_running_job_is_marked_once_for_the_scheduler_to_stop(redis_client: redis.Redis) -> None:
    job = services.submit(submission())
    Job.objects.filter(id=job.id).update(state=State.RUNNING)
    first = services.abort(job.id)
    again = services.abort(job.id)
    assert first.state == again.state == State.RUNNING
    assert first.abort_requested_at is not None
    assert again.abort_requested_at == first.abort_requested_at


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.ABORTED])
def test_a_job_that_has_ended_is_not_aborted(redis_client: redis.Redis, state: State) -> None:
    job = services.submit(submission())
    Job.objects.filter(id=job.id).update(state=state)
    with pytest.raises(services.JobIsFinal, match=state.value):
        services.abort(job.id)
    assert Job.objects.get(id=job.id).state == state


def test_a_job_that_does_not_exist_is_not_found(redis_client: redis.Redis) -> None:
    with pytest.raises(services.JobNotFound):
        services.abort(new_job_id())
