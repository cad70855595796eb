"""The executor pages. What changes on them is rendered as fragments, for the page and for its socket alike."""

from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

from executors.hub import Fragments
from executors.models import Executor
from executors.usage import Usage, latest_usage

RECENT_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Shown:
    """An executor with what it really uses; `usage` is None where no fresh sample is to be had."""

    executor: Executor
    usage: Usage | None

    @property
    def gpu_count(self) -> int:
        return len(self.executor.gpus)


@dataclass(frozen=True, slots=True)
class Total:
    """One resource over all executors that are there: `used` is None where nobody says."""

    capacity: int
    allocated: int
    used: float | None

    @property
    def free(self) -> int:
        return max(0, self.capacity - self.allocated)


def shown_executors() -> list[Shown]:
    """All executors with what live attempts hold and what they really use."""
    executors = list(Executor.objects.with_allocation())
    usage = latest_usage(executors)
    return [Shown(executor, usage.get(executor.id)) for executor in executors]


def totals(shown: list[Shown]) -> dict[str, Total]:
    """Capacity (what may be allocated), allocation and use of the executors that are not lost: cpu, memory, gpu."""
    there = [item for item in shown if item.executor.state != Executor.State.LOST]
    used = [item.usage for item in there if item.usage]
    return {
        "cpu": Total(
            sum(item.executor.allocatable_cpu_millicores for item in there),
            sum(item.executor.allocated_cpu_millicores for item in there),  # type: ignore[attr-defined]
            sum(usage.cpu_millicores for usage in used) if used else None,
        ),
        "memory": Total(
            sum(item.executor.allocatable_memory_bytes for item in there),
            sum(item.executor.allocated_memory_bytes for item in there),  # type: ignore[attr-defined]
            sum(usage.memory_bytes for usage in used) if used else None,
        ),
        "gpu": Total(
            sum(item.gpu_count for item in there),
            sum(item.executor.allocated_gpus for item in there),  # type: ignore[attr-defined]
            sum(gpu.percent or 0 for usage in used for gpu in usage.gpus.values()) / 100 if used else None,
        ),
    }


def list_context() -> dict[str, Any]:
    shown = shown_executors()
    return {"executors": shown, "totals": totals(shown)}


def list_fragments() -> Fragments:
    return {"executor-list": render_to_string("executors/_list.html", list_context())}


def executor_list(request: HttpRequest) -> HttpResponse:
    return render(request, "executors/list.html", list_context())


def detail_context(executor_id: str) -> dict[str, Any]:
    """Raises Executor.DoesNotExist."""
    executor = Executor.objects.with_allocation().get(id=executor_id)
    usage = latest_usage([executor]).get(executor_id)
    live = list(executor.attempts.filter(finished_at__isnull=True).select_related("job").order_by("-placed_at"))
    recent = executor.attempts.filter(finished_at__isnull=False).select_related("job").order_by("-id")
    owner_of_gpu = {index: attempt for attempt in live for index in attempt.gpu_indices}
    gpus = [
        {
            "device": gpu,
            "attempt": owner_of_gpu.get(gpu["index"]),
            "usage": usage.gpus.get(gpu["index"]) if usage else None,
        }
        for gpu in executor.gpus
    ]
    return {
        "executor": executor,
        "usage": usage,
        "gpus": gpus,
        "live": live,
        "recent": list(recent[:RECENT_ATTEMPTS]),
    }


def detail_fragments(executor_id: str) -> Fragments:
    context = detail_context(executor_id)
    return {
        "executor-head": render_to_string("executors/_head.html", context),
        "executor-resources": render_to_string("executors/_resources.html", context),
        "executor-running": render_to_string("executors/_running.html", context),
        "executor-recent": render_to_string("executors/_recent.html", context),
    }


def executor_detail(request: HttpRequest, executor_id: str) -> HttpResponse:
    try:
        context = detail_context(executor_id)
    except Executor.DoesNotExist:
        raise Http404(f"There is no executor {executor_id}.") from None
    return render(request, "executors/detail.html", context)
