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


# --- Retry, priority, many at once ---------------------------------------------------------------------------------


def ended(state: State = State.FAILED, **fields: object) -> Job:
    job = services.submit(submission(**fields))
    Job.objects.filter(id=job.id).update(state=state, finished_at=timezone.now())
    return Job.objects.get(id=job.id)


def test_a_retry_is_a_new_job_that_asks_for_the_same_and_leaves_the_end_of_the_old_one(
    redis_client: redis.Redis,
) -> None:
    ann = User.objects.create_user("ann")
    old = ended(command=["a", "b"], env={"A": "1"}, cpu_cores=0.5, labels={"zone": "a"}, name="n", priority=3)
    Job.objects.filter(id=old.id).update(owner=ann)
    again = Job.objects.get(id=services.retry(old.id).id)
    asked = ("name", "image", "command", "env", "cpu_millicores", "memory_bytes", "labels", "shape", "priority")
    assert [getattr(again, name) for name in asked] == [getattr(old, name) for name in asked]
    assert (again.retry_of, again.owner, again.state, again.attempt_number) == (old.id, ann, State.PENDING, 0)
    assert Job.objects.get(id=old.id).state == State.FAILED
    assert wakes(redis_client)[-1] == [str(again.id)]


def test_what_has_not_ended_is_not_retried(redis_client: redis.Redis) -> None:
    job = services.submit(submission())
    with pytest.raises(services.JobNotFinal, match="PENDING"):
        services.retry(job.id)
    with pytest.raises(services.JobNotFound):
        services.retry(new_job_id())
    assert Job.objects.count() == 1


def test_every_column_that_a_person_asks_for_is_asked_for_again(redis_client: redis.Redis) -> None:
    assert set(submission().job_fields()) <= set(services._ASKED)


def test_the_priority_of_a_pending_job_can_be_changed(redis_client: redis.Redis) -> None:
    job = services.submit(submission())
    assert services.set_priority(job.id, 7).priority == 7
    assert Job.objects.get(id=job.id).priority == 7
    with pytest.raises(services.InvalidSubmission):
        services.set_priority(job.id, 1001)
    with pytest.raises(services.JobNotPending, match="FAILED"):
        services.set_priority(ended().id, 1)


def test_many_jobs_are_changed_and_those_that_refuse_stop_no_other(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "BULK_CHUNK", 2)
    waiting, over, missing = [services.submit(submission()) for _ in range(3)], ended(), new_job_id()
    ids = [waiting[0].id, over.id, waiting[1].id, missing, waiting[2].id]
    assert services.concerned(services.Action.ABORT, ids) == 3
    outcome = services.change_many(services.Action.ABORT, ids)
    assert [job.id for job in outcome.done] == [job.id for job in waiting]
    assert set(outcome.refused) == {over.id, missing}
    assert set(Job.objects.filter(id__in=[job.id for job in waiting]).values_list("state", flat=True)) == {"ABORTED"}
    again = services.change_many(services.Action.RETRY, ids)
    assert [job.retry_of for job in again.done] == [waiting[0].id, over.id, waiting[1].id, waiting[2].id]
    assert Job.objects.filter(state="PENDING").count() == 4


def test_a_bad_priority_for_many_jobs_changes_none(redis_client: redis.Redis) -> None:
    job = services.submit(submission())
    with pytest.raises(services.InvalidSubmission):
        services.change_many(services.Action.PRIORITY, [job.id], None)
    outcome = services.change_many(services.Action.PRIORITY, [job.id, ended().id], 5)
    assert ([done.priority for done in outcome.done], len(outcome.refused)) == ([5], 1)


def test_who_did_what_to_a_job_is_noted_with_the_change(redis_client: redis.Redis) -> None:
    job = services.submit(submission())
    services.set_priority(job.id, 5, by="ann")
    services.set_priority(job.id, 5, by="ann")
    services.change_many(services.Action.ABORT, [job.id], by="bob")
    again = services.retry(job.id, by="cem")
    with pytest.raises(services.JobIsFinal):
        services.abort(job.id, by="dan")
    noted = [(event.kind, event.by, event.text) for event in job.events.all()]
    assert noted == [("priority", "ann", "from 0 to 5"), ("abort", "bob", ""), ("retry", "cem", str(again.id))]
