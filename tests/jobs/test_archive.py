"""The archive's files in a folder and in a bucket: kept, read, deleted; and what is said when the storage is away."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import redis
from asgiref.sync import async_to_sync
from django.conf import settings as project_settings
from django.core.files.storage import FileSystemStorage, storages
from django.test import Client
from pytest_django import Settings

from executors import broker
from jobs import archive, archiver
from jobs.archive import ArchiveUnavailable, ChunkGone
from jobs.bucket import Bucket
from jobs.logs import read_log_async
from jobs.models import LogArchive
from tests.cluster import wait_for
from tests.jobs.log_parts import archive_all, line, make_job, whole_log, write
from tests.parts import free_port

JOB = "0190a000-0000-7000-8000-000000000001"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of a server that speaks S3, of this test run alone."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/moto-api/").status_code == 200
        except httpx.TransportError:
            return False

    wait_for("the S3 server", answers, timeout=30)
    yield url
    process.terminate()
    process.wait()


def use(settings: Settings, backend: str, **options: Any) -> None:
    settings.STORAGES = {**project_settings.STORAGES, "archive": {"BACKEND": backend, "OPTIONS": options}}


def use_bucket(settings: Settings, url: str) -> None:
    use(
        settings,
        "jobs.bucket.Bucket",
        bucket_name="logs",
        endpoint_url=url,
        region_name="us-east-1",
        location="cluster",
    )


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of storage, as the settings make them."""
    if request.param == "folder":
        use(settings, "django.core.files.storage.FileSystemStorage", location=tmp_path)
        assert isinstance(storages["archive"], FileSystemStorage)
    else:
        url = request.getfixturevalue("s3_server")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        s3.create_bucket(Bucket="logs")
        use_bucket(settings, url)
        assert isinstance(storages["archive"], Bucket)
    return str(request.param)


# --- Files -------------------------------------------------------------------------------------------------------


def test_what_was_stored_is_read_line_by_line(storage: str) -> None:
    name = archive.new_name(JOB, 7, 3)
    archive.store(name, b"a\n\nc \xff\n")
    assert archive.read(name) == [b"a", b"", b"c \xff"]
    assert archive.job_of(name) == JOB


def test_two_files_of_the_same_lines_bear_different_names(storage: str) -> None:
    one, other = archive.new_name(JOB, 0, 1), archive.new_name(JOB, 0, 1)
    archive.store(one, b"one\n")
    archive.store(other, b"other\n")
    assert (archive.read(one), archive.read(other)) == ([b"one"], [b"other"])


def test_a_file_that_is_not_there_is_told_apart_from_a_storage_that_is_away(storage: str) -> None:
    with pytest.raises(ChunkGone):
        archive.read(archive.new_name(JOB, 0, 1))
    archive.delete([archive.new_name(JOB, 0, 1)])


def test_a_damaged_file_counts_as_gone(storage: str) -> None:
    name = archive.new_name(JOB, 0, 1)
    archive.store(name, b"a\n")
    with archive.storage().open(name) as file:
        packed = file.read()
    archive.delete([name])
    archive.storage().save(name, archive.ContentFile(packed[:-5]))
    with pytest.raises(ChunkGone, match="damaged"):
        archive.read(name)


def test_all_files_of_a_job_are_deleted_and_no_others(storage: str) -> None:
    other = archive.new_name("0190a000-0000-7000-8000-000000000002", 0, 1)
    archive.store(other, b"other\n")
    names = [archive.new_name(JOB, number, 1) for number in range(3)]
    for name in names:
        archive.store(name, b"x\n")
    archive.delete_job(JOB)
    archive.delete_job(JOB)
    assert [name for name in names if archive.storage().exists(name)] == []
    assert archive.storage().exists(other)
    assert "0190a000-0000-7000-8000-000000000001" not in archive.storage().listdir("logs")[0]


# --- A log's way -------------------------------------------------------------------------------------------------


