"""The page of one job. What changes on it is rendered as fragments, for the page and for its socket alike.

`jobs/list_views.py` has the list, `jobs/submit_views.py` the form, `jobs/log_views.py` the log.
"""

import uuid
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET, require_POST
from django_htmx.middleware import HtmxDetails

from executors import broker
from executors.broker import RedisUnavailable
from executors.hub import Fragments
from jobs import services
from jobs.applied import rows_of
from jobs.lifecycle import LIVE
from jobs.logs import read_log
from jobs.masking import masked
from jobs.models import ContainerSettings, Job
from jobs.reasons import why_waiting
from jobs.remedies import remedy
from jobs.timeline import happenings, steps
from jobs.usage import report, samples_of

SHOWN_RETRIES = 10
MOST_ROOM = 100
"""Lines of a log for which the page keeps room: as many as fit in the highest log."""
PARTS = "head", "facts", "attempts", "events", "settings"
"""Of the page, what changes: each a template and the element `job-…`."""


class HtmxRequest(HttpRequest):
    """A request as django-htmx's middleware leaves it."""

    htmx: HtmxDetails


# --- One job -----------------------------------------------------------------------------------------------------


def detail_context(job_id: uuid.UUID) -> dict[str, Any]:
    """Raises Job.DoesNotExist."""
    job = Job.objects.select_related("executor", "owner").get(id=job_id)
    attempts = list(job.attempts.select_related("executor").order_by("number"))
    current = attempts[-1] if attempts else None
    settings = ContainerSettings.objects.filter(attempt=current).first() if current else None
    return {
        "job": job,
        "attempts": attempts[::-1],
        "current": current,
        "waiting": why_waiting(job),
        "remedy": remedy(job.state, job.reason),
        "ran": any(attempt.started_at for attempt in attempts),
        "steps": steps(job, current),
        "events": happenings(job, attempts, list(job.events.all()), services.retried_by(job)),
        "settings": rows_of(settings.applied, job.env) if settings else [],
        "live": job.state in LIVE,
        "env": masked(job.env),
        "retries": Job.objects.filter(retry_of=job.id).only("id").order_by("id")[:SHOWN_RETRIES],
    }


def detail_fragments(job_id: uuid.UUID) -> Fragments:
    context = detail_context(job_id)
    return {f"job-{part}": render_to_string(f"jobs/_{part}.html", context) for part in PARTS}


@require_GET
def job_detail(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    try:
        context = detail_context(job_id)
    except Job.DoesNotExist:
        raise Http404(f"There is no job {job_id}.") from None
    return render(request, "jobs/detail.html", context | {"log_lines": min(_lines_of(job_id), MOST_ROOM)})


def _lines_of(job_id: uuid.UUID) -> int:
    """How long its log is, for the room that the page keeps for it; 0 where nobody can say."""
    try:
        return read_log(broker.client(), job_id, limit=0).total
    except RedisUnavailable:
        return 0


@require_POST
def abort(request: HtmxRequest, job_id: uuid.UUID) -> HttpResponse:
    try:
        services.abort(job_id, request.user.get_username())
    except services.JobNotFound as error:
        raise Http404(str(error)) from None
    except services.JobIsFinal as error:
        if not request.htmx:  # there the new head says it
            messages.info(request, str(error))
    if request.htmx:
        return render(request, "jobs/_head.html", detail_context(job_id))
    return redirect("jobs:detail", job_id)


@require_POST
def retry(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """Leads to the new job."""
    try:
        return redirect(services.retry(job_id, request.user.get_username()))
    except services.JobNotFound as error:
        raise Http404(str(error)) from None
    except services.JobNotFinal as error:
        messages.info(request, str(error))
        return redirect("jobs:detail", job_id)


@require_GET
def usage(request: HttpRequest, job_id: uuid.UUID) -> JsonResponse:
    """What its containers used, as `jobs.usage.report` says; without a point where Redis is away."""
    job = get_object_or_404(Job.objects.select_related("executor"), id=job_id)
    attempts = list(job.attempts.only("number", "use", "gpu_indices").order_by("number"))
    try:
        samples = samples_of(job)
    except RedisUnavailable:
        samples = []
    return JsonResponse(report(job, samples, attempts))
