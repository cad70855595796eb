"""Why a job waits, and where it fits, for pages and API: in a large cluster from a look that may be a moment old.

A look reads every executor and all that runs, whatever is asked of it, so all who ask in this process share it.
"""

from typing import NamedTuple

from django.utils import timezone

from executors.lately import Lately
from jobs import leadership
from jobs.lifecycle import State
from jobs.models import Job
from jobs.scheduling import explain
from jobs.scheduling.room import ExecutorView
from jobs.snapshot import Cluster, build_cluster, load_executors, load_live, requirements_of, view_of

LOOK_SECONDS = 2.0
FEW_EXECUTORS = 50
"""So few are looked at anew each time."""


class Kinds(NamedTuple):
    """One of each kind of executor, as most are alike, and of how many."""

    executors: int
    views: list[ExecutorView]


def cluster() -> Cluster:
    """All executors with what is free of them, and until when; not to be changed."""
    return _cluster.get()


def why_waiting(job: Job) -> str:
    """Why a PENDING job has not been placed, in a sentence for a person; '' for a job that is not PENDING."""
    if job.state != State.PENDING:
        return ""
    lease = leadership.lease_status()
    if lease is None or lease.expired:
        return "No scheduler is running; jobs are placed as soon as one is."
    return cluster().why_waiting(job, timezone.now())


def never_fits(job: Job) -> str:
    """A sentence where no registered executor could ever fit the job, even idle; '' where one could."""
    return explain.never_fits(requirements_of(job), _kinds.get().views)


def _look_at_cluster() -> Cluster:
    return build_cluster(load_executors(), load_live())


def _look_at_kinds() -> Kinds:
    executors, kinds = load_executors(), {}
    for view in map(view_of, executors):
        models = tuple(gpu.model for gpu in view.capacity.gpus)
        labels = frozenset(view.labels.items())
        kinds[view.capacity.cpu_millicores, view.capacity.memory_bytes, models, labels] = view
    return Kinds(len(executors), list(kinds.values()))


_cluster = Lately(_look_at_cluster, LOOK_SECONDS, lambda seen: len(seen.executors) > FEW_EXECUTORS)
_kinds = Lately(_look_at_kinds, LOOK_SECONDS, lambda seen: seen.executors > FEW_EXECUTORS)
