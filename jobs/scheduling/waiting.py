"""The pending jobs: those not tried yet in the order of the queue, those of shapes that fitted nowhere by shape.

A job's `order` is one integer that sorts as the queue does: higher priority first, then earlier submission (job ids
are time-ordered). Its upper 64 bits, the priority and the milliseconds of the id, are its `rank`, which a column holds.
"""

from bisect import bisect_left
from heapq import heapify, heappop, heappush
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from jobs.scheduling.placement import PendingJob
from jobs.scheduling.room import Requirements
from jobs.scheduling.table import Flags, Kind

ID_BITS = 128
RANK_SHIFT = 80
HIGHEST_PRIORITY = 2**15 - 1

NOT_BLOCKED = -1

NO_GPUS: list[int] = []


class Shape:
    """The pending jobs that placement cannot tell apart.

    `live` counts them. While the shape is blocked, `row` is its row in the table of blocked shapes and `queue` a heap
    of its jobs, those that were tried or came later, none of an order above `latest`. `cursor` is the first executor
    that may have room, true as long as none has got more since `epoch`; `quick` is the epoch, too, where CPU and memory
    alone decide whether it has.
    """

    __slots__ = (
        "cpu", "cursor", "digest", "epoch", "kind", "latest", "live", "memory", "queue", "quick", "requirements", "row",
    )  # fmt: skip

    def __init__(self, digest: str, requirements: Requirements, kind: Kind) -> None:
        self.digest, self.requirements, self.kind = digest, requirements, kind
        self.cpu, self.memory = requirements.cpu_millicores, requirements.memory_bytes
        self.live = 0
        self.cursor = 0
        self.unblock()

    def unblock(self) -> None:
        """To be tried anywhere."""
        self.row = NOT_BLOCKED
        self.epoch = self.quick = -1
        self.queue: list[Entry] = []
        self.latest = -1

    def enqueue(self, entry: "Entry") -> None:
        """Add one to `queue`. What is behind all others, as most are, stays where it is put."""
        if entry[0] > self.latest:
            self.latest = entry[0]
            self.queue.append(entry)
        else:
            heappush(self.queue, entry)

    def head(self) -> "Entry | None":
        """The first of the jobs in `queue`."""
        queue = self.queue
        while queue:
            if not queue[0][2].gone:
                return queue[0]
            heappop(queue)
        return None

    def shrink(self) -> None:
        """Drop the jobs that have gone where they outnumber the others."""
        if len(self.queue) > 2 * self.live + 32:
            self.queue = [entry for entry in self.queue if not entry[2].gone]
            heapify(self.queue)


class Tracked:
    """A job in the queue, or with a live attempt: it is on `executor_id` then, and has these GPUs.

    `gone` says that it left the queue, wherever it is still listed. It is `special` where it goes another way than
    others of its shape: gone, or off to avoid an executor.
    """

    __slots__ = ("executor_id", "gone", "gpu_indices", "job", "job_id", "order", "requirements", "shape", "special")

    def __init__(self, job: PendingJob, shape: Shape) -> None:
        self.job, self.shape, self.job_id, self.requirements = job, shape, job.id, job.requirements
        self.executor_id: str | None = None
        self.gpu_indices = NO_GPUS
        self.gone, self.special = False, job.avoid_executor is not None
        self.order = (HIGHEST_PRIORITY - job.priority << ID_BITS) | job.id.int


Entry = tuple[int, int, Tracked]
"""A job's order, something to tell two with the same order apart, and the job."""


def entry_of(job: Tracked) -> Entry:
    return job.order, id(job), job


class Untried:
    """Jobs that were not tried on any executor yet: a long sorted list, and a heap of those that came since."""

    MERGE = 1000
    AT_ONCE = 4000
    """As many jobs stay in the processor's cache from one loop over them to the next."""

    def __init__(self) -> None:
        self.sorted: list[Entry] = []
        self._at = 0  # the first of `sorted` that was not taken
        self.heap: list[Entry] = []

    def add(self, job: Tracked) -> None:
        heappush(self.heap, entry_of(job))

    def take_before(self, bound: int, at_most: int) -> list[Entry]:
        """The next of the sorted ones, some of those before `bound`."""
        begin = self._at
        end = min(len(self.sorted), begin + at_most, begin + self.AT_ONCE)
        self._at = bisect_left(self.sorted, bound, begin, end, key=itemgetter(0))
        return self.sorted[begin : self._at]

    def merge(self) -> None:
        """Keep the heap small. What comes is mostly behind what is there, which then stays where it is."""
        if len(self.heap) > self.MERGE:
            behind = bisect_left(self.sorted, self.heap[0], self._at)
            self.sorted[behind:] = sorted(self.sorted[behind:] + self.heap)
            self.heap = []
        if self._at > len(self.sorted) // 2:
            del self.sorted[: self._at]
            self._at = 0


