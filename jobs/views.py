"""The page of one job. What changes on it is rendered as fragments, for the page and for its socket alike.

`jobs/list_views.py` has the list, `jobs/submit_views.py` the form, `jobs/log_views.py` the log.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET, require_POST
from django_htmx.middleware import HtmxDetails

from executors.broker import RedisUnavailable
from executors.hub import Fragments
from jobs import services
from jobs.lifecycle import LIVE
from jobs.masking import masked
from jobs.models import Attempt, Job
from jobs.snapshot import why_waiting
from jobs.usage import report, samples_of

SHOWN_RETRIES = 10


class HtmxRequest(HttpRequest):
    """A request as django-htmx's middleware leaves it."""

    htmx: HtmxDetails


# --- One job -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One point of a job's life. `took` is the time since the step before it; `kind` is done, now or ahead."""

    label: str
    at: datetime | None
    since: datetime | None
    kind: str


def timeline(job: Job, attempt: Attempt | None) -> list[Step]:
    """Submitted, placed, running, ended: what has happened to the job's current attempt and what is still ahead.

    The times between are each by one clock: the start and end that the node tells may be minutes off from ours.
    """
    placed = attempt.placed_at if attempt and (attempt.finished_at is None or job.is_final) else None
    started = job.started_at if placed else None
    running = (attempt.running_since if attempt else None) or started if placed else None
    marks = [
        ("Submitted", job.submitted_at, None),
        ("Placed", placed, job.submitted_at),
        ("Running", running, placed),
        (
            job.state.capitalize() if job.is_final else "Ended",
            job.finished_at,
            (started if job.is_final else running) or placed or job.submitted_at,
        ),
    ]
    if job.is_final:
        return [Step(label, at, since, "done") for label, at, since in marks if at]
    reached = sum(1 for _, at, _ in marks if at)
    return [
        Step(label, at, since, "done" if place < reached else "now" if place == reached else "ahead")
        for place, (label, at, since) in enumerate(marks)
    ]


def detail_context(job_id: uuid.UUID) -> dict[str, Any]:
    """Raises Job.DoesNotExist."""
    job = Job.objects.select_related("executor", "owner").get(id=job_id)
    attempts = list(job.attempts.select_related("executor").order_by("-number"))
    current = attempts[0] if attempts else None
    return {
        "job": job,
        "attempts": attempts,
        "current": current,
        "waiting": why_waiting(job),
        "steps": timeline(job, current),
        "live": job.state in LIVE,
        "env": masked(job.env),
        "retries": Job.objects.filter(retry_of=job.id).only("id").order_by("id")[:SHOWN_RETRIES],
    }


def detail_fragments(job_id: uuid.UUID) -> Fragments:
    context = detail_context(job_id)
    return {f"job-{part}": render_to_string(f"jobs/_{part}.html", context) for part in ("head", "facts", "attempts")}


@require_GET
def job_detail(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    try:
        context = detail_context(job_id)
    except Job.DoesNotExist:
        raise Http404(f"There is no job {job_id}.") from None
    return render(request, "jobs/detail.html", context)


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
    job = get_object_or_404(Job, id=job_id)
    try:
        samples = samples_of(job)
    except RedisUnavailable:
        samples = []
    return JsonResponse(report(job, samples))
