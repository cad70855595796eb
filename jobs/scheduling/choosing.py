"""One run over all that may be placed, in the order of the queue.

Each of the short cuts is exact while room only shrinks, as it does within a run: a shape goes on at its cursor; what
asks for no less than something that fitted nowhere is not tried; and no search begins left of where the same search
for somewhat less would have begun.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from functools import partial
from heapq import heappop, heappush

from jobs.scheduling.placement import Placement, Strategy
from jobs.scheduling.table import Table
from jobs.scheduling.waiting import NO_GPUS, NOT_BLOCKED, Blocked, Candidates, Entry, Shape, Tracked, Untried

FEW = 32
"""Where room grew on more executors than this, all are searched for the shapes that were blocked, not these."""

new_placement = partial(tuple.__new__, Placement)
"""Placement(...) in half the time, which is a fifth of what a job costs whose shape has a cursor."""

END = Candidates.NONE_LEFT
"""After every job's order."""


class Run:
    """What it places it takes from the `table`, and adds to `held`, by the executors' position.

    `grown` are the positions where room grew since blocked shapes were tried; `epoch` changes whenever room grew.
    `emptied` are the shapes whose last job was placed.
    """

    def __init__(
        self,
        table: Table,
        untried: Untried,
        blocked: Blocked,
        held: Sequence[list[Tracked]],
        grown: Collection[int],
        strategy: Strategy,
        epoch: int,
    ) -> None:
        self._table, self._untried, self._blocked, self._held = table, untried, blocked, held
        self._grown, self._strategy, self._epoch = sorted(grown), strategy, epoch
        self._placements: list[Placement] = []
        self.emptied: list[Shape] = []
        self._again: set[Shape] = set()  # blocked, and being tried where room grew
        self._again_heap: list[Entry] = []  # the first job of each
        self._hopeless: dict[tuple[int, int], Staircase] = {}
        self._floors: dict[tuple[int, int], int] = {}

    def place(self, limit: int) -> tuple[list[Placement], bool]:
        """The placements, at most `limit`, and whether the limit stopped it."""
        self._untried.merge()
        heap, again, placements = self._untried.heap, self._again_heap, self._placements
        candidates = self._blocked.fitting(*self._most_grown())
        while len(placements) < limit:
            bound = min(candidates.bound, heap[0][0] if heap else END, again[0][0] if again else END)
            batch = self._untried.take_before(bound, limit - len(placements))
            if batch:
                self._try_all(batch)
                continue
            if bound == END:
                break
            if candidates.bound == bound:
                for shape in candidates.take(*self._most_grown()):
                    self._try_shape_again(shape)
            elif again and again[0][0] == bound:
                self._try_again(heappop(again))
            else:
                self._try(heappop(heap))
        for shape in self._again:
            self._blocked.look_again(shape)
        return placements, len(placements) >= limit

    # --- Jobs in their order -------------------------------------------------------------------------------------

    def _try_all(self, batch: list[Entry]) -> None:
        """Untried jobs in their order. Those of a shape with a cursor, and those of a blocked shape, are dealt with
        right here, as `_try` would do it."""
        held, placements, epoch, first = self._held, self._placements, self._epoch, self._table.first
        again = self._again
        cpu, memory, ids, nowhere = self._table.free_cpu, self._table.free_memory, self._table.ids, len(self._table)
        for entry in batch:
            job = entry[2]
            shape = job.shape
            if shape.quick != epoch or job.special:
                if shape.row == NOT_BLOCKED or job.special or shape in again:
                    self._try(entry)
                else:
                    shape.enqueue(entry)
                continue
            position = shape.cursor
            cpu_left, memory_left = cpu[position] - shape.cpu, memory[position] - shape.memory
            if cpu_left < 0 or memory_left < 0:
                position = shape.cursor = first(shape.kind, shape.cpu, shape.memory, 0, position + 1)
                if position == nowhere:
                    self._block(entry)
                    continue
                cpu_left, memory_left = cpu[position] - shape.cpu, memory[position] - shape.memory
            cpu[position], memory[position] = cpu_left, memory_left
            executor_id = job.executor_id = ids[position]
            held[position].append(job)
            shape.live -= 1
            if not shape.live:
                self.emptied.append(shape)
            placements.append(new_placement((job.job_id, executor_id, NO_GPUS)))

    def _try(self, entry: Entry) -> None:
        job = entry[2]
        shape = job.shape
        if job.gone:
            return
        if shape.row == NOT_BLOCKED:
            position = self._choose(job, shape)
            if position is None:
                self._block(entry)
            else:
                self._put(job, shape, position)
            return
        shape.enqueue(entry)
        if shape in self._again and shape.queue[0] is entry:
            self._try_again(entry)

    def _block(self, entry: Entry) -> None:
        """No executor has room for the job's shape."""
        shape = entry[2].shape
        shape.quick = shape.epoch = -1
        self._blocked.add(shape, entry)

    def _try_shape_again(self, shape: Shape) -> None:
        """Room grew somewhere: the shape's jobs are to be tried."""
        head = shape.head()
        if head is not None:
            self._again.add(shape)
            heappush(self._again_heap, head)

    def _try_again(self, entry: Entry) -> None:
        """The first job of a blocked shape."""
        job = entry[2]
        shape = job.shape
        if job.gone or shape not in self._again:
            return
        position = self._choose_again(job, shape)
        if position is None:
            self._again.discard(shape)
            self._blocked.look_again(shape)
            return
        self._put(job, shape, position)
        self._try_shape_again(shape)

    def _put(self, job: Tracked, shape: Shape, position: int) -> None:
        indices = self._table.take(shape.requirements, position)
        executor_id = job.executor_id = self._table.ids[position]
        job.gone, job.gpu_indices = True, indices
        self._held[position].append(job)
        shape.live -= 1
        if not shape.live:
            self.emptied.append(shape)
        self._placements.append(Placement(job.job_id, executor_id, indices))

    # --- The executor for one job --------------------------------------------------------------------------------

    def _choose(self, job: Tracked, shape: Shape) -> int | None:
        """Where the job goes, or None where nothing has room for it."""
        if self._strategy is Strategy.FIRST_FIT and shape.epoch == self._epoch:
            return self._first_fit(job, shape)
        need = shape.requirements
        hopeless = self._hopeless.get((id(shape.kind), need.gpu_count))
        if hopeless is not None and hopeless.covers(shape.cpu, shape.memory):
            return None
        if self._strategy is Strategy.FIRST_FIT:
            shape.epoch, shape.cursor = self._epoch, self._floor(shape.cpu, shape.memory)
            position = self._first_fit(job, shape)
            shape.quick = shape.epoch if not need.gpu_count else -1
        else:
            position = self._best(job, self._table.all(shape.kind, need))
        if position is None:
            self._hopeless.setdefault((id(shape.kind), need.gpu_count), Staircase()).add(shape.cpu, shape.memory)
        return position

    def _first_fit(self, job: Tracked, shape: Shape) -> int | None:
        table, nowhere = self._table, len(self._table)
        asked = (shape.kind, shape.cpu, shape.memory, shape.requirements.gpu_count)
        position = shape.cursor = table.first(*asked, shape.cursor)
        if position == nowhere:
            return None
        if table.ids[position] == job.job.avoid_executor:
            other = table.first(*asked, position + 1)
            return other if other != nowhere else position
        return position

    def _floor(self, cpu: int, memory: int) -> int:
        """An executor left of which none has room for as much: the first with room for the next lower powers of two."""
        cpu_step, memory_step = max(cpu.bit_length() - 1, 0), max(memory.bit_length() - 1, 0)
        amounts = cpu >> cpu_step << cpu_step, memory >> memory_step << memory_step
        floor, table = self._floors.get(amounts, 0), self._table
        if floor >= len(table) or table.free_cpu[floor] < amounts[0] or table.free_memory[floor] < amounts[1]:
            floor = self._floors[amounts] = table.first(table.undemanding, *amounts, 0, floor)
        return floor

    def _choose_again(self, job: Tracked, shape: Shape) -> int | None:
        """Where the job of a blocked shape goes: only where room grew can it fit."""
        kind, need = shape.kind, shape.requirements
        if len(self._grown) > FEW:
            room = self._table.all(kind, need)
        else:
            room = [position for position in self._grown if self._table.fits(kind, need, position)]
        return self._best(job, room)

    def _best(self, job: Tracked, room: list[int]) -> int | None:
        """The executor, of those with room, that the strategy prefers."""
        room = [position for position in room if self._table.ids[position] != job.job.avoid_executor] or room
        if not room or self._strategy is Strategy.FIRST_FIT:
            return room[0] if room else None
        shares = self._table.free_shares(room)
        return room[int(shares.argmin() if self._strategy is Strategy.BEST_FIT else shares.argmax())]

    def _most_grown(self) -> tuple[int, int, int]:
        """The most CPU, memory and GPUs that one of the executors has on which room grew; -1 where there is none."""
        table, grown = self._table, self._grown
        return (
            max((table.free_cpu[position] for position in grown), default=-1),
            max((table.free_memory[position] for position in grown), default=-1),
            max((len(table.free_gpus[position]) for position in grown), default=-1),
        )


class Staircase:
    """Amounts of CPU and memory that were found to fit nowhere, and so do all larger ones. Only the smallest are kept:
    ascending in CPU, descending in memory."""

    def __init__(self) -> None:
        self._cpu: list[int] = []
        self._memory: list[int] = []

    def covers(self, cpu: int, memory: int) -> bool:
        at = bisect_right(self._cpu, cpu) - 1
        return at >= 0 and self._memory[at] <= memory

    def add(self, cpu: int, memory: int) -> None:
        at = end = bisect_left(self._cpu, cpu)
        while end < len(self._cpu) and self._memory[end] >= memory:
            end += 1
        self._cpu[at:end], self._memory[at:end] = [cpu], [memory]
