"""The leader's state against a plain reference that tries every executor for every job, over histories of any kind."""

import random
from collections.abc import Iterator
from operator import attrgetter
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.scheduling import choosing, cluster, table, waiting
from jobs.scheduling.cluster import UNLIMITED, ClusterState, new_state
from jobs.scheduling.placement import PendingJob, Placement, Strategy
from jobs.scheduling.room import ExecutorView, GpuDevice, Requirements, Room, fits, occupy, shape_of, take

MODELS = ["NVIDIA A100-SXM4-40GB", "NVIDIA H100 PCIe", "Tesla T4"]


def executor(name: str, cpu: int = 4, memory: int = 8, gpus: tuple[str, ...] = (), **more: object) -> ExecutorView:
    room = Room(cpu, memory, [GpuDevice(index, model) for index, model in enumerate(gpus)])
    return ExecutorView(name, name, room, Room(0, 0), **more)  # type: ignore[arg-type]


def job(
    number: int,
    cpu: int = 1,
    memory: int = 1,
    gpu: str = "",
    gpus: int = 0,
    priority: int = 0,
    avoid: str | None = None,
) -> PendingJob:
    needs = Requirements(cpu, memory, gpu, gpus)
    return PendingJob(UUID(int=number), shape_of(cpu, memory, gpu, gpus, {}), needs, priority, avoid)


def where(placements: list[Placement]) -> dict[int, str]:
    return {placement.job_id.int: placement.executor_id for placement in placements}


