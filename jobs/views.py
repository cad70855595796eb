"""The pages of one job: submit it, watch it. What changes is rendered as fragments, for page and socket alike.

`jobs/list_views.py` has the list.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.middleware import HtmxDetails

from executors.hub import Fragments
from executors.models import Executor
from jobs import services
from jobs.forms import JobForm
from jobs.lifecycle import LIVE
from jobs.listing import as_job_id
from jobs.masking import masked
from jobs.models import Attempt, Job
from jobs.snapshot import why_waiting


class HtmxRequest(HttpRequest):
    """A request as django-htmx's middleware leaves it."""

    htmx: HtmxDetails


# --- Submit ------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    """The form, empty or filled from the job `?from=<id>`; posted, it submits."""
    source_id = as_job_id(request.GET.get("from", ""))
    source = Job.objects.filter(id=source_id).first() if source_id else None
    form = JobForm(
        request.POST if request.method == "POST" else None,
        source=source,
        may_take_secrets=source is not None and (source.owner_id == request.user.pk or request.user.is_superuser),
        gpu_models=gpu_models(),
    )
    if form.is_valid():
        job = services.submit(form.submission, request.user)
        return redirect(job)
    return render(request, "jobs/new.html", {"form": form, "source": source}, status=422 if form.is_bound else 200)


def gpu_models() -> list[str]:
    """The models that any executor has, for the form to offer."""
    return sorted({gpu["model"] for gpus in Executor.objects.values_list("gpus", flat=True) for gpu in gpus})


# --- One job -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One point of a job's life. `took` is the time since the step before it; `kind` is done, now or ahead."""

    label: str
    at: datetime | None
    since: datetime | None
    kind: str


def timeline(job: Job, attempt: Attempt | None) -> list[Step]:
    """Submitted, placed, running, ended: what has happened to the job's current attempt and what is still ahead."""
    placed = attempt.placed_at if attempt and (attempt.finished_at is None or job.is_final) else None
    started = job.started_at if placed else None
    marks = [
        ("Submitted", job.submitted_at, None),
        ("Placed", placed, job.submitted_at),
        ("Running", started, placed),
        (job.state.capitalize() if job.is_final else "Ended", job.finished_at, started or placed or job.submitted_at),
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
        services.abort(job_id)
    except services.JobNotFound as error:
        raise Http404(str(error)) from None
    except services.JobIsFinal as error:
        if not request.htmx:  # there the new head says it
            messages.info(request, str(error))
    if request.htmx:
        return render(request, "jobs/_head.html", detail_context(job_id))
    return redirect("jobs:detail", job_id)
