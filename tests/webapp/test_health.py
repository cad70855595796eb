"""What /health says, and that it says so quickly whatever is down."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from executors.broker import keys
from jobs.models import SchedulerLease
from tests.parts import free_port, start_redis

pytestmark = pytest.mark.django_db


def lead(seconds_left: float = 15) -> None:
    now = timezone.now()
    SchedulerLease.objects.create(
        holder="host:1",
        term=3,
        expires_at=now + timedelta(seconds=seconds_left),
        last_pass_at=now - timedelta(seconds=2),
    )


def test_all_is_well_when_all_three_answer(client: Client, redis_client: redis.Redis) -> None:
    lead()
    response = client.get("/health")
    assert response.status_code == 200
    health = response.json()
    assert health["status"] == "ok"
    assert {health[part]["status"] for part in ("database", "redis", "scheduler")} == {"ok"}
    assert 2 <= health["scheduler"]["age_seconds"] < 10
    assert health["database"]["latency_ms"] >= 0
    assert health["redis"]["latency_ms"] >= 0
    assert all(health[part]["age_seconds"] >= 0 for part in ("database", "redis", "scheduler"))


def test_an_archive_that_takes_nothing_degrades_and_gives_nothing_away(
    client: Client, redis_client: redis.Redis
) -> None:
    lead()
    assert client.get("/health").json()["archive"]["status"] == "ok"
    redis_client.set(keys().archive_trouble, "No space left on device: /secret/place")
    response = client.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert response.json()["archive"]["status"] == "degraded"
    assert "/secret/place" not in response.content.decode()


def test_without_a_scheduler_it_says_how_to_start_one(client: Client, redis_client: redis.Redis) -> None:
    response = client.get("/health")
    assert response.status_code == 503
    assert response.json()["scheduler"]["status"] == "down"
    assert "runscheduler" in response.json()["scheduler"]["detail"]


def test_a_lease_that_has_run_out_is_a_scheduler_that_is_down(client: Client, redis_client: redis.Redis) -> None:
    lead(seconds_left=-5)
    response = client.get("/health")
    assert (response.status_code, response.json()["scheduler"]["status"]) == (503, "down")


def test_a_redis_that_is_away_is_down(client: Client, settings: Settings) -> None:
    lead()
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    response = client.get("/health")
    assert response.status_code == 503
    assert response.json()["redis"]["status"] == "down"
    assert response.json()["scheduler"]["status"] == "ok"


def test_a_redis_that_hangs_does_not_hang_the_answer(client: Client, settings: Settings, tmp_path: Path) -> None:
    port = free_port()
    process = start_redis(tmp_path, port)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        settings.REDIS_URL = f"redis://127.0.0.1:{port}/0"
        begin = time.monotonic()
        response = client.get("/health")
        assert time.monotonic() - begin < 4
        assert (response.status_code, response.json()["redis"]["status"]) == (503, "down")
    finally:
        process.kill()
        process.wait()


def test_a_database_that_is_away_is_down(
    client: Client, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OperationalError("connection refused\nand more")

    monkeypatch.setattr(
        type(connections[DEFAULT_DB_ALIAS]), "connect", refuse
    )  # the kept connection would still answer
    response = client.get("/health")
    assert response.status_code == 503
    health = response.json()
    assert health["database"]["status"] == health["scheduler"]["status"] == "down"
    assert health["database"]["detail"].endswith("connection refused")
    assert health["redis"]["status"] == "ok"


def test_it_needs_no_session_and_no_user(client: Client, redis_client: redis.Redis) -> None:
    response = client.get("/api/v1/health", headers={"authorization": "Basic nonsense"})
    assert response.status_code == 503
    assert not response.cookies
