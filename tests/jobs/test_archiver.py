"""Logs on their way from Redis to the archive: exact, whatever is interrupted, and bounded."""

import random
import threading
from pathlib import Path

import pytest
import redis
from asgiref.sync import async_to_sync
from django.conf import settings as project_settings
from django.utils import timezone
from pytest_django import Settings

from agent.logs import Superseded
from agent.protocol import ARCHIVE_AFTER_SECONDS
from executors.broker import keys
from jobs import archive, archiver, superseded_logs
from jobs.archive import ArchiveUnavailable
from jobs.archiver import archive_due, delete_doubtful
from jobs.lifecycle import State
from jobs.logs import read_log
from jobs.models import Attempt, Job, LogArchive, LogChunk
from tests.jobs.log_parts import append, archive_all, line, make_job, spans, whole_log, write, writing


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path) -> Path:
    """The archive is a folder of the test's own."""
    settings.STORAGES = {
        **project_settings.STORAGES,
        "archive": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}},
    }
    return tmp_path


@pytest.fixture
def job(transactional_db: None, redis_client: redis.Redis) -> Job:
    return make_job()


def meta(client: redis.Redis, job: Job) -> dict[str, str]:
    found = client.hgetall(keys().job_logs_meta(str(job.id)))
    return {name.decode(): value.decode() for name, value in found.items()}


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.gz"))


def lines(count: int, start: int = 0, width: int = 0) -> list[str]:
    return [line(number, width) for number in range(start, start + count)]


# --- What is archived, and when ----------------------------------------------------------------------------------


def test_a_complete_log_is_archived_at_once_and_then_expires(
    job: Job, redis_client: redis.Redis, folder: Path, settings: Settings
) -> None:
    settings.LOG_RETENTION_SECONDS = 77
    write(job, lines(10), complete=True)
    assert redis_client.ttl(keys().job_logs(str(job.id))) == -1
    archive_due(redis_client)
    assert 0 < redis_client.ttl(keys().job_logs(str(job.id))) <= 77
    assert 0 < redis_client.ttl(keys().job_logs_meta(str(job.id))) <= 77
    assert LogArchive.objects.get(job=job).complete
    redis_client.delete(keys().job_logs(str(job.id)), keys().job_logs_meta(str(job.id)))
    page = read_log(redis_client, job.id, 0)
    assert (page.lines, page.total, page.dropped, page.complete) == (lines(10), 10, 0, True)
    assert redis_client.zcard(keys().logs_to_archive) == 0 == redis_client.zcard(keys().archive_doubts)
    assert len(files(folder)) == 1


def test_a_log_that_was_never_archived_does_not_expire(job: Job, redis_client: redis.Redis) -> None:
    write(job, lines(10), complete=True)
    assert redis_client.ttl(keys().job_logs(str(job.id))) == redis_client.ttl(keys().job_logs_meta(str(job.id))) == -1


def test_a_new_attempt_keeps_the_log_from_expiring(job: Job, redis_client: redis.Redis) -> None:
    write(job, lines(10), complete=True)
    archive_due(redis_client)
    write(job, lines(5, 10), attempt=2)
    assert redis_client.ttl(keys().job_logs(str(job.id))) == redis_client.ttl(keys().job_logs_meta(str(job.id))) == -1
    archive_all(redis_client)
    assert LogArchive.objects.get(job=job).begins == {"1": 0, "2": 10}
    assert not LogArchive.objects.get(job=job).complete
    assert whole_log(redis_client, job) == lines(15)


def test_few_young_lines_wait(job: Job, redis_client: redis.Redis) -> None:
    write(job, lines(10))
    archive_due(redis_client)  # The look at a new log.
    write(job, lines(10, 10))
    due = redis_client.zscore(keys().logs_to_archive, str(job.id))
    assert due is not None and 0 < due - redis_client.time()[0] <= ARCHIVE_AFTER_SECONDS
    assert not archive_due(redis_client)
    assert spans(job) == [(0, 10)]


def test_much_is_archived_at_once_in_pieces(job: Job, redis_client: redis.Redis) -> None:
    written = lines(40_000, width=100)
    write(job, written)
    archive_due(redis_client)
    assert sum(count for _, count in spans(job)) > 30_000
    assert all(size <= 1024**2 + 101 for size in LogChunk.objects.values_list("bytes", flat=True))
    archive_all(redis_client)
    assert whole_log(redis_client, job, 777) == written


