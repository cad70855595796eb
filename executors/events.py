"""What happened to executors, kept for operators: written where it happens, shown on the executor's page."""

import datetime

from django.db.models import Count, OuterRef, Subquery

from executors.models import Executor, ExecutorEvent

KEPT_DAYS = 90
KEPT_EACH = 200
"""Of one executor: one whose Docker comes and goes all day must not fill the table."""

Kind = ExecutorEvent.Kind


def record(executor: Executor, kind: Kind, at: datetime.datetime, text: str = "", by: str = "") -> None:
    """Inside the caller's transaction."""
    ExecutorEvent.objects.create(executor=executor, kind=kind, at=at, text=text, by=by)


def note_drained(now: datetime.datetime) -> list[str]:
    """Write 'drained' for each executor whose drain has just come to its end; returns their ids."""
    since = ExecutorEvent.objects.filter(executor=OuterRef("id"), kind__in=[Kind.DRAINING, Kind.DRAINED]).order_by(
        "-id"
    )
    draining = Executor.objects.filter(schedulable=False, drain_requested_at__isnull=False)
    ended = [
        executor
        for executor in draining.annotate(newest=Subquery(since.values("kind")[:1])).with_allocation()
        if executor.live_attempts == 0 and executor.newest != Kind.DRAINED
    ]
    text = "No job runs here any more."
    ExecutorEvent.objects.bulk_create(
        [ExecutorEvent(executor=executor, kind=Kind.DRAINED, at=now, text=text) for executor in ended]
    )
    return [executor.id for executor in ended]


def prune(now: datetime.datetime) -> None:
    """Forget what is old, and of each executor all but the newest KEPT_EACH."""
    ExecutorEvent.objects.filter(at__lt=now - datetime.timedelta(days=KEPT_DAYS)).delete()
    many = ExecutorEvent.objects.order_by().values("executor").annotate(n=Count("id")).filter(n__gt=KEPT_EACH)
    for executor_id in list(many.values_list("executor", flat=True)):
        events = ExecutorEvent.objects.filter(executor=executor_id)
        events.filter(id__lte=events.order_by("-id").values_list("id", flat=True)[KEPT_EACH]).delete()
