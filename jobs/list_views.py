"""The list of jobs: filters in its address, saved views, many jobs changed at once.

What changes on it is rendered as a fragment, for the page and for its socket alike.
"""

import uuid
from dataclasses import dataclass, replace
from typing import Any

from django.contrib import messages
from django.contrib.humanize.templatetags.humanize import intcomma
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect, JsonResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.template.defaultfilters import pluralize
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST
from django_htmx.middleware import HtmxDetails

from executors.hub import Fragments
from executors.models import Executor
from executors.templatetags.display import shell, short_id
from jobs import services
from jobs.lifecycle import State
from jobs.listing import COUNT_LIMIT, JobFilter, as_job_id, count, find, matching_ids
from jobs.models import SavedView
from jobs.services import Action
from jobs.submission import InvalidSubmission

OFFERED_EXECUTORS = 200
PALETTE_JOBS = 8
PALETTE_EXECUTORS = 5
MAX_SAVED_VIEWS = 50

SORT_LABELS = {
    "": "Newest first",
    "submitted": "Oldest first",
    "-started": "Latest start first",
    "-took": "Longest first",
    "took": "Shortest first",
    "-priority": "Highest priority first",
    "name": "Name, A to Z",
}
AGE_LABELS = {"1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days", "30d": "Last 30 days"}


class HtmxRequest(HttpRequest):
    """A request as django-htmx's middleware leaves it."""

    htmx: HtmxDetails


# --- The list ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is set, and the address of the list without it."""

    label: str
    value: str
    address: str


def chips(job_filter: JobFilter) -> list[Chip]:
    labels = {"text": "Words", "since": "Since", "until": "Before"}
    return [
        Chip(labels.get(name, name.capitalize()), _in_words(name, value), job_filter.without(name).query())
        for name, value in job_filter.narrowing.items()
    ]


def _in_words(name: str, value: str) -> str:
    if name == "state":
        return " or ".join(state.capitalize() for state in value.split(","))
    return AGE_LABELS.get(value, value).lower() if name == "since" else value


def list_context(job_filter: JobFilter, before: str, after: str) -> dict[str, Any]:
    page = find(job_filter, before, after)
    return {
        "page": page,
        "count": count(job_filter),
        "filter": job_filter,
        "chips": chips(job_filter),
        "query": job_filter.query(),
        "older": job_filter.query(before=page.older) if page.older else "",
        "newer": job_filter.query(after=page.newer) if page.newer else "",
        "first_page": job_filter.query(),
        "is_first": not before and not after,
        "live": job_filter.query(before=before, after=after),
    }


def list_fragments(job_filter: JobFilter, before: str = "", after: str = "") -> Fragments:
    return {"job-list": render_to_string("jobs/_list.html", list_context(job_filter, before, after))}


@require_GET
def job_list(request: HtmxRequest) -> HttpResponse:
    job_filter = JobFilter.from_query(request.GET)
    before, after = request.GET.get("before", ""), request.GET.get("after", "")
    context = list_context(job_filter, before, after)
    if request.htmx and not request.htmx.history_restore_request:
        response = render(request, "jobs/_list.html", context)
        response["HX-Push-Url"] = reverse("jobs:list") + job_filter.query(before=before, after=after)
        return response
    name = request.user.get_username()
    context |= {
        "states": [state.value for state in State],
        "executors": Executor.objects.order_by("name").only("id", "name")[:OFFERED_EXECUTORS],
        "sorts": SORT_LABELS,
        "ages": AGE_LABELS,
        "more_open": any((job_filter.executor, job_filter.owner, job_filter.image, job_filter.label, job_filter.until)),
        "mine": JobFilter(owner=name).query(),
        "saved_views": SavedView.objects.filter(owner=request.user.pk),
    }
    return render(request, "jobs/list.html", context)


# --- The palette ---------------------------------------------------------------------------------------------------


@require_GET
def palette(request: HttpRequest) -> JsonResponse:
    """Jobs and executors that match what is typed into the palette, as data."""
    text = request.GET.get("text", "")
    job_filter = JobFilter.from_query({"text": text})
    found = [
        {
            "kind": "Job",
            "name": job.name or shell(job.command)[:80] or job.image,
            "detail": f"{job.state.capitalize()}, {short_id(job.id)}, {job.image}",
            "address": job.get_absolute_url(),
        }
        for job in find(job_filter, size=PALETTE_JOBS).jobs
    ]
    executors = Executor.objects.filter(name__icontains=job_filter.text).order_by("name")[:PALETTE_EXECUTORS]
    for executor in executors:
        address, state = executor.get_absolute_url(), executor.state.capitalize()
        found.append({"kind": "Executor", "name": executor.name, "detail": state, "address": address})
    return JsonResponse({"found": found})


