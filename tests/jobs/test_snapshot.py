import pytest
from django.utils import timezone

from executors.models import Executor
from jobs.models import Attempt
from jobs.snapshot import build_cluster, load_executors, load_live
from tests.jobs.node import GB, make_executor_with_gpus, place, submit

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def executor() -> Executor:
    return make_executor_with_gpus()


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
