"""The form that submits a job, and what stands beside it while one types: the command as it is split, where the job
fits now, and the same job for curl and Python."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from executors import broker
from executors.models import Executor
from jobs import reasons, services
from jobs.docker_run import NotDockerRun, parse_docker_run
from jobs.forms import JobForm, typed_command
from jobs.listing import as_job_id
from jobs.models import Job
from jobs.scheduling.room import could_ever_fit, fits
from jobs.snapshot import requirements_of
from jobs.snippets import as_curl, as_python, body_of
from jobs.submission import InvalidSubmission, JobSubmission, parse_submission

LOOKED_AT_JOBS = 300
OFFERED_IMAGES = 40

PRESETS = {
    "Small": {"cpu_cores": "0.5", "memory_gb": "0.5", "gpu_type": "", "gpu_count": ""},
    "Medium": {"cpu_cores": "2", "memory_gb": "4", "gpu_type": "", "gpu_count": ""},
    "Large": {"cpu_cores": "8", "memory_gb": "32", "gpu_type": "", "gpu_count": ""},
    "One GPU": {"cpu_cores": "4", "memory_gb": "16", "gpu_type": "any", "gpu_count": "1"},
}
"""What people often ask for; the form's fields as typed."""


@require_http_methods(["GET", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    """The form: empty, filled from the job `?from=<id>`, or from a pasted line; posted, it submits."""
    if "docker_run" in request.POST:
        return _pasted(request)
    form = _form(request, request.POST if request.method == "POST" else None)
    if form.is_valid():
        job = services.submit(form.submission, request.user)
        if broker.is_away():
            messages.warning(request, services.NOT_TOLD)
        return redirect(job)
    return _page(request, form, status=422 if form.is_bound else 200)


def _pasted(request: HttpRequest) -> HttpResponse | HttpResponseRedirect:
    line = request.POST["docker_run"]
    try:
        pasted = parse_docker_run(line)
    except NotDockerRun as error:
        return _page(request, _form(request, None), status=422, pasted=line, paste_error=str(error))
    form = JobForm(asked=pasted.fields, gpu_models=gpu_models())
    return _page(request, form, notes=pasted.notes, was_pasted=True)


def _form(request: HttpRequest, data: Any) -> JobForm:
    source = _source(request)
    return JobForm(
        data,
        source=source,
        may_take_secrets=source is not None and (source.owner_id == request.user.pk or request.user.is_superuser),
        gpu_models=gpu_models(),
    )


def _source(request: HttpRequest) -> Job | None:
    source_id = as_job_id(request.GET.get("from", ""))
    return Job.objects.filter(id=source_id).first() if source_id else None


def _page(request: HttpRequest, form: JobForm, status: int = 200, **more: Any) -> HttpResponse:
    context = {
        "form": form,
        "source": _source(request),
        "images": known_images(request.user.pk),
        "presets": PRESETS,
        **preview_context(request, JobForm({name: form[name].value() or "" for name in form.fields})),
        **more,
    }
    return render(request, "jobs/new.html", context, status=status)


def gpu_models() -> list[str]:
    """The models that any executor has, for the form to offer."""
    return sorted({gpu["model"] for gpus in Executor.objects.values_list("gpus", flat=True) for gpu in gpus})


def known_images(owner_id: int | None) -> list[str]:
    """The images of the user's last jobs, the newest first, each with its tag."""
    mine = Job.objects.filter(owner_id=owner_id).order_by("-id").values_list("image", flat=True)
    return list(dict.fromkeys(mine[:LOOKED_AT_JOBS]))[:OFFERED_IMAGES]


# --- Beside the form -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fit:
    """On how many executors a job fits now, and on how many it ever could; `problem` says why never, or ''."""

    now: int
    ever: int
    problem: str


@require_POST
def preview(request: HttpRequest) -> HttpResponse:
    """What stands beside the form, for what is typed so far."""
    return render(request, "jobs/_preview.html", preview_context(request, _form(request, request.POST)))


def preview_context(request: HttpRequest, form: JobForm) -> dict[str, Any]:
    try:
        argv, argv_problem = (
            parse_submission({"docker_image": "any", "command": typed_command(form["command"].value() or "")}).command,
            "",
        )
    except InvalidSubmission as error:
        argv, argv_problem = [], " ".join(error.fields.get("command", []))
    context: dict[str, Any] = {"argv": argv, "argv_problem": argv_problem}
    if form.is_valid():
        body, address = body_of(form.submission), request.build_absolute_uri("/jobs")
        context |= {"fit": fit_of(form.submission), "curl": as_curl(body, address), "python": as_python(body, address)}
    return context


def fit_of(submission: JobSubmission) -> Fit:
    """Where the job would fit, as the scheduler sees it."""
    job = Job(**submission.job_fields())
    needs, executors = requirements_of(job), reasons.cluster().executors
    now = sum(fits(needs, executor) for executor in executors)
    return Fit(now, sum(could_ever_fit(needs, executor) for executor in executors), reasons.never_fits(job))