class Blocked:
    """The shapes for which no executor had room, as columns, so that room that was freed finds those that fit it."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self._cpu = np.empty(64, np.int64)
        self._memory = np.empty(64, np.int64)
        self._gpus = np.empty(64, np.int64)
        self._ranks = np.empty(64, np.uint64)

    def add(self, shape: Shape, first: Entry) -> None:
        """A shape that fits nowhere, and its first job."""
        row = shape.row = len(self.shapes)
        if row == len(self._ranks):
            for name in ("_cpu", "_memory", "_gpus", "_ranks"):
                setattr(self, name, np.concatenate([getattr(self, name)] * 2))
        self.shapes.append(shape)
        shape.enqueue(first)
        need = shape.requirements
        self._cpu[row], self._memory[row], self._gpus[row] = need.cpu_millicores, need.memory_bytes, need.gpu_count
        self._ranks[row] = first[0] >> RANK_SHIFT

    def look_again(self, shape: Shape) -> None:
        """The shape's first job may be another now, or there is none: it is blocked no more then."""
        head = shape.head()
        if head is None:
            self._remove(shape)
        else:
            self._ranks[shape.row] = head[0] >> RANK_SHIFT

    def _remove(self, shape: Shape) -> None:
        row = shape.row
        shape.unblock()
        last = self.shapes.pop()
        if last is not shape:
            end = len(self.shapes)
            self.shapes[row], last.row = last, row
            for column in (self._cpu, self._memory, self._gpus, self._ranks):
                column[row] = column[end]

    def fitting(self, most_cpu: int, most_memory: int, most_gpus: int) -> "Candidates":
        """The shapes that ask for no more than this; GPU models and labels are not looked at."""
        rows = np.flatnonzero(self.small(slice(len(self.shapes)), most_cpu, most_memory, most_gpus))
        return Candidates(self, rows)

    def small(self, rows: "slice | NDArray[np.int64]", most_cpu: int, most_memory: int, most_gpus: int) -> Flags:
        """Which of the shapes in these rows ask for no more than this."""
        small = self._cpu[rows] <= most_cpu
        small &= self._memory[rows] <= most_memory
        small &= self._gpus[rows] <= most_gpus
        return small

    def ranks(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        return self._ranks[rows]


class Candidates:
    """Blocked shapes that may fit again, handed out in the order of the queue, a few at a time: mostly the room is
    gone after the first. The table's rows must stay where they are meanwhile.

    No job of those still to come is before `bound`.
    """

    AT_ONCE = 64
    NONE_LEFT = 1 << 160

    def __init__(self, table: Blocked, rows: NDArray[np.int64]) -> None:
        self._table, self._rows, self._ranks = table, rows, table.ranks(rows)
        self._look_ahead()

    def take(self, most_cpu: int, most_memory: int, most_gpus: int) -> list[Shape]:
        """The next ones, with all of equal rank, that do not ask for more than this (which never grows)."""
        keep = self._table.small(self._rows, most_cpu, most_memory, most_gpus)
        rows, ranks = self._rows[keep], self._ranks[keep]
        if len(rows) > self.AT_ONCE:
            now = ranks <= np.partition(ranks, self.AT_ONCE)[self.AT_ONCE]
            self._rows, self._ranks = rows[~now], ranks[~now]
            rows = rows[now]
        else:
            self._rows, self._ranks = rows[:0], ranks[:0]
        self._look_ahead()
        return [self._table.shapes[row] for row in rows]

    def _look_ahead(self) -> None:
        self.bound = int(self._ranks.min()) << RANK_SHIFT if len(self._ranks) else self.NONE_LEFT
