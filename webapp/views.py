"""The dashboard: what the cluster does now and did in the last day, on one page.

Its parts are rendered each in its time (`webapp/consumers.py`): queue and jobs at once, what is summed over all
executors at most once a second, what needs attention every few seconds.
"""

import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import timezone
from django.views.decorators.http import require_GET

from executors import history
from executors.broker import RedisUnavailable, client
from executors.hub import Fragments
from executors.lately import Lately
from executors.models import Executor
from executors.nodemap import figures, names
from executors.overview import shown_executors, totals
from executors.views import chart_range
from jobs.lifecycle import FINAL, State
from jobs.models import FINAL_STATES, Job, count_by_state
from webapp.attention import attention
from webapp.moments import oldest_job_id

RECENT_JOBS = 12
FINAL_WINDOW = datetime.timedelta(hours=24)
MANY_EXECUTORS = 50
MANY_JOBS = 20_000
"""From so many on, a page shows what another or the same saw a moment ago (`executors.lately`)."""


@require_GET
def dashboard(request: HttpRequest) -> HttpResponse:
    context = {**work_context(), **_cluster.get(), **_attention.get(), **chart_range(request)}
    return render(request, "webapp/dashboard.html", context)


@require_GET
def cluster_history(request: HttpRequest) -> JsonResponse:
    """The charts' columns over `?range=`."""
    try:
        return JsonResponse(history.cluster_history(chart_range(request)["range"]))
    except RedisUnavailable:
        return JsonResponse(
            {"detail": "Redis, which holds the history, does not answer; try again shortly."}, status=503
        )


# --- What is queued and runs -------------------------------------------------------------------------------------


def work_context() -> dict[str, Any]:
    return {
        "queue": queue_by_state(),
        "jobs": list(Job.objects.select_related("executor").order_by("-id")[:RECENT_JOBS]),
    }


def work_fragments() -> Fragments:
    return _fragments(("queue", "jobs"), work_context())


def queue_by_state() -> list[tuple[str, int, bool]]:
    """State, number of jobs, whether it is final. Of those that ended only the last day's submissions are counted: all
    of them would cost more each day."""
    counts = (
        count_by_state(Job.objects.filter(state__in=[state for state in State if state not in FINAL]))
        | _ended_lately.get()
    )
    return [(state.value, counts.get(state, 0), state in FINAL) for state in State]


def _count_ended_lately() -> dict[str, int]:
    since = oldest_job_id(timezone.now() - FINAL_WINDOW)
    return count_by_state(Job.objects.filter(state__in=FINAL_STATES, id__gte=since))


_ended_lately = Lately(_count_ended_lately, 1, lambda counts: sum(counts.values()) >= MANY_JOBS)


# --- The executors -----------------------------------------------------------------------------------------------


def cluster_context() -> dict[str, Any]:
    shown = shown_executors()
    try:
        newest = history.newest(client())
    except RedisUnavailable:
        newest = None
    return {
        "executor_count": len(shown),
        "totals": totals(shown),
        "newest": newest,
        "map_names": names(shown),
        "map_figures": figures(shown),
    }


def cluster_fragments() -> Fragments:
    return _fragments(("totals", "newest", "map_names", "map_figures"), _cluster.fresh())


_cluster = Lately(cluster_context, 1, lambda context: context["executor_count"] >= MANY_EXECUTORS)


# --- What needs attention ----------------------------------------------------------------------------------------


def attention_context() -> dict[str, Any]:
    return {"attention": attention(timezone.now()), "no_executors": not Executor.objects.exists()}


def attention_fragments() -> Fragments:
    return _fragments(("attention",), _attention.fresh())


_attention = Lately(attention_context, 4, lambda _: Executor.objects.count() >= MANY_EXECUTORS)


def _fragments(parts: tuple[str, ...], context: dict[str, Any]) -> Fragments:
    return {f"dashboard-{part}": render_to_string(f"webapp/_{part}.html", context) for part in parts}
