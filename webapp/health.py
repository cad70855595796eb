"""Whether the parts that this process needs answer, each with a short time-out, so that /health never hangs."""

import time
from typing import Any, Literal

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest
from django.utils import timezone
from ninja import Router, Schema, Status
from pydantic import Field
from redis.backoff import NoBackoff
from redis.retry import Retry

from executors.broker import keys
from jobs.leadership import lease_status

router = Router(tags=["Cluster"])

REDIS_SECONDS = 1.0

Verdict = Literal["ok", "degraded", "down"]


class Part(Schema):
    status: Verdict
    detail: str = Field(description="What is wrong, or who answers.")
    latency_ms: float | None = Field(default=None, description="How long it took to answer.")
    age_seconds: float | None = Field(
        default=None, description="Since it last answered; of the scheduler, since its last pass."
    )


class Health(Schema):
    status: Verdict
    database: Part
    redis: Part
    scheduler: Part
    archive: Part | None = Field(default=None, description="Of logs; as the scheduler met it last.")


@router.get(
    "/health",
    response={200: Health, 503: Health},
    exclude_none=True,
    summary="Whether database, Redis and scheduler answer",
)
def health(request: HttpRequest) -> Status[dict[str, Any]]:
    """503 when one of them is down. An archive that takes nothing degrades: logs stay in Redis. Needs no login."""
    parts = {"database": database(), **redis_and_archive()}
    parts["scheduler"] = scheduler() if parts["database"]["status"] == "ok" else down("Unknown without the database.")
    statuses = {part["status"] for part in parts.values()}
    status = next(verdict for verdict in ("down", "degraded", "ok") if verdict in statuses)
    return Status(503 if status == "down" else 200, {"status": status, **parts})


def down(detail: str, **more: float) -> dict[str, Any]:
    return {"status": "down", "detail": detail, **more}


def database() -> dict[str, Any]:
    """Over a connection of its own: one that was kept may belong to a database that fell silent since."""
    begin, own = time.monotonic(), connection.copy()
    try:
        with own.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return down(f"{connection.vendor} does not answer: {_first_line(error)}")
    finally:
        own.close()
    return {"status": "ok", "detail": connection.vendor, "age_seconds": 0.0, "latency_ms": _milliseconds_since(begin)}


def redis_and_archive() -> dict[str, dict[str, Any]]:
    """On a connection of its own: the shared client waits longer than a health check may."""
    begin = time.monotonic()
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_connect_timeout=REDIS_SECONDS,
        socket_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        version = client.info("server")["redis_version"]
        latency = _milliseconds_since(begin)
        archive_is_away = client.exists(keys().archive_trouble)
    except redis.RedisError as error:
        return {"redis": down(f"Redis does not answer: {_first_line(error)}")}
    finally:
        client.close()
    archive = {"status": "ok", "detail": "takes logs"}
    if archive_is_away:
        detail = "The archive takes no logs at present, they stay in Redis; the scheduler's log says why."
        archive = {"status": "degraded", "detail": detail}
    answers = {"status": "ok", "detail": f"Redis {version}", "age_seconds": 0.0, "latency_ms": latency}
    return {"redis": answers, "archive": archive}


def scheduler() -> dict[str, Any]:
    try:
        lease = lease_status()
    except DatabaseError as error:
        return down(f"The lease cannot be read: {_first_line(error)}")
    if lease is None:
        return down("No scheduler ever ran: start one with python manage.py runscheduler.")
    age = {}
    if lease.last_pass_at is not None:
        age["age_seconds"] = round(max(0.0, (timezone.now() - lease.last_pass_at).total_seconds()), 3)
    if lease.expired:
        return down(
            f"{lease.holder} led last, and its lease has run out: start one with manage.py runscheduler.", **age
        )
    return {"status": "ok", "detail": f"{lease.holder} leads, term {lease.term}", **age}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _milliseconds_since(begin: float) -> float:
    return round((time.monotonic() - begin) * 1000, 2)
