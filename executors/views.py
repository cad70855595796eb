"""The executor pages. What changes on them is rendered as fragments, for the page and for its socket alike."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from agent import __version__
from executors import history, joining, listing, services
from executors.broker import RedisUnavailable
from executors.hub import Fragments
from executors.listing import ExecutorFilter
from executors.models import Executor
from executors.overview import Shown, shown_executors
from executors.usage import cached_images

RECENT_ATTEMPTS = 20
RECENT_WINDOW = 200
RECENT_EVENTS = 30
NEWEST = 5


# --- List --------------------------------------------------------------------------------------------------------


def list_context(wanted: ExecutorFilter) -> dict[str, Any]:
    counts = listing.counts()
    total = counts[wanted.state] if wanted.state else sum(counts.values())
    begin = (wanted.page - 1) * listing.PAGE_SIZE
    found = wanted.apply(Executor.objects.all())[begin : begin + listing.PAGE_SIZE + 1].with_allocation()
    return {
        "executors": shown_executors(found[: listing.PAGE_SIZE]),
        "filter": wanted,
        "kinds": [(kind, count, wanted.query(state=kind, page=1)) for kind, count in counts.items()],
        "all": sum(counts.values()),
        "everything": wanted.query(state="", page=1),
        "total": total,
        "earlier": wanted.query(page=wanted.page - 1) or "?" if wanted.page > 1 else "",
        "later": wanted.query(page=wanted.page + 1) if len(found) > listing.PAGE_SIZE else "",
    }


def list_fragments(wanted: ExecutorFilter) -> Fragments:
    return {"executor-list": render_to_string("executors/_list.html", list_context(wanted))}


@require_GET
def executor_list(request: HttpRequest) -> HttpResponse:
    wanted = ExecutorFilter.from_query(request.GET)
    if "HX-Request" not in request.headers or "HX-History-Restore-Request" in request.headers:
        return render(request, "executors/list.html", list_context(wanted))
    response = render(request, "executors/_list.html", list_context(wanted))
    response["HX-Push-Url"] = reverse("executors:list") + wanted.query()
    return response


# --- One executor ------------------------------------------------------------------------------------------------


def detail_context(executor_id: str) -> dict[str, Any]:
    """Raises Executor.DoesNotExist."""
    executor = next(iter(Executor.objects.filter(id=executor_id).with_allocation()), None)
    if executor is None:
        raise Executor.DoesNotExist
    shown = shown_executors([executor])[0]
    live = list(executor.attempts.filter(finished_at__isnull=True).select_related("job").order_by("-placed_at"))
    return {
        "executor": executor,
        "shown": shown,
        "usage": shown.usage,
        "gpus": _gpus(shown, live),
        "live": live,
        "recent": ended_lately(executor),
        "events": list(executor.events.order_by("-id")[:RECENT_EVENTS]),
        "images": cached_images(executor_id),
        # Not last_command - passed_command: heartbeats tell the latter late, a running attempt tells it at once.
        "unread_commands": sum(
            (attempt.running_since is None and attempt.start_command > executor.passed_command)
            + ((attempt.stop_command or 0) > executor.passed_command)
            for attempt in live
        ),
        "server_version": __version__,
    }


def ended_lately(executor: Executor) -> list[Any]:
    """Its attempts that ended last, the last one first, out of the RECENT_WINDOW that were placed here last."""
    attempts = executor.attempts.filter(finished_at__isnull=False)
    placed_last = attempts.order_by("-id").values_list("finished_at", "id")[:RECENT_WINDOW]
    ids = [attempt_id for _, attempt_id in sorted(placed_last, reverse=True)[:RECENT_ATTEMPTS]]
    return list(attempts.filter(id__in=ids).select_related("job").order_by("-finished_at", "-id"))


def _gpus(shown: Shown, live: list[Any]) -> list[dict[str, Any]]:
    owner_of_gpu = {index: attempt for attempt in live for index in attempt.gpu_indices}
    usage = shown.usage.gpus if shown.usage else {}
    return [
        {"device": gpu, "attempt": owner_of_gpu.get(gpu["index"]), "usage": usage.get(gpu["index"])}
        for gpu in shown.executor.gpus
    ]


def detail_fragments(executor_id: str) -> Fragments:
    context = detail_context(executor_id)
    return {
        f"executor-{part}": render_to_string(f"executors/_{part}.html", context)
        for part in ("head", "resources", "running", "recent", "images", "events")
    }


@require_GET
def executor_detail(request: HttpRequest, executor_id: str) -> HttpResponse:
    return _detail_page(request, executor_id)


def _detail_page(request: HttpRequest, executor_id: str, labels: str | None = None, **more: Any) -> HttpResponse:
    try:
        context = detail_context(executor_id)
    except (Executor.DoesNotExist, ValueError):
        raise Http404(f"There is no executor {executor_id}.") from None
    if labels is None:
        labels = "\n".join(f"{name}={value}" for name, value in context["executor"].operator_labels.items())
    context |= {"typed_labels": labels, **chart_range(request), **more}
    return render(request, "executors/detail.html", context, status=422 if "label_errors" in more else 200)


def chart_range(request: HttpRequest) -> dict[str, Any]:
    """The range that the page's charts begin with, from its URL."""
    wanted = request.GET.get("range", "")
    return {"range": wanted if wanted in history.RANGES else history.DEFAULT_RANGE, "ranges": list(history.RANGES)}


