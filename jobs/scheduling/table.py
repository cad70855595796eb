"""All executors as columns, so that one comparison asks them all at once.

CPU in millicores, memory in bytes. An executor's position is its place in the order in which first-fit tries them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.scheduling.room import ExecutorView, GpuDevice, Requirements, Room, has_labels, is_of_type, suitable_gpus

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

TRIED_SINGLY = 16
"""Executors tried one by one first: where a search begins at a good place, one of them often has room."""

STEP = 256
"""Executors asked at once at first: about as many as cost no more than one."""

KINDS_KEPT = 512
"""Kinds that no shape has any more are forgotten when there are more than this."""


@dataclass(slots=True, eq=False)
class Kind:
    """The executors as jobs see them that ask for the same GPUs and labels: `eligible` says which take jobs and have
    the labels, `gpus` counts their free suitable devices (None where none is asked for). `users` counts its shapes."""

    requirements: Requirements
    eligible: Flags
    gpus: Integers | None
    users: int = 0


class Table:
    """The executors and what is free of each; to begin with, nothing runs on them."""

    def __init__(self, views: Sequence[ExecutorView]) -> None:
        self.views = sorted(views, key=_order)
        self.ids = [view.id for view in self.views]
        self.free_gpus: list[list[GpuDevice]] = [list(view.capacity.gpus) for view in self.views]
        self._set_rooms(
            np.array([view.capacity.cpu_millicores for view in self.views], np.int64),
            np.array([view.capacity.memory_bytes for view in self.views], np.int64),
        )
        self._kinds: dict[Any, Kind] = {}
        self._gpu_columns: dict[str, Integers] = {}
        self._count_positions()
        self.undemanding = self.kind_of(Requirements(0, 0))
        self.undemanding.users = 1

    def __len__(self) -> int:
        return len(self.views)

    # --- Who is there --------------------------------------------------------------------------------------------

    def insert(self, view: ExecutorView) -> int:
        """An executor that joined, with nothing running on it; its position. Those behind it move on by one."""
        at = bisect_left(self.views, _order(view), key=_order)
        room = view.capacity
        self.views.insert(at, view)
        self.ids.insert(at, view.id)
        self.free_gpus.insert(at, list(room.gpus))
        self._set_rooms(np.insert(self._cpu, at, room.cpu_millicores), np.insert(self._memory, at, room.memory_bytes))
        for gpu_type, column in self._gpu_columns.items():
            count = len(suitable_gpus(Requirements(0, 0, gpu_type, 1), room))
            self._gpu_columns[gpu_type] = np.insert(column, at, count)
        for kind in self._kinds.values():
            kind.eligible = np.insert(kind.eligible, at, _eligible(kind.requirements, view))
        self._count_positions()
        return at

    def remove(self, position: int) -> None:
        """An executor that went. Those behind it move up by one."""
        for column in (self.views, self.ids, self.free_gpus):
            del column[position]
        self._set_rooms(np.delete(self._cpu, position), np.delete(self._memory, position))
        for gpu_type, counts in self._gpu_columns.items():
            self._gpu_columns[gpu_type] = np.delete(counts, position)
        for kind in self._kinds.values():
            kind.eligible = np.delete(kind.eligible, position)
        self._count_positions()

    def _set_rooms(self, cpu: Integers, memory: Integers) -> None:
        # One item of an array is read and written three times as fast through a memoryview.
        self._cpu, self._memory = cpu, memory
        self.free_cpu, self.free_memory = cpu.data, memory.data

    def _count_positions(self) -> None:
        self.position = {executor_id: position for position, executor_id in enumerate(self.ids)}
        for kind in self._kinds.values():
            if kind.gpus is not None:
                kind.gpus = self._gpu_columns[kind.requirements.gpu_type.lower()]

    # --- What changes --------------------------------------------------------------------------------------------

    def take(self, requirements: Requirements, position: int) -> list[int]:
        """Take a job's share of an executor that has room for it, and say which GPUs it gets."""
        self.free_cpu[position] -= requirements.cpu_millicores
        self.free_memory[position] -= requirements.memory_bytes
        if not requirements.gpu_count:
            return []
        wanted, count = requirements.gpu_type, requirements.gpu_count
        taken: list[GpuDevice] = []
        left: list[GpuDevice] = []
        for gpu in self.free_gpus[position]:
            (taken if len(taken) < count and is_of_type(wanted, gpu.model) else left).append(gpu)
        self.free_gpus[position] = left
        for gpu_type, column in self._gpu_columns.items():
            column[position] -= sum(is_of_type(gpu_type, gpu.model) for gpu in taken)
        return [gpu.index for gpu in taken]

    def set_free(self, position: int, room: Room) -> None:
        """What is free of an executor, anew."""
        self.free_cpu[position], self.free_memory[position] = room.cpu_millicores, room.memory_bytes
        if self.free_gpus[position] != room.gpus:
            self.free_gpus[position] = list(room.gpus)
            self._count_gpus(position)

    def set_view(self, position: int, view: ExecutorView) -> None:
        """What an executor of the same name and id is like now; what is free of it is set by `set_free`."""
        self.views[position] = view
        for kind in self._kinds.values():
            kind.eligible[position] = _eligible(kind.requirements, view)

    def room(self, position: int) -> Room:
        return Room(self.free_cpu[position], self.free_memory[position], list(self.free_gpus[position]))

    # --- Kinds ---------------------------------------------------------------------------------------------------

    def kind_of(self, requirements: Requirements) -> Kind:
        """The kind of these requirements; the caller counts its users."""
        gpu_type = requirements.gpu_type.lower() if requirements.gpu_count else ""
        key = (gpu_type, bool(requirements.gpu_count), frozenset(requirements.labels.items()))
        kind = self._kinds.get(key)
        if kind is None:
            self._forget_unused_kinds()
            eligible = np.array([_eligible(requirements, view) for view in self.views], np.bool_)
            gpus = self._gpu_column(requirements) if requirements.gpu_count else None
            kind = self._kinds[key] = Kind(requirements, eligible, gpus)
        return kind

    def _gpu_column(self, requirements: Requirements) -> Integers:
        gpu_type = requirements.gpu_type.lower()
        column = self._gpu_columns.get(gpu_type)
        if column is None:
            counts = [len(suitable_gpus(requirements, Room(0, 0, free))) for free in self.free_gpus]
            column = self._gpu_columns[gpu_type] = np.array(counts, np.int64)
        return column

    def _count_gpus(self, position: int) -> None:
        room = Room(0, 0, self.free_gpus[position])
        for gpu_type, column in self._gpu_columns.items():
            column[position] = len(suitable_gpus(Requirements(0, 0, gpu_type, 1), room))

    def _forget_unused_kinds(self) -> None:
        if len(self._kinds) >= KINDS_KEPT:
            self._kinds = {key: kind for key, kind in self._kinds.items() if kind.users}
            used = {kind.requirements.gpu_type.lower() for kind in self._kinds.values() if kind.gpus is not None}
            self._gpu_columns = {name: column for name, column in self._gpu_columns.items() if name in used}

    # --- Asking --------------------------------------------------------------------------------------------------

    def fits(self, kind: Kind, need: Requirements, position: int) -> bool:
        """Whether one executor takes such jobs and has room for one now."""
        return bool(
            need.cpu_millicores <= self.free_cpu[position]
            and need.memory_bytes <= self.free_memory[position]
            and kind.eligible[position]
            and (kind.gpus is None or need.gpu_count <= kind.gpus[position])
        )

    def first(self, kind: Kind, cpu: int, memory: int, gpu_count: int, start: int) -> int:
        """The first executor from `start` on with room; the number of executors where there is none."""
        end = len(self.views)
        free_cpu, free_memory, eligible, gpus = self.free_cpu, self.free_memory, kind.eligible, kind.gpus
        singly = min(start + TRIED_SINGLY, end)
        for position in range(start, singly):
            if cpu <= free_cpu[position] and memory <= free_memory[position] and eligible[position]:
                if gpus is not None and gpu_count > gpus[position]:
                    continue
                return position
        start = singly
        for part in (slice(start, start + STEP), slice(start + STEP, end)):
            room = self._with_room(kind, cpu, memory, gpu_count, part)
            if len(room) and room[found := int(room.argmax())]:
                return part.start + found
        return end

    def all(self, kind: Kind, need: Requirements) -> list[int]:
        """All executors with room, in their order."""
        everywhere = slice(0, len(self.views))
        room = self._with_room(kind, need.cpu_millicores, need.memory_bytes, need.gpu_count, everywhere)
        found: list[int] = np.flatnonzero(room).tolist()
        return found

    def free_shares(self, positions: Sequence[int]) -> NDArray[np.float64]:
        """How much of each is free, all resources alike: 0 for full, 1 for idle. GPUs count where an executor has any,
        so that best-fit keeps jobs without GPUs off the machines with them."""
        capacities = [self.views[position].capacity for position in positions]
        cpu = self._cpu[positions] / np.array([max(capacity.cpu_millicores, 1) for capacity in capacities])
        memory = self._memory[positions] / np.array([max(capacity.memory_bytes, 1) for capacity in capacities])
        gpus = np.array([len(capacity.gpus) for capacity in capacities])
        free = np.array([len(self.free_gpus[position]) for position in positions])
        shares: NDArray[np.float64] = np.where(
            gpus > 0, (cpu + memory + free / np.maximum(gpus, 1)) / 3, (cpu + memory) / 2
        )
        return shares

    def _with_room(self, kind: Kind, cpu: int, memory: int, gpu_count: int, part: slice) -> Flags:
        room = self._cpu[part] >= cpu
        room &= self._memory[part] >= memory
        room &= kind.eligible[part]
        if kind.gpus is not None:
            room &= kind.gpus[part] >= gpu_count
        return room


_order = attrgetter("name", "id")


def _eligible(requirements: Requirements, view: ExecutorView) -> bool:
    return not view.closed and has_labels(requirements, view.labels)