def test_a_log_that_grows_slowly_ends_up_in_few_files(job: Job, redis_client: redis.Redis, folder: Path) -> None:
    for number in range(100):
        write(job, lines(3, 3 * number))
        archive_all(redis_client)
    assert len(spans(job)) <= 8
    assert whole_log(redis_client, job) == lines(300)
    redis_client.delete(keys().job_logs(str(job.id)), keys().job_logs_meta(str(job.id)))
    assert whole_log(redis_client, job) == lines(300)


def test_files_that_were_joined_go_after_a_while(
    job: Job, redis_client: redis.Redis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        write(job, lines(3, 3 * number))
        archive_all(redis_client)
    assert len(files(folder)) > len(spans(job))
    delete_doubtful(redis_client)
    assert len(files(folder)) > len(spans(job))  # A reader may just read one.
    monkeypatch.setattr(archiver, "DOUBT_SECONDS", -1)
    delete_doubtful(redis_client)
    assert files(folder) == sorted(LogChunk.objects.values_list("name", flat=True))
    assert whole_log(redis_client, job) == lines(30)


def test_looking_costs_the_same_however_many_jobs_there_are(job: Job, redis_client: redis.Redis) -> None:
    redis_client.zadd(keys().logs_to_archive, {f"{number}": 2e9 for number in range(1000)})
    redis_client.config_resetstat()
    assert not archive_due(redis_client)
    calls = redis_client.info("commandstats")
    assert {name for name in calls if not name.startswith(("cmdstat_config", "cmdstat_info"))} == {
        "cmdstat_eval",
        "cmdstat_time",
        "cmdstat_zrangebyscore",
    }


# --- Exact, through tiny limits ----------------------------------------------------------------------------------


def test_three_hundred_thousand_lines_are_exact_through_tiny_limits(job: Job, redis_client: redis.Redis) -> None:
    """Redis holds 256 KiB, at most twice that; a reader pages through while the log moves on."""
    written = lines(300_000)
    rng = random.Random(5)
    writing = threading.Thread(target=write, args=(job, written), kwargs={"limit": 256 * 1024, "batch": 1000})
    writing.start()
    read: list[str] = []
    largest = 0
    while len(read) < len(written) and (writing.is_alive() or redis_client.zcard(keys().logs_to_archive)):
        if rng.random() < 0.5:
            archive_due(redis_client)
        page = read_log(redis_client, job.id, len(read), rng.randint(1, 5000))
        assert page.first == len(read)
        read += page.lines
        state = {name: int(value) for name, value in meta(redis_client, job).items() if value.isdecimal()}
        assert state.get("dropped", 0) <= state.get("archived", 0)
        largest = max(largest, state.get("bytes", 0))
    writing.join()
    assert largest <= 2 * 256 * 1024
    assert read + read_log(redis_client, job.id, len(read), 300_000).lines == written
    assert int(meta(redis_client, job)["dropped"]) > 250_000
    tail = read_log(redis_client, job.id, None, 20_000)
    assert (tail.first, tail.lines) == (280_000, written[280_000:])
    middle = read_log(redis_client, job.id, 150_000, 10)
    assert (middle.first, middle.lines) == (150_000, written[150_000:150_010])


# --- Interrupted -------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


def kill(*args: object) -> None:
    raise Killed


@pytest.mark.parametrize("moment", ["_store", "_count", "_mark"])
def test_an_archiver_killed_between_two_steps_loses_and_doubles_nothing(
    job: Job, redis_client: redis.Redis, folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write(job, lines(100))
    archive_due(redis_client)
    write(job, lines(100, 100), complete=True)
    with monkeypatch.context() as patch:
        patch.setattr(archiver, moment, kill)
        with pytest.raises(Killed):
            archive_due(redis_client)
    assert int(meta(redis_client, job)["archived"]) == 100
    assert redis_client.ttl(keys().job_logs(str(job.id))) == -1
    archive_all(redis_client)
    assert whole_log(redis_client, job) == lines(200)
    redis_client.delete(keys().job_logs(str(job.id)), keys().job_logs_meta(str(job.id)))
    assert whole_log(redis_client, job) == lines(200)
    monkeypatch.setattr(archiver, "DOUBT_SECONDS", -1)
    delete_doubtful(redis_client)
    assert files(folder) == sorted(LogChunk.objects.values_list("name", flat=True))
    assert redis_client.zcard(keys().archive_doubts) == 0


def test_of_two_archivers_that_took_the_same_lines_one_counts(
    job: Job, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(job, lines(100), complete=True)
    store = archiver._store

    def overtaken(client: redis.Redis, takes: list[archiver.Take]) -> None:
        store(client, takes)
        monkeypatch.setattr(archiver, "_store", store)
        write(job, lines(50, 100), attempt=2)
        archive_all(client)

    monkeypatch.setattr(archiver, "_store", overtaken)
    archive_due(redis_client)
    archive_all(redis_client)
    assert sum(count for _, count in spans(job)) == 150 == LogArchive.objects.get(job=job).lines
    redis_client.delete(keys().job_logs(str(job.id)), keys().job_logs_meta(str(job.id)))
    assert whole_log(redis_client, job) == lines(150)


def test_an_archive_that_is_away_loses_nothing_and_is_said(
    job: Job, redis_client: redis.Redis, folder: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write(job, lines(100), complete=True)
    (folder / "logs").write_text("in the way")
    with pytest.raises(ArchiveUnavailable):
        archiver.work()
    assert b"archive" in (redis_client.get(keys().archive_trouble) or b"")
    assert whole_log(redis_client, job) == lines(100)
    assert redis_client.ttl(keys().job_logs(str(job.id))) == -1
    (folder / "logs").unlink()
    archiver.work()
    assert redis_client.get(keys().archive_trouble) is None
    assert LogArchive.objects.get(job=job).lines == 100


def test_a_log_without_a_job_does_not_stop_the_others(job: Job, redis_client: redis.Redis) -> None:
    for name in ("nonsense", "0190a000-0000-7000-8000-000000000001"):
        redis_client.zadd(keys().logs_to_archive, {name: 0})
    write(job, lines(10), complete=True)
    archive_due(redis_client)
    assert spans(job) == [(0, 10)]
    assert redis_client.zcard(keys().logs_to_archive) == 0


# --- Redis emptied or restored -----------------------------------------------------------------------------------


def test_a_log_written_anew_into_an_emptied_redis_is_archived_once(job: Job, redis_client: redis.Redis) -> None:
    write(job, lines(100))
    archive_all(redis_client)
    redis_client.flushall()
    assert whole_log(redis_client, job) == lines(100)
    write(job, lines(150))
    archive_all(redis_client)
    assert whole_log(redis_client, job) == lines(150)
    assert spans(job)[-1][0] + spans(job)[-1][1] == 150


def test_while_it_is_written_anew_readers_have_the_archived_lines(job: Job, redis_client: redis.Redis) -> None:
    write(job, lines(100))
    archive_all(redis_client)
    redis_client.flushall()
    write(job, lines(30))
    assert whole_log(redis_client, job) == lines(100)
    archive_all(redis_client)
    assert whole_log(redis_client, job) == lines(100)
    assert read_log(redis_client, job.id, None, 10).lines == lines(10, 90)


def test_an_emptied_redis_does_not_shift_the_lines_of_a_later_attempt(job: Job, redis_client: redis.Redis) -> None:
    write(job, lines(100), complete=True)
    write(job, lines(20, 100), attempt=2)
    archive_all(redis_client)
    redis_client.flushall()
    write(job, lines(50, 100), attempt=2, complete=True)
    archive_all(redis_client)
    assert whole_log(redis_client, job) == lines(150)
    assert LogArchive.objects.get(job=job).begins == {"1": 0, "2": 100}
    write(job, lines(5, 150), attempt=3, complete=True)
    archive_all(redis_client)
    assert whole_log(redis_client, job) == lines(155)


def test_an_attempt_that_redis_forgot_whole_comes_after_what_was_archived(job: Job, redis_client: redis.Redis) -> None:
    write(job, lines(100), complete=True)
    archive_all(redis_client)
    redis_client.flushall()
    write(job, lines(50, 100), attempt=2, complete=True)
    archive_all(redis_client)
    assert whole_log(redis_client, job) == lines(150)


def test_an_earlier_attempts_lines_that_were_not_archived_come_before_a_later_ones(
    job: Job, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was emptied with a part of the first attempt archived and the second begun: both agents write again."""
    first, second = lines(30, width=60_000), lines(5, 30)
    write(job, first, complete=True)
    write(job, second, attempt=2)
    monkeypatch.setattr(archiver, "PIECES_A_JOB", 1)
    archive_due(redis_client)
    archived = LogArchive.objects.get(job=job)
    assert archived.lines < 30 and archived.begins == {"1": 0, "2": 30}
    redis_client.flushall()
    Job.objects.filter(id=job.id).update(attempt_number=2)
    write(job, first, complete=True)
    for _ in range(3):
        archive_due(redis_client)
    write(job, second, attempt=2, complete=True)
    archive_all(redis_client)
    assert whole_log(redis_client, job) == [*first, *second]


def test_of_attempts_written_anew_one_after_the_other_none_loses_a_line(job: Job, redis_client: redis.Redis) -> None:
    write(job, lines(100), complete=True)
    write(job, lines(10, 100), attempt=2)
    archive_all(redis_client)
    redis_client.flushall()
    ended_with_attempt(job, 3)
    write(job, lines(20, 100), attempt=2, complete=True)
    archive_due(redis_client)
    assert LogArchive.objects.get(job=job).lines == 120, "the third attempt waits for that"
    write(job, lines(5, 120), attempt=3, complete=True)
    archive_all(redis_client)
    assert whole_log(redis_client, job) == lines(125)


def test_an_attempt_that_never_had_a_container_is_not_missing_from_the_log(
    job: Job, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    write(job, lines(10), complete=True)
    ended_with_attempt(job, 2)
    Attempt.objects.filter(job=job, number=2).update(container_id="")
    archive_all(redis_client)
    assert whole_log(redis_client, job) == lines(10)


def ended_with_attempt(job: Job, number: int) -> None:
    now = timezone.now()
    for n in range(1, number + 1):
        attempt = Attempt(job=job, number=n, container_id=f"c{n}", start_command=n, state=State.FAILED)
        attempt.placed_at = attempt.finished_at = now
        attempt.save()
    Job.objects.filter(id=job.id).update(state=State.SUCCEEDED, attempt_number=number, finished_at=timezone.now())


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superseded_logs, "PATIENCE_SECONDS", 0)


def test_a_superseded_attempts_log_in_an_emptied_redis_says_that_the_last_ones_is_missing(
    job: Job, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_with_attempt(job, 2)
    write(job, lines(10), complete=True)
    archive_due(redis_client)
    assert not LogArchive.objects.filter(job=job).exists(), "the last attempt's agent is waited for"
    later(monkeypatch)
    archive_all(redis_client)
    *first, note = whole_log(redis_client, job)
    assert first == lines(10)
    assert "What attempt 2 printed" in note
    assert LogArchive.objects.get(job=job).complete
    assert redis_client.zcard(keys().logs_to_archive) == 0


def test_a_last_attempt_that_turns_up_in_time_follows_the_superseded_one(job: Job, redis_client: redis.Redis) -> None:
    ended_with_attempt(job, 2)
    write(job, lines(10), complete=True)
    archive_due(redis_client)
    write(job, lines(5, 100), attempt=2, complete=True)
    archive_all(redis_client)
    assert whole_log(redis_client, job) == [*lines(10), *lines(5, 100)]


def test_a_superseded_attempt_adds_nothing_behind_what_the_archive_has_of_a_later_one(
    job: Job, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(job, lines(10), complete=True)
    write(job, lines(5, 100), attempt=2)
    archive_all(redis_client)
    redis_client.flushdb()
    ended_with_attempt(job, 2)
    write(job, lines(40), complete=True)
    later(monkeypatch)
    archive_all(redis_client)
    *kept, note = whole_log(redis_client, job)
    assert kept == [*lines(10), *lines(5, 100)]
    assert "What attempt 2 printed" in note
    assert LogArchive.objects.get(job=job).complete
    with pytest.raises(Superseded):
        write(job, lines(40))


def test_a_later_attempt_that_still_runs_goes_on_where_a_superseded_one_gave_way(
    job: Job, redis_client: redis.Redis
) -> None:
    write(job, lines(10), complete=True)
    write(job, lines(5, 100), attempt=2)
    archive_all(redis_client)
    redis_client.flushdb()
    Job.objects.filter(id=job.id).update(attempt_number=2)
    write(job, lines(40), complete=True)
    archive_all(redis_client)
    write(job, lines(8, 100), attempt=2, complete=True)
    archive_all(redis_client)
    assert whole_log(redis_client, job) == [*lines(10), *lines(8, 100)]


def test_lines_that_nobody_could_place_come_after_what_was_archived(job: Job, redis_client: redis.Redis) -> None:
    """The agent was restarted, too, and Docker had dropped the beginning: what is left are not the first lines."""
    for archived, attempt in ((100, 1), (20, 2)):
        begin = LogArchive.objects.filter(job=job).values_list("lines", flat=True).first() or 0
        write(job, lines(archived, begin), attempt)
        archive_all(redis_client)
        redis_client.flushall()
        write_unplaced(job, lines(50, begin + archived), attempt)
        archive_all(redis_client)
        assert whole_log(redis_client, job) == lines(begin + archived + 50)
        write(job, lines(5, begin + archived + 50), attempt, complete=True)
        archive_all(redis_client)
        assert whole_log(redis_client, job) == lines(begin + archived + 55)
        redis_client.flushall()


@async_to_sync
async def write_unplaced(job: Job, texts: list[str], attempt: int) -> None:
    async with writing(job, attempt) as writer:
        await writer.skip(None)
        await append(writer, texts)


def test_an_older_redis_restored_does_not_shift_lines(job: Job, redis_client: redis.Redis) -> None:
    """As after a crash of a Redis that saves now and then: attempt 2 began in what was lost."""
    write(job, lines(60))
    archive_all(redis_client)
    log, state = (redis_client.dump(name(str(job.id))) for name in (keys().job_logs, keys().job_logs_meta))
    write(job, lines(40, 60), complete=True)
    write(job, lines(10, 100), attempt=2)
    archive_all(redis_client)
    redis_client.flushall()
    redis_client.restore(keys().job_logs(str(job.id)), 0, log)
    redis_client.restore(keys().job_logs_meta(str(job.id)), 0, state)
    write(job, lines(30, 100), attempt=2, complete=True)
    archive_all(redis_client)
    assert whole_log(redis_client, job) == lines(130)
    redis_client.flushall()
    assert whole_log(redis_client, job) == lines(130)


# --- The archive's own limit -------------------------------------------------------------------------------------


def test_a_log_over_the_archives_limit_keeps_head_and_tail(
    job: Job, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.LOG_ARCHIVE_LIMIT_BYTES = 100_000
    written = lines(20_000, width=99)
    for start in range(0, 20_000, 1000):
        write(job, written[start : start + 1000])
        archive_all(redis_client)
    redis_client.flushall()
    head = read_log(redis_client, job.id, 0, 10_000)
    gap = read_log(redis_client, job.id, head.next_offset, 10_000)
    missing = LogChunk.objects.get(name="")
    assert head.lines == written[: len(head.lines)] and head.cut == 0
    assert (gap.first, gap.cut, gap.next_offset) == (missing.first, missing.count, missing.end)
    assert len(gap.lines) == 1 and f"{gap.cut:,} lines" in gap.lines[0] and "cut" in gap.lines[0]
    assert gap.lines[0].split(" ")[0] == written[gap.first].split(" ")[0]
    assert read_log(redis_client, job.id, 10_000, 10) == gap
    assert read_log(redis_client, job.id, gap.next_offset, 10_000).lines == written[gap.next_offset :]
    kept = LogArchive.objects.get(job=job).kept_bytes
    assert 80_000 <= kept <= 100_000
    assert kept == sum(LogChunk.objects.exclude(name="").values_list("bytes", flat=True))
    assert 35_000 <= 100 * gap.first <= 50_000 <= 100 * (20_000 - gap.next_offset) + 15_000
    end = read_log(redis_client, job.id, None, 5)
    assert (end.first, end.lines, end.total) == (19_995, written[19_995:], 20_000)


def test_the_tail_of_a_cut_log_begins_after_the_gap(job: Job, redis_client: redis.Redis, settings: Settings) -> None:
    settings.LOG_ARCHIVE_LIMIT_BYTES = 10_000
    written = lines(2000, width=99)
    for start in range(0, 2000, 100):
        write(job, written[start : start + 100])
        archive_all(redis_client)
    redis_client.flushall()
    page = read_log(redis_client, job.id, None, 1500)
    gap = LogChunk.objects.get(name="")
    assert page.first == gap.end and page.lines == written[gap.end :]


def test_a_file_that_somebody_deleted_is_said_to_be_missing(job: Job, redis_client: redis.Redis, folder: Path) -> None:
    write(job, lines(100), complete=True)
    archive_all(redis_client)
    redis_client.flushall()
    archive.delete([LogChunk.objects.get(job=job).name])
    page = read_log(redis_client, job.id, 0)
    assert (page.cut, page.next_offset) == (100, 100)
    assert "100 lines" in page.lines[0] and "no longer has" in page.lines[0]


def test_lines_lost_before_there_was_an_archive_are_said_to_be_missing(job: Job, redis_client: redis.Redis) -> None:
    write(job, lines(100), complete=True)
    redis_client.ltrim(keys().job_logs(str(job.id)), 40, -1)
    redis_client.hset(keys().job_logs_meta(str(job.id)), "dropped", 40)
    archive_all(redis_client)
    page = read_log(redis_client, job.id, 0)
    assert (page.cut, page.next_offset) == (40, 40)
    assert read_log(redis_client, job.id, 40).lines == lines(60, 40)
