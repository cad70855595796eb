"""The dashboard: what the cluster does now, on one page."""

import datetime
import uuid
from typing import Any

from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import timezone

from executors.hub import Fragments
from executors.models import Executor
from executors.views import shown_executors, totals
from jobs.lifecycle import FINAL, State
from jobs.models import FINAL_STATES, Job

RECENT_JOBS = 12
SHOWN_EXECUTORS = 20
FINAL_WINDOW = datetime.timedelta(hours=24)


def dashboard_context() -> dict[str, Any]:
    shown = shown_executors()
    ailing = [item.executor for item in shown if item.executor.state != Executor.State.ONLINE]
    return {
        "executors": shown[:SHOWN_EXECUTORS],
        "executor_count": len(shown),
        "ailing": ailing,
        "totals": totals(shown),
        "queue": queue_by_state(timezone.now()),
        "jobs": list(Job.objects.select_related("executor").order_by("-id")[:RECENT_JOBS]),
    }


def queue_by_state(now: datetime.datetime) -> list[tuple[str, int, bool]]:
    """State, number of jobs, whether it is final. Of those that ended only the last day's submissions are counted: all
    of them would cost more each day."""
    ended_lately = Q(state__in=FINAL_STATES, id__gte=oldest_job_id(now - FINAL_WINDOW))
    waiting_or_live = Q(state__in=[state for state in State if state not in FINAL])
    rows = Job.objects.filter(waiting_or_live | ended_lately).order_by().values_list("state").annotate(Count("id"))
    counts: dict[str, int] = dict(rows)
    return [(state.value, counts.get(state, 0), state in FINAL) for state in State]


def oldest_job_id(moment: datetime.datetime) -> uuid.UUID:
    """The least id that a job submitted at `moment` can have: a UUIDv7 begins with 48 bits of milliseconds."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


def dashboard_fragments() -> Fragments:
    context = dashboard_context()
    return {
        f"dashboard-{part}": render_to_string(f"webapp/_{part}.html", context)
        for part in ("attention", "totals", "queue", "executors", "jobs")
    }


def dashboard(request: HttpRequest) -> HttpResponse:
    return render(request, "webapp/dashboard.html", dashboard_context())
