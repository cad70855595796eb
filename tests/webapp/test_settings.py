"""Settings come from the environment; what makes no sense is refused when the process starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = "import webapp.settings as s; print({})"


def read(tmp_path: Path, expression: str, **environment: str) -> str:
    """The value of an expression of settings `s`, or the last line of what the process said when it refused."""
    env = {"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path), **environment}
    process = subprocess.run([sys.executable, "-c", SHOW.format(expression)], env=env, capture_output=True, text=True)
    return process.stdout.strip() if process.returncode == 0 else process.stderr.strip().splitlines()[-1]


def test_the_seeds_names_and_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "(s.REDIS_URL, s.HEARTBEAT_INTERVAL, s.JOB_POLL_INTERVAL)") == str(
        ("redis://localhost:6379/0", 30.0, 10.0)
    )
    assert (
        read(tmp_path, "s.REDIS_URL", REDIS_HOST="r", REDIS_PORT="7000", REDIS_PASSWORD="p@ss/w", REDIS_DB="3")
        == "redis://:p%40ss%2Fw@r:7000/3"
    )
    assert read(tmp_path, "s.REDIS_URL", REDIS_URL="redis://x:1/2", REDIS_HOST="r") == "redis://x:1/2"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCHEDULER_API_PORT", "http"),
        ("SCHEDULER_API_PORT", "70000"),
        ("REDIS_PORT", "0"),
        ("HEARTBEAT_INTERVAL", "-1"),
        ("JOB_POLL_INTERVAL", "soon"),
        ("LEASE_SECONDS", "0"),
        ("HEARTBEAT_INTERVAL", "nan"),
        ("PLACEMENT_STRATEGY", "random"),
        ("LOG_RETENTION_SECONDS", "-1"),
        ("LOG_ARCHIVE_LIMIT_MB", "none"),
        ("JOB_RETENTION_DAYS", "1.5"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(tmp_path: Path, name: str, value: str) -> None:
    message = read(tmp_path, "1", **{name: value})
    assert "ImproperlyConfigured" in message
    assert name in message
    assert value in message


def test_the_secret_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    key = read(tmp_path, "s.SECRET_KEY")
    assert len(key) >= 50
    assert read(tmp_path, "s.SECRET_KEY") == key
    assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0
    assert read(tmp_path, "s.SECRET_KEY", SECRET_KEY="given") == "given"


def test_lists_are_split_and_stripped(tmp_path: Path) -> None:
    assert read(tmp_path, "s.ALLOWED_HOSTS", ALLOWED_HOSTS="a.example, b.example,") == "['a.example', 'b.example']"


def test_sqlite_waits_for_its_turn_and_lets_readers_read(tmp_path: Path) -> None:
    options = read(tmp_path, "s.DATABASES['default']['OPTIONS']")
    assert "IMMEDIATE" in options
    assert "journal_mode=WAL" in options


def test_a_postgresql_that_hangs_is_given_up_soon(tmp_path: Path) -> None:
    database = read(tmp_path, "s.DATABASES['default']['OPTIONS']", DATABASE_URL="postgres://u:p@h/d")
    assert "'connect_timeout': 3," in database and "'tcp_user_timeout': 25000" in database


def test_the_archive_is_a_folder_unless_a_bucket_is_named(tmp_path: Path) -> None:
    assert "FileSystemStorage" in read(tmp_path, "s.STORAGES['archive']")
    assert str(tmp_path / "archive") in read(tmp_path, "str(s.STORAGES['archive']['OPTIONS']['location'])")
    named = read(tmp_path, "s.STORAGES['archive']", ARCHIVE_BUCKET="logs", ARCHIVE_ENDPOINT_URL="http://minio:9000")
    assert "jobs.bucket.Bucket" in named and "'bucket_name': 'logs'" in named and "http://minio:9000" in named


def test_sizes_and_ages_of_what_is_kept_have_their_units(tmp_path: Path) -> None:
    assert read(tmp_path, "s.LOG_ARCHIVE_LIMIT_BYTES, s.JOB_RETENTION_DAYS, s.LOG_RETENTION_SECONDS") == (
        f"{1024**3} 0 3600"
    )
    assert read(tmp_path, "s.LOG_ARCHIVE_LIMIT_BYTES", LOG_ARCHIVE_LIMIT_MB="0.5") == str(1024**2 // 2)
