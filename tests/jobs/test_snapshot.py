import pytest
from django.utils import timezone

from executors.models import Executor
from jobs.models import Attempt, Job
from jobs.scheduling.placement import Placement
from jobs.snapshot import build_cluster, load_executors, load_live
from jobs.transitions import Ledger
from tests.jobs.node import GB, submit

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def executor() -> Executor:
    gpus = [{"index": index, "uuid": f"GPU-{index}", "model": "Tesla T4", "memory_bytes": 16 * GB} for index in (1, 0)]
    return Executor.objects.create(
        id="n1",
        name="n1",
        cpu_millicores=4000,
        memory_bytes=8 * GB,
        reserve_cpu_millicores=1000,
        reserve_memory_bytes=GB,
        gpus=gpus,
        last_heartbeat_at=timezone.now(),
    )


def place(job: Job, gpus: list[int]) -> None:
    Ledger(timezone.now()).place([Placement(job.id, "n1", gpus)])


def test_free_is_capacity_less_the_reserve_and_the_live_attempts() -> None:
    place(submit(cpu_millicores=500, memory_bytes=GB, gpu_type="any", gpu_count=1), [1])
    place(submit(cpu_millicores=500, memory_bytes=GB), [])
    done = submit()
    place(done, [])
    Attempt.objects.filter(job=done).update(state="SUCCEEDED", finished_at=timezone.now())
    [view] = build_cluster(load_executors(), load_live()).executors
    assert (view.capacity.cpu_millicores, view.free.cpu_millicores) == (3000, 2000)
    assert (view.capacity.memory_bytes, view.free.memory_bytes) == (7 * GB, 5 * GB)
    assert [gpu.index for gpu in view.capacity.gpus] == [0, 1]
    assert [gpu.index for gpu in view.free.gpus] == [0]
