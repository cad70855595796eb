"""Passes of a scheduler whose clock a test moves, over a real Redis and database."""

from concurrent.futures import Executor as Threads
from typing import Any

from django.db.models.functions import Now

from agent.protocol import Wake
from executors import broker
from jobs import leadership
from jobs.models import Attempt, Job, SchedulerLease
from jobs.scheduler import Scheduler
from tests.jobs import node as nodes
from tests.jobs.node import Node


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def new_leader(clock: Clock, beside: Threads | None = None) -> Scheduler:
    """A scheduler that takes over, whoever leads."""
    SchedulerLease.objects.update(expires_at=Now())
    holder = leadership.new_holder()
    term = leadership.acquire(holder)
    assert term is not None
    return Scheduler(holder, term, clock, beside=beside)


def submit(**fields: Any) -> Job:
    """A PENDING job, as `tests.jobs.node.submit` makes it, of which the scheduler is told."""
    job = nodes.submit(**fields)
    broker.send_event(Wake(job_ids=[str(job.id)]))
    return job


def settle(leader: Scheduler) -> list[Attempt]:
    """Passes until there is nothing more to do; what they placed.

    A pass may get what was read ahead before the test sent its last event: only the empty stream says that all is read.
    """
    placed: list[Attempt] = []
    for _ in range(20):
        result = leader.run_pass()
        placed += result.placed
        if not result.more and not broker.client().xlen(broker.keys().events):
            return placed
    raise AssertionError("the scheduler never comes to rest")


def fresh(job: Job) -> Job:
    return Job.objects.get(id=job.id)


def run(leader: Scheduler, node: Node, **fields: Any) -> Job:
    """A job that is RUNNING on the node."""
    job = submit(**fields)
    settle(leader)
    node.receive()
    node.running(job)
    node.heartbeat()
    settle(leader)
    assert fresh(job).state == "RUNNING"
    return job
