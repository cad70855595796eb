"""The cluster in numbers, recorded beside the passes."""

import redis

from executors import history
from executors.models import ExecutorEvent
from jobs.lifecycle import State
from jobs.observing import Recorder, Tally, measure, tally
from tests.rows import GB, make_executor, make_job


def test_a_point_adds_up_executors_jobs_and_what_passes_saw(db: None, redis_client: redis.Redis) -> None:
    node = make_executor()
    make_executor("gone", state="LOST")
    make_job(State.RUNNING, node, cpu_cores=2, memory_gb=4)
    make_job()
    seen = Tally()
    seen.add([1.0, 2.0, 30.0], {"SUCCEEDED": 2})
    seen.add([], {"FAILED": 1, "SUCCEEDED": 1})
    point = measure(100, seen)
    assert (point.cpu_capacity, point.cpu_allocated, point.cpu_used) == (8, 2, None)
    assert (point.memory_capacity, point.memory_allocated) == (16, 4)
    assert (point.executors, point.pending, point.starting, point.running) == (1, 1, 0, 1)
    assert (point.wait_p50, point.wait_p95, point.succeeded, point.failed) == (2.0, 30.0, 3, 1)
    after = measure(110, seen)
    assert (after.wait_p50, after.succeeded) == (None, 0)


def test_the_chore_records_asks_to_be_called_again_and_notes_drains(db: None, redis_client: redis.Redis) -> None:
    tally.take()
    node = make_executor(schedulable=False)
    node.drain_requested_at = node.last_heartbeat_at
    node.save()
    recorder = Recorder()
    assert 0 <= recorder.work() <= 10
    recorder.work()
    assert history.newest(redis_client)["cpu_capacity"] == node.cpu_millicores / 1000
    assert history.newest(redis_client)["memory_capacity"] == node.memory_bytes / GB
    assert [event.kind for event in ExecutorEvent.objects.all()] == ["drained"]
