"""What a job used: from samples in Redis to columns, peaks and advice."""

from typing import Any

import pytest
import redis
from django.test import Client
from django.utils import timezone

from executors.broker import keys
from executors.models import Executor
from jobs.lifecycle import State
from jobs.models import Attempt, Job
from jobs.submission import GB
from jobs.usage import Sample, advice, peaks_of, report, samples_of, thinned
from tests.rows import make_executor, make_job

MB = 1024**2


def sample(t: float, memory: int = 100 * MB, cpu: int = 500, attempt: int = 1, **more: Any) -> Sample:
    return Sample(t, attempt, cpu, t, memory, more.pop("peak", memory), **more)


def job_of(cpu: int = 1000, memory: int = 8 * GB) -> Job:
    return Job(cpu_millicores=cpu, memory_bytes=memory, finished_at=timezone.now())


def said_of(job: Job, samples: list[Sample]) -> list[str]:
    peaks = peaks_of(job, samples)
    assert peaks
    return advice(job, peaks)


def test_memory_that_was_never_used_is_said_with_what_would_do() -> None:
    said = said_of(job_of(), [sample(t, memory=600 * MB) for t in range(10)])
    assert said == ["Asked for 8 GB of memory, peaked at 600 MB: 768 MB would do."]


def test_a_job_near_its_limits_is_told_to_ask_for_more() -> None:
    said = said_of(job_of(cpu=500, memory=GB), [sample(t, memory=1000 * MB, cpu=499) for t in range(10)])
    assert [sentence.split()[0] for sentence in said] == ["Peaked", "Held"]
    assert "98 %" in said[0]
    assert "by its 0.5 cores for 100 % of the time" in said[1]


def test_idle_cores_are_said_and_what_fits_well_needs_no_advice() -> None:
    assert said_of(job_of(cpu=4000, memory=GB), [sample(t, memory=700 * MB, cpu=600) for t in range(10)]) == [
        "Asked for 4 cores, used 0.6 at most."
    ]
    assert said_of(job_of(memory=GB), [sample(t, memory=700 * MB, cpu=700) for t in range(10)]) == []
    assert said_of(job_of(), [sample(1)]) == [], "one sample says nothing"


def test_columns_break_between_attempts_and_rates_are_a_second() -> None:
    samples = [
        sample(10, received_bytes=0, sent_bytes=0),
        sample(12, received_bytes=400, sent_bytes=100),
        sample(20, attempt=2, received_bytes=0),
        sample(21, attempt=2, received_bytes=50),
    ]
    columns = report(job_of(), samples)["columns"]
    assert columns["t"] == [10, 12, 12.001, 20, 21]
    assert columns["received"] == [None, 200, None, None, 50]
    assert columns["memory"][2] is None


def test_many_samples_are_thinned_and_their_peak_stays() -> None:
    samples = [sample(t, memory=(900 if t == 1234 else 100) * MB) for t in range(5000)]
    few = thinned(samples, most=100)
    assert len(few) == 100
    assert max(item.memory_bytes for item in few) == 900 * MB


def test_peaks_and_advice_outlive_the_samples_for_the_agents_report_stays() -> None:
    used = {"samples": 40, "cpu_millicores": 3900, "memory_bytes": 600 * MB, "held_back": 30, "read_bytes": 7}
    attempts = [Attempt(number=1, use=None), Attempt(number=2, use=used)]
    told = report(job_of(cpu=4000), [], attempts)
    assert told["peaks"] == {"cpu": 3.9, "memory": 600 * MB, "gpu": None, "gpu_memory": None}
    assert (told["columns"]["t"], told["sums"]["read"]) == ([], 7)
    assert [sentence.split()[0] for sentence in told["advice"]] == ["Asked", "Held"]
    more = report(job_of(cpu=4000), [sample(1, memory=700 * MB, attempt=1, read_bytes=5)], attempts)
    assert (more["peaks"]["memory"], more["sums"]["read"]) == (700 * MB, 12)
    assert report(job_of(), [])["peaks"]["memory"] is None


def test_gpus_are_drawn_with_the_memory_of_the_attempts_own_devices_as_their_limit() -> None:
    gpus = [{"index": index, "memory_bytes": 40 * GB} for index in range(4)]
    job = Job(
        cpu_millicores=1000, memory_bytes=GB, gpu_count=2, finished_at=timezone.now(), executor=Executor(gpus=gpus)
    )
    samples = [sample(t, memory=900 * MB, gpu_percent=2.5, gpu_memory_bytes=GB) for t in range(9)]
    told = report(job, samples, [Attempt(number=1, gpu_indices=[1, 3])])
    assert (told["limits"]["gpu"], told["limits"]["gpu_memory"]) == (100, 80 * GB)
    assert (told["columns"]["gpu"][0], told["columns"]["gpu_memory"][0], told["peaks"]["gpu"]) == (2.5, GB, 2)
    assert told["advice"] == ["Its GPUs stood idle: used 2 % at most."]


@pytest.mark.django_db
def test_the_page_gets_what_redis_has_and_what_cannot_be_read_is_skipped(
    local_client: Client, redis_client: redis.Redis
) -> None:
    job = make_job(State.RUNNING, make_executor())
    key = keys().job_samples(str(job.id))
    memory: dict[Any, Any] = {"memory_bytes": 7, "peak_memory_bytes": 9}
    good = {"t": 1.5, "attempt": 1, "cpu_millicores": 5, "cpu_seconds": 0.1, **memory}
    redis_client.xadd(key, good)
    redis_client.xadd(key, {"t": "nonsense"})
    assert len(samples_of(job)) == 1
    body = local_client.get(f"/jobs/{job.id}/usage/").json()
    assert (body["columns"]["memory"], body["peaks"]["memory"], body["advice"]) == ([7], 9, [])
    assert local_client.get("/jobs/00000000-0000-7000-8000-000000000000/usage/").status_code == 404
