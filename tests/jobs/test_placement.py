import copy
import dataclasses
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.scheduling.cluster import new_state
from jobs.scheduling.placement import PendingJob, Placement, Strategy
from jobs.scheduling.room import ExecutorView, GpuDevice, Requirements, Room, fits, shape_of, take

MODELS = ["NVIDIA A100-SXM4-40GB", "NVIDIA H100 PCIe", "Tesla T4"]


def executor(name: str, cpu: int = 4000, memory: int = 8, gpus: tuple[str, ...] = (), **more: object) -> ExecutorView:
    devices = [GpuDevice(index, model) for index, model in enumerate(gpus)]
    capacity = Room(cpu, memory, devices)
    return ExecutorView(name, name, capacity, copy.deepcopy(capacity), **more)  # type: ignore[arg-type]


def job(number: int, cpu: int = 1000, memory: int = 1, gpu: str = "", gpus: int = 0, **more: object) -> PendingJob:
    labels = more.pop("labels", {})
    needs = Requirements(cpu, memory, gpu, gpus, labels)  # type: ignore[arg-type]
    return PendingJob(UUID(int=number), shape_of(cpu, memory, gpu, gpus, labels), needs, **more)  # type: ignore[arg-type]


def place(
    jobs: list[PendingJob], executors: list[ExecutorView], strategy: Strategy = Strategy.FIRST_FIT
) -> list[Placement]:
    return new_state(executors, jobs, strategy).place()[0]


def where(placements: list[Placement]) -> dict[int, str]:
    return {placement.job_id.int: placement.executor_id for placement in placements}


# --- Any mix ---------------------------------------------------------------------------------------------------

executors_of_any_kind = st.lists(
    st.builds(
        executor,
        name=st.uuids().map(str),
        cpu=st.integers(0, 8) | st.just(-1),
        memory=st.integers(0, 8),
        gpus=st.lists(st.sampled_from(MODELS), max_size=4).map(tuple),
        labels=st.dictionaries(st.sampled_from(["zone", "disk"]), st.sampled_from(["a", "b"])),
        closed=st.sampled_from(["", "", "", "is lost"]),
    ),
    max_size=6,
)
jobs_of_any_kind = st.lists(
    st.builds(
        job,
        number=st.integers(1, 10**6),
        cpu=st.integers(1, 4),
        memory=st.integers(1, 4),
        gpu=st.sampled_from(["any", "a100", "NVIDIA", "t4"]),
        gpus=st.integers(0, 2),
        labels=st.dictionaries(st.sampled_from(["zone", "disk"]), st.sampled_from(["a", "b"]), max_size=1),
        priority=st.integers(-1, 1),
    ),
    max_size=25,
    unique_by=lambda item: item.id,
)


@given(executors_of_any_kind, jobs_of_any_kind, st.sampled_from(Strategy))
def test_nothing_is_ever_over_committed_and_no_gpu_shared(
    executors: list[ExecutorView], jobs: list[PendingJob], strategy: Strategy
) -> None:
    before = {item.id: copy.deepcopy(item) for item in executors}
    by_id = {item.id: item for item in jobs}
    placements = place(jobs, executors, strategy)

    assert len({placement.job_id for placement in placements}) == len(placements)
    for view in before.values():
        here = [placement for placement in placements if placement.executor_id == view.id]
        needs = [by_id[placement.job_id].requirements for placement in here]
        assert not here or not view.closed
        assert sum(need.cpu_millicores for need in needs) <= max(view.free.cpu_millicores, 0)
        assert sum(need.memory_bytes for need in needs) <= view.free.memory_bytes
        given_gpus = [index for placement in here for index in placement.gpu_indices]
        assert len(given_gpus) == len(set(given_gpus))
        models = {gpu.index: gpu.model.lower() for gpu in view.free.gpus}
        for placement, need in zip(here, needs, strict=True):
            assert len(placement.gpu_indices) == need.gpu_count
            wanted = "" if need.gpu_type == "any" else need.gpu_type.lower()
            assert all(wanted in models[index] for index in placement.gpu_indices)
            assert need.labels.items() <= view.labels.items()


# --- Order and choice ------------------------------------------------------------------------------------------


def test_a_higher_priority_goes_first_and_equals_go_in_the_order_of_submission() -> None:
    jobs = [job(3, cpu=4000), job(1, cpu=4000), job(2, cpu=4000, priority=5)]
    assert where(place(jobs, [executor("a")])) == {2: "a"}
    assert where(place([jobs[0], jobs[1]], [executor("a")])) == {1: "a"}


def test_a_small_job_passes_a_large_one_that_has_no_room() -> None:
    assert where(place([job(1, cpu=9000), job(2)], [executor("a")])) == {2: "a"}


def test_a_job_too_large_for_what_is_left_on_the_first_goes_to_the_second() -> None:
    assert where(place([job(1, cpu=3000), job(2, cpu=2000)], [executor("a"), executor("b")])) == {1: "a", 2: "b"}


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_queued_again_job_goes_elsewhere_where_there_is_room(strategy: Strategy) -> None:
    again = job(1, avoid_executor="a")
    assert where(place([again], [executor("a"), executor("b")], strategy)) == {1: "b"}
    assert where(place([again], [executor("b", cpu=500), executor("a")], strategy)) == {1: "a"}


def test_a_job_that_avoids_an_executor_does_not_keep_the_next_of_its_shape_from_it() -> None:
    jobs = [job(1, avoid_executor="a"), job(2)]
    assert where(place(jobs, [executor("a"), executor("b")])) == {1: "b", 2: "a"}


def test_best_fit_fills_the_fullest_and_spread_the_emptiest() -> None:
    def where_the_second_goes(strategy: Strategy) -> str:
        state = new_state([executor("idle"), executor("used")], [job(2)], strategy)
        state.attempt_started(UUID(int=1), "used", Requirements(2000, 1), [])
        return where(state.place()[0])[2]

    assert where_the_second_goes(Strategy.BEST_FIT) == "used"
    assert where_the_second_goes(Strategy.SPREAD) == "idle"


def test_gpus_are_chosen_by_part_of_the_model_in_any_case_and_by_index() -> None:
    view = executor("a", gpus=("Tesla T4", "NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB"))
    placements = place([job(1, gpu="a100", gpus=1), job(2, gpu="any", gpus=2)], [view])
    assert [placement.gpu_indices for placement in placements] == [[1], [0, 2]]


# --- Shapes ----------------------------------------------------------------------------------------------------


def test_jobs_have_one_shape_exactly_when_placement_cannot_tell_them_apart() -> None:
    shape = shape_of(1000, 2, "A100", 1, {"b": "1", "a": "2"})
    assert shape == shape_of(1000, 2, "a100", 1, {"a": "2", "b": "1"})
    others = [
        shape_of(1001, 2, "A100", 1, {"b": "1", "a": "2"}),
        shape_of(1000, 3, "A100", 1, {"b": "1", "a": "2"}),
        shape_of(1000, 2, "any", 1, {"b": "1", "a": "2"}),
        shape_of(1000, 2, "A100", 2, {"b": "1", "a": "2"}),
        shape_of(1000, 2, "A100", 1, {"b": "1"}),
    ]
    assert len({shape, *others}) == 6
    assert len(shape) <= 64


def test_taking_more_than_is_free_of_a_gpu_is_never_a_fit() -> None:
    view = executor("a", gpus=("Tesla T4",))
    need = Requirements(1, 1, "any", 1)
    assert take(need, view) == [0]
    assert not fits(need, view)
    assert fits(dataclasses.replace(need, gpu_count=0), view)
