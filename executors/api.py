"""Executors over REST: what each has, what live attempts hold of it, and how it fares."""

from datetime import datetime
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from ninja import Body, Router, Status
from pydantic import BaseModel, Field

from executors import services
from executors.answers import long_list
from executors.models import Executor
from executors.services import ExecutorNotFound

router = Router(tags=["Executors"])

GB = 1024**3


class Gpu(BaseModel):
    index: int
    uuid: str
    model: str
    memory_gb: float


class Resources(BaseModel):
    cpu_cores: float
    memory_gb: float
    gpus: int


class ExecutorSummary(BaseModel):
    """An executor. Cores and GB (1024³ bytes); times in UTC."""

    executor_id: str
    name: str
    address: str
    state: Executor.State
    problem: str = Field(description="Why it is UNHEALTHY or LOST, in words.")
    schedulable: bool = Field(description="False: running jobs go on, nothing new is placed.")
    duty: str = Field(description="'' while schedulable, else CORDONED, DRAINING (jobs still run) or DRAINED.")
    capacity: Resources = Field(description="What jobs may hold: what the node has, less its reserve.")
    allocated: Resources = Field(description="What live attempts hold.")
    free: Resources
    reserved: Resources = Field(description="What the node keeps for itself.")
    running_jobs: int = Field(description="Live attempts on it, STARTING or RUNNING.")
    gpus: list[Gpu]
    labels: dict[str, str] = Field(description="What jobs may ask for: the agent's own, and the operator's, which win.")
    operator_labels: dict[str, str] = Field(description="Those of them that an operator set.")
    docker_version: str
    agent_version: str
    registered_at: datetime
    last_heartbeat_at: datetime


class ExecutorList(BaseModel):
    executors: list[ExecutorSummary]


def resources(cpu_millicores: int, memory_bytes: int, gpus: int) -> dict[str, float]:
    """As Resources has them."""
    return {"cpu_cores": cpu_millicores / 1000, "memory_gb": round(memory_bytes / GB, 9), "gpus": gpus}


def gpu_summary(gpu: dict[str, Any]) -> dict[str, Any]:
    """As Gpu has it."""
    memory_gb = round(gpu["memory_bytes"] / GB, 9)
    return {"index": gpu["index"], "uuid": gpu["uuid"], "model": gpu["model"], "memory_gb": memory_gb}


def summary(executor: Any) -> dict[str, Any]:
    """An executor, read `with_allocation`, as ExecutorSummary has it."""
    cpu, memory, gpus = executor.allocatable_cpu_millicores, executor.allocatable_memory_bytes, len(executor.gpus)
    held_cpu, held_memory = executor.allocated_cpu_millicores, executor.allocated_memory_bytes
    held_gpus = executor.allocated_gpus
    return {
        "executor_id": executor.id,
        "name": executor.name,
        "address": executor.address,
        "state": executor.state,
        "problem": executor.problem,
        "schedulable": executor.schedulable,
        "duty": executor.duty(executor.live_attempts),
        "capacity": resources(cpu, memory, gpus),
        "allocated": resources(held_cpu, held_memory, held_gpus),
        "free": resources(max(0, cpu - held_cpu), max(0, memory - held_memory), max(0, gpus - held_gpus)),
        "reserved": resources(executor.reserve_cpu_millicores, executor.reserve_memory_bytes, 0),
        "running_jobs": executor.live_attempts,
        "gpus": [gpu_summary(gpu) for gpu in executor.gpus],
        "labels": executor.placement_labels,
        "operator_labels": executor.operator_labels,
        "docker_version": executor.docker_version,
        "agent_version": executor.agent_version,
        "registered_at": executor.registered_at,
        "last_heartbeat_at": executor.last_heartbeat_at,
    }


@router.get("/executors", response=ExecutorList, summary="List executors")
def list_executors(request: HttpRequest) -> HttpResponse:
    return long_list({"executors": [summary(executor) for executor in Executor.objects.with_allocation()]})


@router.get("/executors/{executor_id}", response=ExecutorSummary, summary="Look at an executor")
def get_executor(request: HttpRequest, executor_id: str) -> dict[str, Any]:
    return _summary_of(executor_id)


def _summary_of(executor_id: str) -> dict[str, Any]:
    found = Executor.objects.filter(id=executor_id).with_allocation() if "\0" not in executor_id else []
    if not found:
        raise ExecutorNotFound(f"There is no executor {executor_id[:100]!r}.")
    return summary(found[0])


# --- What operators do -------------------------------------------------------------------------------------------


def operator(request: HttpRequest) -> str:
    """The name of who asks. Raises PermissionDenied where they may not change executors."""
    if not request.user.has_perm("executors.change_executor"):
        raise PermissionDenied
    return request.user.get_username()


@router.post("/executors/{executor_id}/cordon", response=ExecutorSummary, summary="Place nothing new on an executor")
def cordon_executor(request: HttpRequest, executor_id: str) -> dict[str, Any]:
    services.cordon(executor_id, operator(request))
    return _summary_of(executor_id)


@router.post("/executors/{executor_id}/drain", response=ExecutorSummary, summary="Cordon, and wait for its jobs to end")
def drain_executor(request: HttpRequest, executor_id: str) -> dict[str, Any]:
    services.drain(executor_id, operator(request))
    return _summary_of(executor_id)


@router.post("/executors/{executor_id}/resume", response=ExecutorSummary, summary="Take jobs again")
def resume_executor(request: HttpRequest, executor_id: str) -> dict[str, Any]:
    services.resume(executor_id, operator(request))
    return _summary_of(executor_id)


@router.post("/executors/{executor_id}/forget", response={204: None}, summary="Remove an executor that is gone")
def forget_executor(request: HttpRequest, executor_id: str) -> Status[None]:
    """Refused with 409 while jobs count as running there. An agent of it that still runs joins anew."""
    operator(request)
    services.forget(executor_id)
    return Status(204, None)


@router.patch("/executors/{executor_id}/labels", response=ExecutorSummary, summary="Set or remove operator's labels")
def label_executor(request: HttpRequest, executor_id: str, changes: Body[dict[str, str | None]]) -> dict[str, Any]:
    """`{"zone": "eu", "old": null}` sets one and removes another; the rest stays. The agent's own are not touched."""
    services.change_labels(executor_id, changes, operator(request))
    return _summary_of(executor_id)