@require_GET
def executor_history(request: HttpRequest, executor_id: str) -> JsonResponse:
    executor = Executor.objects.filter(id=executor_id).first() if "\0" not in executor_id else None
    if executor is None:
        raise Http404(f"There is no executor {executor_id}.")
    try:
        return JsonResponse(history.executor_history(executor, chart_range(request)["range"]))
    except RedisUnavailable:
        return JsonResponse(
            {"detail": "Redis, which holds the history, does not answer; try again shortly."}, status=503
        )


# --- What operators do -------------------------------------------------------------------------------------------

ACTIONS: dict[str, Callable[[str, str], Executor]] = {
    "cordon": services.cordon,
    "drain": services.drain,
    "resume": services.resume,
}


def _operator(request: HttpRequest) -> str:
    if not request.user.has_perm("executors.change_executor"):
        raise PermissionDenied
    return request.user.get_username()


@require_POST
def act(request: HttpRequest, executor_id: str, action: str) -> HttpResponse:
    """One of ACTIONS."""
    by = _operator(request)
    try:
        ACTIONS[action](executor_id, by)
    except services.ExecutorNotFound as error:
        raise Http404(str(error)) from None
    return redirect("executors:detail", executor_id)


@require_POST
def forget(request: HttpRequest, executor_id: str) -> HttpResponse:
    _operator(request)
    try:
        services.forget(executor_id)
    except services.ExecutorNotFound as error:
        raise Http404(str(error)) from None
    except services.ExecutorInUse as error:
        messages.error(request, str(error))
        return redirect("executors:detail", executor_id)
    messages.success(request, "The executor was forgotten.")
    return redirect("executors:list")


@require_POST
def set_labels(request: HttpRequest, executor_id: str) -> HttpResponse:
    """The operator's labels, all of them, as typed: a line each, name=value. What is not there any more is removed."""
    by = _operator(request)
    executor = Executor.objects.filter(id=executor_id).first() if "\0" not in executor_id else None
    if executor is None:
        raise Http404(f"There is no executor {executor_id}.")
    typed = request.POST.get("labels", "")
    changes: dict[str, str | None] = dict.fromkeys(executor.operator_labels)
    for line in filter(None, (line.strip() for line in typed.splitlines())):
        name, equals, value = line.partition("=")
        if not equals:
            error = f"{line[:80]!r} is not name=value, as in zone=eu."
            return _detail_page(request, executor_id, typed, label_errors=[error])
        changes[name.strip()] = value.strip()
    try:
        services.change_labels(executor_id, changes, by)
    except services.InvalidLabels as error:
        errors = [sentence for sentences in error.fields.values() for sentence in sentences]
        return _detail_page(request, executor_id, typed, label_errors=errors)
    return redirect("executors:detail", executor_id)


# --- Join --------------------------------------------------------------------------------------------------------


def join_context() -> dict[str, Any]:
    return {"newest": list(Executor.objects.order_by("-registered_at", "id")[:NEWEST])}


def join_fragments() -> Fragments:
    return {"join-newest": render_to_string("executors/_newest.html", join_context())}


@require_GET
def join(request: HttpRequest) -> HttpResponse:
    may_see_password = request.user.has_perm("executors.change_executor")
    url = request.build_absolute_uri(reverse("executors:agent_bundle"))
    context = {
        **join_context(),
        "command": joining.join_command(url, may_see_password),
        "password_hidden": joining.has_password() and not may_see_password,
        "redis_is_local": joining.redis_is_local(),
    }
    return render(request, "executors/join.html", context)


@require_GET
def agent_bundle(request: HttpRequest) -> HttpResponse:
    """The agent's source, for a node that joins; open to all, as it holds no secret."""
    disposition = 'attachment; filename="workload-agent.tar.gz"'
    return HttpResponse(
        joining.agent_bundle(), content_type="application/gzip", headers={"Content-Disposition": disposition}
    )