class Reference:
    """The same by the simplest means: everything is looked at every time."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.views: dict[str, ExecutorView] = {}
        self.live: dict[UUID, tuple[str, Requirements, list[int]]] = {}
        self.pending: dict[UUID, PendingJob] = {}

    def place(self, limit: int) -> list[Placement]:
        executors = list(self._executors())
        placed: list[Placement] = []
        for item in sorted(self.pending.values(), key=lambda item: (-item.priority, item.id)):
            room = [view for view in executors if fits(item.requirements, view)]
            room = [view for view in room if view.id != item.avoid_executor] or room
            if not room or len(placed) == limit:
                continue
            chosen = self._preferred(room)
            indices = take(item.requirements, chosen)
            self.live[item.id] = (chosen.id, item.requirements, indices)
            del self.pending[item.id]
            placed.append(Placement(item.id, chosen.id, indices))
        return placed

    def _executors(self) -> Iterator[ExecutorView]:
        for view in sorted(self.views.values(), key=attrgetter("name", "id")):
            free = Room(view.capacity.cpu_millicores, view.capacity.memory_bytes, list(view.capacity.gpus))
            for executor_id, need, indices in self.live.values():
                if executor_id == view.id:
                    occupy(free, need.cpu_millicores, need.memory_bytes, indices)
            yield ExecutorView(view.id, view.name, view.capacity, free, view.labels, view.closed)

    def _preferred(self, room: list[ExecutorView]) -> ExecutorView:
        if self.strategy is Strategy.FIRST_FIT:
            return room[0]
        return (min if self.strategy is Strategy.BEST_FIT else max)(room, key=self._free_share)

    @staticmethod
    def _free_share(view: ExecutorView) -> float:
        cpu = view.free.cpu_millicores / max(view.capacity.cpu_millicores, 1)
        memory = view.free.memory_bytes / max(view.capacity.memory_bytes, 1)
        if view.capacity.gpus:
            return (cpu + memory + len(view.free.gpus) / len(view.capacity.gpus)) / 3
        return (cpu + memory) / 2


class History:
    """Happenings of any kind, told to both."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.strategy = self.chance.choice(list(Strategy))
        self.state, self.reference = ClusterState(self.strategy), Reference(self.strategy)

    def happen(self) -> None:
        kinds = [self.executor_changes, self.job_comes, self.job_comes, self.attempt_ends, self.attempt_ends]
        self.chance.choice([*kinds, self.executor_goes, self.job_goes])()

    def executor_changes(self) -> None:
        chance, number = self.chance, self.chance.randrange(12)
        gpus = tuple(chance.choice(MODELS) for _ in range(chance.choice([0, 0, 0, 2, 4])))
        name = f"e{number}" if chance.random() < 0.9 else f"e{chance.randrange(12)}"
        room = Room(chance.randrange(9), chance.randrange(9), [GpuDevice(i, model) for i, model in enumerate(gpus)])
        closed = "is lost" if chance.random() < 0.15 else ""
        view = ExecutorView(f"e{number}", name, room, Room(0, 0), self.labels(0.4), closed)
        self.state.executor_changed(view)
        self.reference.views[view.id] = view

    def executor_goes(self) -> None:
        if self.reference.views and self.chance.random() < 0.3:
            executor_id = self.chance.choice(list(self.reference.views))
            self.state.executor_removed(executor_id)
            del self.reference.views[executor_id]

    def job_comes(self) -> None:
        chance = self.chance
        for _ in range(chance.choice([1, 4, 12])):
            gpus = chance.choice([0, 0, 0, 1, 2])
            need = Requirements(
                chance.randrange(1, 5),
                chance.randrange(1, 5),
                chance.choice(["any", "a100", "NVIDIA", "t4"]) if gpus else "",
                gpus,
                self.labels(0.15),
            )
            self.add(UUID(int=chance.choice([chance.getrandbits(128), chance.randrange(10**6)])), need)

    def add(self, job_id: UUID, need: Requirements, avoid: str | None = None) -> None:
        if job_id in self.reference.live:
            return
        shape = shape_of(need.cpu_millicores, need.memory_bytes, need.gpu_type, need.gpu_count, need.labels)
        item = PendingJob(job_id, shape, need, self.chance.randrange(-1, 2), avoid)
        self.state.job_added(item)
        self.reference.pending[job_id] = item

    def job_goes(self) -> None:
        if self.reference.pending:
            job_id = self.chance.choice(list(self.reference.pending))
            self.state.job_removed(job_id)
            del self.reference.pending[job_id]

    def attempt_ends(self) -> None:
        for _ in range(self.chance.choice([1, 1, 4])):
            if self.reference.live:
                job_id = self.chance.choice(list(self.reference.live))
                executor_id, need, _ = self.reference.live.pop(job_id)
                self.state.attempt_ended(job_id)
                if self.chance.random() < 0.3:
                    self.add(job_id, need, executor_id)

    def labels(self, probability: float) -> dict[str, str]:
        return {name: self.chance.choice("ab") for name in ("zone", "disk") if self.chance.random() < probability}

    def place_and_compare(self) -> None:
        limit = self.chance.choice([UNLIMITED, UNLIMITED, 1, 3])
        placements, more = self.state.place(limit)
        assert placements == self.reference.place(limit)
        assert more == (len(placements) == limit)
        assert self.state.drifted() == []
        assert {item.id for item in self.state.pending()} == set(self.reference.pending)
        live = {job_id: (executor_id, gpus) for job_id, executor_id, gpus in self.state.attempts()}
        assert live == {job_id: (found[0], found[2]) for job_id, found in self.reference.live.items()}


