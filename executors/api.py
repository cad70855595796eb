"""Executors over REST: what each has, what live attempts hold of it, and how it fares."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import Field

from executors.models import Executor

router = Router(tags=["Executors"])

GB = 1024**3


class ExecutorNotFound(LookupError):
    """No executor has this id."""


class Gpu(Schema):
    index: int
    uuid: str
    model: str
    memory_gb: float


class Resources(Schema):
    cpu_cores: float
    memory_gb: float
    gpus: int


class ExecutorSummary(Schema):
    """An executor. Cores and GB (1024³ bytes); times in UTC."""

    executor_id: str
    name: str
    address: str
    state: Executor.State
    problem: str = Field(description="Why it is UNHEALTHY or LOST, in words.")
    schedulable: bool = Field(description="False: running jobs go on, nothing new is placed.")
    capacity: Resources = Field(description="What jobs may hold: what the node has, less its reserve.")
    allocated: Resources = Field(description="What live attempts hold.")
    free: Resources
    reserved: Resources = Field(description="What the node keeps for itself.")
    running_jobs: int = Field(description="Live attempts on it, STARTING or RUNNING.")
    gpus: list[Gpu]
    labels: dict[str, str]
    docker_version: str
    agent_version: str
    registered_at: datetime
    last_heartbeat_at: datetime


class ExecutorList(Schema):
    executors: list[ExecutorSummary]


def resources(cpu_millicores: int, memory_bytes: int, gpus: int) -> dict[str, float]:
    """As Resources has them."""
    return {"cpu_cores": cpu_millicores / 1000, "memory_gb": round(memory_bytes / GB, 9), "gpus": gpus}


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
        "capacity": resources(cpu, memory, gpus),
        "allocated": resources(held_cpu, held_memory, held_gpus),
        "free": resources(max(0, cpu - held_cpu), max(0, memory - held_memory), max(0, gpus - held_gpus)),
        "reserved": resources(executor.reserve_cpu_millicores, executor.reserve_memory_bytes, 0),
        "running_jobs": executor.live_attempts,
        "gpus": [{**gpu, "memory_gb": round(gpu["memory_bytes"] / GB, 9)} for gpu in executor.gpus],
        "labels": executor.labels,
        "docker_version": executor.docker_version,
        "agent_version": executor.agent_version,
        "registered_at": executor.registered_at,
        "last_heartbeat_at": executor.last_heartbeat_at,
    }


@router.get("/executors", response=ExecutorList, summary="List executors")
def list_executors(request: HttpRequest) -> dict[str, Any]:
    return {"executors": [summary(executor) for executor in Executor.objects.with_allocation()]}


@router.get("/executors/{executor_id}", response=ExecutorSummary, summary="Look at an executor")
def get_executor(request: HttpRequest, executor_id: str) -> dict[str, Any]:
    executor = Executor.objects.with_allocation().filter(id=executor_id).first() if "\0" not in executor_id else None
    if executor is None:
        raise ExecutorNotFound(f"There is no executor {executor_id[:100]}.")
    return summary(executor)
