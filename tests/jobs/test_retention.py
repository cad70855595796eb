"""What is deleted when it is too old or belongs to nothing any more, and what is not."""

from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import redis
from django.conf import settings as project_settings
from django.utils import timezone
from pytest_django import Settings

from executors.broker import keys
from jobs import retention
from jobs.lifecycle import State
from jobs.models import Attempt, Job, LogArchive, LogChunk
from jobs.retention import Cleaner, delete_leftovers, delete_old_jobs
from tests.jobs.log_parts import archive_all, line, write
from tests.rows import make_executor, make_job

STRANGER = "0190a000-0000-7000-8000-000000000001"


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path, transactional_db: None, redis_client: redis.Redis) -> Path:
    settings.STORAGES = {
        **project_settings.STORAGES,
        "archive": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}},
    }
    settings.JOB_RETENTION_DAYS = 30
    return tmp_path


def job_of_age(days: float, state: State = State.SUCCEEDED) -> Job:
    """A job submitted and, where it has ended, ended that many days ago, with an archived log that Redis has, too."""
    job = make_job(state)
    then = timezone.now() - timedelta(days=days)
    young, old = job.id, UUID(int=(int(then.timestamp() * 1000) << 80) | (job.id.int & ((1 << 80) - 1)))
    Job.objects.filter(id=young).update(id=old, submitted_at=then)
    Job.objects.filter(id=old).update(finished_at=then if state in (State.SUCCEEDED, State.FAILED) else None)
    return Job.objects.get(id=old)


def with_log(client: redis.Redis, job: Job, complete: bool = True) -> Job:
    write(job, [line(number) for number in range(5)], complete=complete)
    archive_all(client)
    return job


def log_keys(job_id: object) -> tuple[str, str]:
    return keys().job_logs(str(job_id)), keys().job_logs_meta(str(job_id))


# --- Old jobs ----------------------------------------------------------------------------------------------------


def test_old_jobs_go_with_all_that_is_theirs(redis_client: redis.Redis, folder: Path) -> None:
    old, young = with_log(redis_client, job_of_age(31)), with_log(redis_client, job_of_age(29))
    running = with_log(redis_client, job_of_age(40, State.RUNNING))
    ended = {"state": State.SUCCEEDED, "finished_at": timezone.now()}
    Attempt.objects.create(job=old, number=1, placed_at=timezone.now(), start_command=1, **ended)
    assert not delete_old_jobs(redis_client, timezone.now())
    assert set(Job.objects.values_list("id", flat=True)) == {young.id, running.id}
    assert not Attempt.objects.exists()
    assert not LogArchive.objects.filter(job_id=old.id).exists() and not LogChunk.objects.filter(job_id=old.id).exists()
    assert {path.name for path in (folder / "logs").iterdir()} == {str(young.id), str(running.id)}
    assert redis_client.exists(*log_keys(old.id)) == 0 and redis_client.exists(*log_keys(young.id)) == 2


def test_by_default_jobs_are_kept_for_ever(redis_client: redis.Redis, settings: Settings) -> None:
    settings.JOB_RETENTION_DAYS = 0
    job_of_age(3000)
    assert not delete_old_jobs(redis_client, timezone.now())
    assert Job.objects.count() == 1


def test_a_job_that_ran_long_counts_from_its_end(redis_client: redis.Redis) -> None:
    job = job_of_age(40)
    Job.objects.filter(id=job.id).update(finished_at=timezone.now())
    delete_old_jobs(redis_client, timezone.now())
    assert Job.objects.count() == 1


def test_many_old_jobs_go_a_bounded_number_at_a_time(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "JOBS_A_STEP", 2)
    for _ in range(5):
        job_of_age(31)
    assert Cleaner().work() == 0
    assert Job.objects.count() == 3
    assert [Cleaner().work() for _ in range(2)] == [0, retention.STEP_SECONDS]
    assert Job.objects.count() == 0


# --- Leftovers ---------------------------------------------------------------------------------------------------


def test_a_log_whose_job_does_not_exist_is_deleted(redis_client: redis.Redis, folder: Path) -> None:
    job = with_log(redis_client, job_of_age(0))
    Job.objects.filter(id=job.id).delete()
    redis_client.rpush(keys().job_logs(STRANGER), "x")
    delete_leftovers(redis_client)
    assert redis_client.exists(*log_keys(job.id), *log_keys(STRANGER)) == 0
    assert list((folder / "logs").iterdir()) == []


def test_a_log_that_never_became_complete_expires_when_it_is_archived(redis_client: redis.Redis) -> None:
    lost, running = job_of_age(1, State.FAILED), job_of_age(1, State.RUNNING)
    write(lost, [line(0)])
    write(running, [line(0)])
    redis_client.delete(keys().logs_to_archive)
    delete_leftovers(redis_client)
    assert {redis_client.ttl(key) for key in log_keys(lost.id)} == {-1}
    archive_all(redis_client)
    delete_leftovers(redis_client)
    assert all(redis_client.ttl(key) > 0 for key in log_keys(lost.id))
    assert {redis_client.ttl(key) for key in log_keys(running.id)} == {-1}
    assert LogArchive.objects.count() == 2


def test_the_log_of_a_job_that_has_just_ended_is_left_alone(redis_client: redis.Redis) -> None:
    job = with_log(redis_client, job_of_age(0, State.FAILED), complete=False)
    delete_leftovers(redis_client)
    assert {redis_client.ttl(key) for key in log_keys(job.id)} == {-1}


def test_streams_of_executors_that_do_not_exist_are_deleted(redis_client: redis.Redis) -> None:
    make_executor("here")
    streams = [stream(node) for node in ("here", "gone") for stream in (keys().commands, keys().samples)]
    for stream in streams:
        redis_client.xadd(stream, {"m": "x"})
    delete_leftovers(redis_client)
    assert [redis_client.exists(stream) for stream in streams] == [1, 1, 0, 0]


def test_replies_that_nobody_fetched_expire(redis_client: redis.Redis) -> None:
    redis_client.rpush(keys().reply("a"), "x")
    delete_leftovers(redis_client)
    assert 0 < redis_client.ttl(keys().reply("a")) <= 60


def test_keys_of_others_are_left_alone(redis_client: redis.Redis, settings: Settings) -> None:
    others = ["job_logs:not-an-id", "executor:gone", "executor:gone:elsewhere", f"other:job_logs:{STRANGER}", "events"]
    for key in others:
        redis_client.set(key, "x")
    delete_leftovers(redis_client)
    settings.REDIS_KEY_PREFIX = "oth*["
    redis_client.rpush(f"oth*[job_logs:{STRANGER}", "x")
    delete_leftovers(redis_client)
    assert sorted(key.decode() for key in redis_client.scan_iter()) == sorted(others)