@pytest.fixture(params=["as they are", "as small as can be"])
def thresholds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that matter only to a large cluster, so that a small one takes every path as well."""
    if request.param == "as small as can be":
        monkeypatch.setattr(choosing, "FEW", 1)
        monkeypatch.setattr(cluster, "FEW_MOVED", 1)
        monkeypatch.setattr(table, "TRIED_SINGLY", 1)
        monkeypatch.setattr(table, "STEP", 2)
        monkeypatch.setattr(table, "KINDS_KEPT", 3)
        monkeypatch.setattr(waiting.Candidates, "AT_ONCE", 1)
        monkeypatch.setattr(waiting.Untried, "MERGE", 2)


@pytest.mark.usefixtures("thresholds")
@pytest.mark.parametrize("seeds", [range(n, n + 40) for n in range(0, 200, 40)], ids=str)
def test_over_any_history_jobs_go_where_trying_every_executor_would_put_them(seeds: range) -> None:
    for seed in seeds:
        history = History(seed)
        for _ in range(20):
            for _ in range(history.chance.choice([1, 1, 1, 5])):
                history.happen()
            history.place_and_compare()


@given(st.integers(min_value=1000), st.integers(1, 15))
@settings(deadline=None, max_examples=50)
def test_over_a_history_that_is_sought_to_break_it_as_well(seed: int, length: int) -> None:
    history = History(seed)
    for _ in range(length):
        history.happen()
        history.place_and_compare()


# --- What the short cuts rest on ---------------------------------------------------------------------------------


def test_the_cursor_of_a_shape_moves_back_to_room_freed_on_its_left() -> None:
    state = new_state([executor("a"), executor("b"), executor("c")], [job(n) for n in range(1, 10)])
    assert where(state.place(6)[0])[6] == "b"
    state.attempt_ended(UUID(int=2))
    assert where(state.place()[0]) == {7: "a", 8: "b", 9: "b"}


def test_a_blocked_shape_goes_where_room_is_freed_in_the_order_of_the_queue() -> None:
    state = new_state([executor("a"), executor("b")], [job(n, cpu=4) for n in range(1, 6)])
    assert where(state.place()[0]) == {1: "a", 2: "b"}
    state.job_added(job(6, cpu=3, priority=5))
    assert state.place()[0] == []
    state.attempt_ended(UUID(int=2))
    assert where(state.place()[0]) == {6: "b"}
    state.attempt_ended(UUID(int=6))
    assert where(state.place()[0]) == {3: "b"}


def test_a_job_goes_back_to_the_executor_it_avoids_only_where_no_other_has_room() -> None:
    state = new_state([executor("a"), executor("b")], [job(1, cpu=4), job(2, cpu=4), job(3, cpu=4, avoid="a")])
    state.place()
    state.attempt_ended(UUID(int=1))
    assert where(state.place()[0]) == {3: "a"}
    state.job_added(job(4, cpu=4, avoid="a"))
    state.attempt_ended(UUID(int=2))
    state.attempt_ended(UUID(int=3))
    assert where(state.place()[0]) == {4: "b"}


def test_a_freed_gpu_is_given_out_by_its_index() -> None:
    state = new_state([executor("a", gpus=(MODELS[2], MODELS[0], MODELS[0]))], [job(1, gpu="a100", gpus=1)])
    assert state.place()[0] == [Placement(UUID(int=1), "a", [1])]
    state.job_added(job(2, gpu="any", gpus=2))
    assert state.place()[0][0].gpu_indices == [0, 2]
    state.job_added(job(3, gpu="a100", gpus=1))
    assert state.place()[0] == []
    state.attempt_ended(UUID(int=1))
    assert state.place()[0] == [Placement(UUID(int=3), "a", [1])]


def test_an_executor_that_opens_takes_what_waited() -> None:
    state = new_state([executor("a", closed="is lost")], [job(1)])
    assert state.place()[0] == []
    state.executor_changed(executor("a"))
    assert where(state.place()[0]) == {1: "a"}


def test_an_executor_that_came_back_smaller_than_what_runs_on_it_gets_nothing_until_there_is_room() -> None:
    state = new_state([executor("a", cpu=4)], [job(1, cpu=3), job(2, cpu=1)])
    state.place()
    state.executor_changed(executor("a", cpu=2))
    state.job_added(job(3))
    assert state.place()[0] == []
    assert [view.free.cpu_millicores for view in state.executors()] == [-2]
    state.attempt_ended(UUID(int=1))
    assert where(state.place()[0]) == {3: "a"}


def test_hearing_anything_twice_changes_nothing() -> None:
    state = new_state([executor("a")], [job(1), job(1)])
    assert where(state.place()[0]) == {1: "a"}
    for _ in range(2):
        state.executor_changed(executor("a"))
        state.attempt_ended(UUID(int=1))
        state.job_removed(UUID(int=1))
    assert state.place() == ([], False)
    assert [view.free.cpu_millicores for view in state.executors()] == [4]


def test_jobs_that_went_while_their_shape_waited_are_never_placed_and_not_kept() -> None:
    state = new_state([executor("a", cpu=0)], [job(n) for n in range(1, 1001)])
    state.place()
    for number in range(1, 1000):
        state.job_removed(UUID(int=number))
    [shape] = state._blocked.shapes
    assert len(shape.queue) < 100
    state.executor_changed(executor("a"))
    assert where(state.place()[0]) == {1000: "a"}
    assert state._blocked.shapes == []
