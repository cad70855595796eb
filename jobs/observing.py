"""The cluster in numbers every ten seconds, for the charts: a chore of the leading scheduler, beside its passes."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from django.utils import timezone

from executors import broker, events
from executors.history import GB, RECORD_SECONDS, Point, percentile, record
from executors.models import Executor
from executors.overview import shown_executors, totals
from jobs.lifecycle import LIVE, State
from jobs.models import Job, count_by_state

PRUNE_SECONDS = 3600.0
MOST_WAITS = 10_000
"""Kept between two points; more would tell no more."""


class Tally:
    """What the passes saw since the last point: the scheduler adds after each commit, the chore takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: list[float] = []
        self._ended: Counter[str] = Counter()

    def add(self, waits: Iterable[float], ended: Mapping[str, int]) -> None:
        with self._lock:
            self._waits = [*self._waits, *waits][-MOST_WAITS:]
            self._ended.update(ended)

    def take(self) -> tuple[list[float], Counter[str]]:
        with self._lock:
            taken = self._waits, self._ended
            self._waits, self._ended = [], Counter()
        return taken


tally = Tally()
"""Of this process, which has one leading scheduler at most."""


class Recorder:
    """The chore: records a point, notes drains that came to their end, now and then forgets old events."""

    def __init__(self) -> None:
        self._pruned_at = 0.0

    def work(self) -> float:
        """Returns in how many seconds it is to be called again. Raises redis.RedisError or a database error."""
        now = time.time()
        record(broker.client(), measure(int(now) // RECORD_SECONDS * RECORD_SECONDS, tally))
        if drained := events.note_drained(timezone.now()):
            broker.publish_changes(executors=drained)
        if now - self._pruned_at > PRUNE_SECONDS:
            events.prune(timezone.now())
            self._pruned_at = now
        return RECORD_SECONDS - time.time() % RECORD_SECONDS


def measure(t: int, since_last: Tally) -> Point:
    """The cluster now, as the point of the moment `t`."""
    shown = shown_executors()
    total = totals(shown)
    counts = count_by_state(Job.objects.filter(state__in=[State.PENDING, *LIVE]))
    waits, ended = since_last.take()
    cpu, memory, gpu = total["cpu"], total["memory"], total["gpu"]
    return Point(
        t=t,
        cpu_capacity=cpu.capacity / 1000,
        cpu_allocated=cpu.allocated / 1000,
        cpu_used=None if cpu.used is None else round(cpu.used / 1000, 3),
        memory_capacity=round(memory.capacity / GB, 3),
        memory_allocated=round(memory.allocated / GB, 3),
        memory_used=None if memory.used is None else round(memory.used / GB, 3),
        gpu_capacity=gpu.capacity,
        gpu_allocated=gpu.allocated,
        gpu_used=None if gpu.used is None else round(gpu.used, 3),
        executors=sum(item.executor.state == Executor.State.ONLINE for item in shown),
        pending=counts.get(State.PENDING, 0),
        starting=counts.get(State.STARTING, 0),
        running=counts.get(State.RUNNING, 0),
        wait_p50=percentile(waits, 0.5),
        wait_p95=percentile(waits, 0.95),
        succeeded=ended[State.SUCCEEDED],
        failed=ended[State.FAILED],
    )
