"""The history behind the charts: recorded once a moment, down-sampled, with its gaps."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
import redis

from executors import history
from executors.broker import keys
from executors.history import NAMES, Point, downsample, executor_history, percentile, record
from jobs.lifecycle import State
from jobs.models import Attempt
from tests.rows import GB, make_executor, make_job


def point(t: int, **fields: float) -> Point:
    zeros = dict.fromkeys(NAMES[1:10], 0)
    return Point(**{"t": t, **zeros, **fields})


@pytest.fixture(autouse=True)
def _no_cache() -> None:
    history._cluster_history.cache_clear()


def test_a_moment_is_recorded_once_whoever_records_it(redis_client: redis.Redis) -> None:
    assert record(redis_client, point(1000, pending=1))
    assert not record(redis_client, point(1000, pending=2))
    assert not record(redis_client, point(990, pending=3))
    assert history.newest(redis_client)["pending"] == 1


def test_a_range_holds_only_its_time_and_counts_by_the_minute(redis_client: redis.Redis) -> None:
    now = 1_700_000_000
    for age in range(5000, -1, -10):
        record(redis_client, point(now - age, pending=age, succeeded=2))
    columns = history.cluster_history("1h", now)
    assert len(columns["t"]) == 361
    assert (columns["t"][0], columns["t"][-1]) == (now - 3600, now)
    assert set(columns["succeeded"]) == {12}


def test_a_longer_range_is_averaged_and_shows_the_worst_wait(redis_client: redis.Redis) -> None:
    now = 1_700_000_000 // 240 * 240
    for age in range(86_400, -1, -10):
        wait = {"wait_p95": 50} if age % 240 == 0 else {}
        record(redis_client, point(now - age, cpu_allocated=age % 20 / 10, **wait))
    columns = history.cluster_history("24h", now)
    assert columns["step"] == 240
    assert 359 <= len(columns["t"]) <= 361
    assert columns["cpu_allocated"][5] == 0.5
    assert columns["wait_p95"][5] == 50
    assert columns["wait_p50"][5] is None


def test_a_time_in_which_nothing_was_recorded_is_a_gap() -> None:
    rows = [{"t": 0, "a": 1.0}, {"t": 10, "a": 2.0}, {"t": 100, "a": 3.0}]
    assert downsample(rows, ["t", "a"], 10) == {"t": [0, 10, 20, 100], "a": [1.0, 2.0, None, 3.0]}
    assert downsample([], ["t", "a"], 10) == {"t": [], "a": []}


def test_what_cannot_be_read_is_left_out_and_older_rows_may_lack_fields(redis_client: redis.Redis) -> None:
    redis_client.xadd(keys().history, {"p": "not json"}, id="1000-0")
    redis_client.xadd(keys().history, {"q": "1"}, id="2000-0")
    redis_client.xadd(keys().history, {"p": json.dumps([3, *[1.0] * 9])}, id="3000-0")
    columns = history.cluster_history("15m", 10)
    assert (columns["cpu_used"], columns["pending"]) == ([1.0], [0])


def test_percentiles() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(list(range(100)), 0.95) == 95


def test_an_executors_history_is_its_samples_and_what_attempts_held(db: None, redis_client: redis.Redis) -> None:
    now = int(time.time()) // 10 * 10
    node = make_executor(cpu_millicores=4000)
    for age in range(600, -1, -10):
        gpus = json.dumps([{"index": 0, "percent": 50.0, "memory_bytes": 1}])
        sample = {"t": now - age, "cpu_percent": 25.0, "memory_bytes": 2 * GB, "gpus": gpus, "held": 1}
        redis_client.xadd(keys().samples(node.id), sample, id=f"{(now - age) * 1000}-0")
    redis_client.xadd(keys().samples(node.id), {"t": "broken"})
    job = make_job(State.SUCCEEDED, node, cpu_cores=1.5, memory_gb=3)
    at = datetime.fromtimestamp(now, UTC)
    Attempt.objects.filter(job=job).update(
        placed_at=at - timedelta(seconds=300), finished_at=at - timedelta(seconds=100)
    )
    columns = executor_history(node, "15m", now)
    assert set(columns["cpu_used"]) == {1.0}
    assert (columns["memory_used"][0], columns["gpu_used"][0]) == (2.0, 0.5)
    held = dict(zip([t - now for t in columns["t"]], columns["cpu_allocated"], strict=True))
    assert (held[-310], held[-300], held[-110], held[-100]) == (0, 1.5, 1.5, 0)
    assert set(columns["cpu_capacity"]) == {4.0}
