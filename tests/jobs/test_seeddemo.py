"""manage.py seeddemo: a made-up cluster that keeps the rules of a real one, and goes without a trace."""

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from agent.protocol import FIELD, StartAttempt, encode
from executors import broker, history
from executors.broker import keys
from executors.models import Executor
from executors.views import detail_context
from jobs import demo, demo_agents, leadership
from jobs.demo_agents import Agents
from jobs.lifecycle import State
from jobs.models import Attempt, Job
from jobs.observing import tally
from jobs.scheduler import Scheduler
from tests.cluster import wait_for
from tests.parts import free_port, start_redis
from tests.rows import make_executor, make_job


def seed(**options: object) -> None:
    call_command("seeddemo", executors=12, jobs=400, **options)


def test_it_makes_what_was_asked_for_and_nothing_is_over_committed(db: None, redis_client: redis.Redis) -> None:
    seed()
    assert (Executor.objects.count(), Job.objects.count()) == (12, 400)
    assert Job.objects.filter(state=State.RUNNING).count() > 10
    for executor in Executor.objects.with_allocation():
        assert executor.allocated_cpu_millicores <= executor.allocatable_cpu_millicores
        assert executor.allocated_memory_bytes <= executor.allocatable_memory_bytes
        held = [index for attempt in detail_context(executor.id)["live"] for index in attempt.gpu_indices]
        assert sorted(held) == sorted(set(held))
        assert executor.labels["demo"] == "yes"
    assert set(Job.objects.values_list("owner__username", flat=True)) == {"demo"}
    assert not Attempt.objects.filter(job__state=State.PENDING).exists()
    ids = list(Job.objects.order_by("id").values_list("id", "submitted_at"))
    assert ids == sorted(ids, key=lambda row: (row[0].int >> 80, row[0]))
    assert abs(len(history.cluster_history("24h")["t"]) - 360) < 3


def test_clear_leaves_what_is_real(db: None, redis_client: redis.Redis) -> None:
    real = make_job(name="real")
    seed()
    User.objects.get(username="demo")
    call_command("seeddemo", clear=True)
    assert list(Job.objects.all()) == [real]
    assert (Executor.objects.count(), Attempt.objects.count(), User.objects.count()) == (0, 0, 0)
    assert redis_client.keys("*") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"executors": 0}, "--executors must be from 1 to 1000"),
        ({"jobs": -1}, "--jobs must be from 0"),
        ({"days": 0}, "--days must be above 0"),
        ({"rate": -1}, "--rate must be from 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    db: None, redis_client: redis.Redis, options: dict[str, int], words: str
) -> None:
    with pytest.raises(CommandError, match=words):
        call_command("seeddemo", **options)


def test_it_is_refused_beside_real_executors_and_a_second_time(db: None, redis_client: redis.Redis) -> None:
    seed()
    with pytest.raises(CommandError, match="There is a demo already"):
        seed()
    call_command("seeddemo", clear=True)
    make_executor("real")
    with pytest.raises(CommandError, match="The executor real is real"):
        seed()


@pytest.mark.django_db(transaction=True)
def test_live_agents_take_jobs_run_them_and_refuse_what_is_not_the_demos(redis_client: redis.Redis) -> None:
    seed()
    tally.take()
    real = make_job(name="real", cpu_cores=1)
    ending = threading.Event()

    player = threading.Thread(target=Agents(redis_client, 0, ending).play)
    player.start()
    holder = leadership.new_holder()
    term = leadership.acquire(holder)
    scheduler = Scheduler(holder, term)
    ended_before = Job.objects.filter(state=State.SUCCEEDED).count()
    deadline = time.monotonic() + 30
    refused = ended = False
    while not (refused and ended) and time.monotonic() < deadline:
        scheduler.run_pass(0.2)
        real.refresh_from_db()
        refused = real.platform_failures > 0 or real.attempts.filter(reason="start_refused").exists()
        ended = Job.objects.filter(state=State.SUCCEEDED).count() > ended_before
    ending.set()
    player.join(10)
    assert refused
    assert ended
    assert all(redis_client.exists(keys().samples(executor.id)) for executor in Executor.objects.all())
    assert not Executor.objects.exclude(state__in=["ONLINE", "UNHEALTHY"]).exists()


def test_live_agents_wait_for_a_redis_that_goes_away_and_say_so_once(
    db: None, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(demo_agents, "RETRY_SECONDS", 0.05)
    caplog.set_level(logging.INFO, "jobs.demo_agents")
    port = free_port()
    settings.REDIS_URL = f"redis://127.0.0.1:{port}/0"
    client, server, ending = broker.client(), start_redis(tmp_path, port), threading.Event()
    seed()
    player = threading.Thread(target=Agents(client, 0, ending).play)
    try:
        player.start()
        wait_for("its agents", lambda: client.xlen(keys().events) >= 12)
        server.kill()
        server.wait()
        wait_for("what it says", lambda: caplog.text.count("trouble with Redis") == 1)
        time.sleep(0.3)  # several tries
        server = start_redis(tmp_path, port)
        wait_for("what it says", lambda: caplog.text.count("Redis is well again") == 1)
        start = StartAttempt(
            seq=10**6,
            job_id="x",
            attempt=1,
            image="busybox",
            command=[],
            cpu_millicores=1,
            memory_bytes=1,
            timeout_seconds=1,
        )
        client.xadd(keys().commands("demo-0001"), {FIELD: encode(start)}, id="1000000-0")
        wait_for("an answer", lambda: b"start_refused" in b"".join(fields[FIELD] for fields in events(client)))
        assert caplog.text.count("trouble with Redis") == 1
    finally:
        ending.set()
        player.join(10)
        server.terminate()
        server.wait()


def events(client: redis.Redis) -> list[dict[Any, bytes]]:
    found: Any = client.xrange(keys().events)
    return [fields for _, fields in found]


def test_called_again_after_it_was_stopped_half_way_it_goes_on_from_there(
    db: None, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "BATCH", 100)
    executors = demo.make_executors(12, timezone.now())
    batches = demo.make_jobs(400, 7, executors, timezone.now())
    assert [next(batches), next(batches)] == [100, 200]
    assert demo.unfinished() == 200
    seed()
    assert (Executor.objects.count(), Job.objects.count()) == (12, 400)
    assert Job.objects.filter(state=State.RUNNING).count() > 10
    assert demo.unfinished() is None
