"""What a node refuses, and in which words."""

from pathlib import Path
from typing import Any

import pytest

from agent.admission import no_room
from agent.config import GB, Config
from agent.protocol import StartAttempt

NODE = Config(
    name="n1",
    state_dir=Path(),
    redis_url="",
    cpu_millicores=4000,
    memory_bytes=8 * GB,
    start_concurrency=1,
    reserve_cpu_millicores=500,
    reserve_memory_bytes=GB,
)


def attempt(**needs: Any) -> StartAttempt:
    values = {"cpu_millicores": 1000, "memory_bytes": GB} | needs
    return StartAttempt(seq=1, job_id="j", attempt=1, image="i", command=[], timeout_seconds=60, **values)


def test_what_fits_beside_the_others_to_the_last_byte_is_let_in() -> None:
    held = [attempt(cpu_millicores=3000, memory_bytes=6 * GB, gpu_indices=[0])]
    assert no_room(attempt(cpu_millicores=500, gpu_indices=[1]), held, NODE, {0, 1}) == ""


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        ({"cpu_millicores": 3600}, "It needs 3.6 cores and 2.5 are free on n1."),
        ({"memory_bytes": 13 * GB // 2}, "It needs 6.5 GB of memory and 6 GB are free on n1."),
        ({"gpu_indices": [2]}, "There is no GPU 2 on n1."),
        ({"gpu_indices": [1, 0]}, "GPU 0 on n1 is taken by another job."),
    ],
)
def test_what_does_not_fit_is_refused_with_what_it_needs_and_what_is_free(needs: dict[str, Any], why: str) -> None:
    assert no_room(attempt(**needs), [attempt(gpu_indices=[0])], NODE, {0, 1}) == why