# --- Saved views -------------------------------------------------------------------------------------------------


@require_POST
def save_view(request: HttpRequest) -> HttpResponseRedirect:
    """Keeps a list's query under a name; the same name again replaces it."""
    name = " ".join(request.POST.get("name", "").replace("\0", "").split())[:60]
    query = JobFilter.from_query(QueryDict(request.POST.get("query", "").removeprefix("?"))).query()
    mine = SavedView.objects.filter(owner=request.user.pk)
    if not name:
        messages.error(request, "Not saved: a view needs a name.")
    elif len(query) > 2000:
        messages.error(request, "Not saved: its filters are too long.")
    elif mine.exclude(name=name).count() >= MAX_SAVED_VIEWS:
        messages.error(request, f"Not saved: there are {MAX_SAVED_VIEWS} views already. Delete one first.")
    else:
        mine.update_or_create(owner_id=request.user.pk, name=name, defaults={"query": query})
        messages.success(request, f"Saved as “{name}”.")
    return redirect(reverse("jobs:list") + query)


@require_POST
def delete_view(request: HttpRequest, view_id: int) -> HttpResponseRedirect:
    view = get_object_or_404(SavedView, id=view_id, owner=request.user.pk)
    view.delete()
    messages.success(request, f"The view “{view.name}” is deleted; no job is.")
    return redirect("jobs:list")


# --- Many jobs at once -------------------------------------------------------------------------------------------

VERBS = {Action.ABORT: ("Abort", "Aborted"), Action.RETRY: ("Retry", "Retried"), Action.PRIORITY: ("Change", "Changed")}


@require_POST
def preview_bulk(request: HttpRequest) -> HttpResponse:
    """What the confirmation says: how many of the chosen jobs the action would change."""
    try:
        action, ids, query = _chosen(request)
    except ValueError as error:
        return HttpResponseBadRequest(str(error))
    changed = services.concerned(action, ids)
    context = {
        "action": action.value,
        "verb": VERBS[action][0],
        "ids": "" if query else ",".join(str(job_id) for job_id in ids),
        "query": query,
        "chosen": len(ids),
        "concerned": changed,
        "left": len(ids) - changed,
        "limited": bool(query) and len(ids) == COUNT_LIMIT,
        "limit": COUNT_LIMIT,
        "back": request.POST.get("back", ""),
    }
    return render(request, "jobs/_bulk.html", context)


@require_POST
def change_jobs(request: HttpRequest) -> HttpResponse:
    try:
        action, ids, _ = _chosen(request)
        text = request.POST.get("priority", "").strip()
        priority = int(text) if text.lstrip("+-").isdecimal() and len(text) < 10 else None
        outcome = services.change_many(action, ids, priority, request.user.get_username())
    except InvalidSubmission as error:
        messages.error(request, f"Nothing was changed: the priority {error.fields['priority'][0].lower()}")
        return redirect(_back(request))
    except ValueError as error:
        return HttpResponseBadRequest(str(error))
    done, refused = len(outcome.done), len(outcome.refused)
    sentence = f"{VERBS[action][1]} {intcomma(done)} job{pluralize(done)}."
    if refused:
        why = next(iter(outcome.refused.values()))
        sentence += f" {intcomma(refused)} stayed as {pluralize(refused, 'it was,they were')}; the first: {why}"
    messages.add_message(request, messages.WARNING if refused else messages.SUCCESS, sentence)
    return redirect(_back(request))


def _chosen(request: HttpRequest) -> tuple[Action, list[uuid.UUID], str]:
    """The action, the jobs, and for 'all that match' the query that selects them, closed to those that come later."""
    action = Action(request.POST.get("action", ""))
    if "query" in request.POST and request.POST["query"] != "-":
        job_filter = JobFilter.from_query(QueryDict(request.POST["query"].removeprefix("?")))
        if not job_filter.until:
            job_filter = replace(job_filter, until=timezone.now().isoformat(timespec="milliseconds"))
        return action, matching_ids(job_filter), job_filter.query()
    ids = [as_job_id(text) for text in request.POST.get("ids", "").split(",") if text]
    known = list(dict.fromkeys(job_id for job_id in ids if job_id))
    if not known or len(known) > COUNT_LIMIT:
        raise ValueError(f"Choose from 1 to {COUNT_LIMIT} jobs.")
    return action, known, ""


def _back(request: HttpRequest) -> str:
    """The list as it was, from the query that came along."""
    query = QueryDict(request.POST.get("back", "").removeprefix("?"))
    cursors = {name: query[name] for name in ("before", "after") if as_job_id(query.get(name, ""))}
    return reverse("jobs:list") + JobFilter.from_query(query).query(**cursors)