def test_a_log_is_read_across_archive_and_redis(
    storage: str, transactional_db: None, redis_client: redis.Redis
) -> None:
    job = make_job()
    written = [line(number, 100) for number in range(30_000)]
    write(job, written[:20_000])
    archive_all(redis_client)
    write(job, written[20_000:], limit=600_000, complete=True, batch=500)
    assert int(redis_client.hget(broker.keys().job_logs_meta(str(job.id)), "dropped") or 0) > 15_000
    assert whole_log(redis_client, job) == written
    page = async_to_sync(read_page)(job.id, 19_990, 20)
    assert (page.first, page.lines, page.total) == (19_990, written[19_990:20_010], 30_000)
    archive_all(redis_client)
    redis_client.flushall()
    assert whole_log(redis_client, job, 4321) == written
    page = async_to_sync(read_page)(job.id, None, 20)
    assert (page.first, page.lines, page.complete) == (29_980, written[29_980:], True)


async def read_page(job_id: object, offset: int | None, limit: int) -> Any:
    async with broker.async_client() as client:
        return await read_log_async(client, str(job_id), offset, limit)


def test_the_api_reads_a_log_that_redis_has_forgotten(
    local_client: Client, transactional_db: None, redis_client: redis.Redis, settings: Settings, tmp_path: Path
) -> None:
    use(settings, "django.core.files.storage.FileSystemStorage", location=tmp_path)
    job = make_job()
    written = [line(number).replace("stdout", "stderr" if number % 2 else "stdout") for number in range(3000)]
    write(job, written, complete=True)
    archive_all(redis_client)
    redis_client.flushall()
    answer = local_client.get(f"/api/v1/jobs/{job.id}/logs?offset=1500&limit=2")
    assert answer.content.decode() == "".join(f"{text}\n" for text in written[1500:1502])
    assert (answer["X-Log-Total"], answer["X-Next-Offset"], answer["X-Log-Dropped"]) == ("3000", "1502", "0")
    answer = local_client.get(f"/api/v1/jobs/{job.id}/logs?offset=0&limit=4&stream=stderr")
    assert answer.content.decode() == f"{written[1]}\n{written[3]}\n"
    assert local_client.get(f"/jobs/{job.id}").json()["logs"] == written[-100:]
    shown = local_client.get(f"/jobs/{job.id}/log/?offset=10&limit=5")
    assert shown.status_code == 200 and shown.json()["lines"] == written[10:15]


# --- Away --------------------------------------------------------------------------------------------------------


def test_a_bucket_that_does_not_answer_loses_nothing(
    transactional_db: None,
    redis_client: redis.Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    s3_server: str,
    local_client: Client,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket="logs")
    job = make_job()
    written = [line(number) for number in range(100)]
    write(job, written, complete=True)
    use_bucket(settings, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ArchiveUnavailable):
        archiver.work()
    assert whole_log(redis_client, job) == written
    assert not LogArchive.objects.exists()
    use_bucket(settings, s3_server)
    archiver.work()
    assert LogArchive.objects.get().lines == 100
    redis_client.flushall()
    use_bucket(settings, f"http://127.0.0.1:{free_port()}")
    archive.read.cache_clear()
    answer = local_client.get(f"/api/v1/jobs/{job.id}/logs")
    assert answer.status_code == 503 and "archive" in answer.content.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_full_disk_loses_nothing(
    transactional_db: None, redis_client: redis.Redis, settings: Settings, tmp_path: Path
) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"NO TMPFS CAN BE MOUNTED, so this test proves nothing here: {mounted.stderr}")
    try:
        use(settings, "django.core.files.storage.FileSystemStorage", location=tmp_path)
        job = make_job()
        write(job, [line(number) for number in range(100)], complete=True)
        (tmp_path / "ballast").write_bytes(bytes(64 * 1024))
        with pytest.raises(ArchiveUnavailable, match="No space"):
            archiver.work()
        assert len(whole_log(redis_client, job)) == 100
        (tmp_path / "ballast").unlink()
        archiver.work()
        assert LogArchive.objects.get().lines == 100
    finally:
        subprocess.run(["umount", tmp_path], check=True)
