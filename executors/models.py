"""An executor: a node with an agent, as it last described itself."""

from typing import Any

from django.apps import apps
from django.db import models
from django.db.models import Count, Sum
from django.urls import reverse

from executors.lately import Lately

NAMED_AT_MOST = 200
"""Executors whose ids a statement lists. Of more, all are read at once, and the sums may be half a second old."""


class ExecutorQuerySet(models.QuerySet["Executor"]):
    def with_allocation(self) -> list[Any]:
        """These executors, each told what live attempts hold of it: allocated_cpu_millicores, allocated_memory_bytes,
        allocated_gpus and live_attempts (their number)."""
        # Two statements: grouping the joined rows by all of an executor's columns costs more than reading it apart.
        executors = list(self)
        few = len(executors) <= NAMED_AT_MOST
        held = _held_by([executor.id for executor in executors]) if few else _held_by_all.get()
        for executor in executors:
            cpu, memory, gpus, attempts = held.get(executor.id, (0, 0, 0, 0))
            vars(executor).update(
                allocated_cpu_millicores=cpu,
                allocated_memory_bytes=memory,
                allocated_gpus=gpus,
                live_attempts=attempts,
            )
        return executors


def _held_by(ids: list[str] | None = None) -> dict[str, tuple[int, int, int, int]]:
    """What live attempts hold of these executors, or of all: millicores, bytes, GPUs, and how many they are."""
    # An index holds the live ones alone. The model is asked for by name, as this package knows nothing of jobs.
    live = apps.get_model("jobs", "Attempt")._default_manager.filter(finished_at__isnull=True, executor__isnull=False)
    if ids is not None:
        live = live.filter(executor__in=ids)
    by_executor = live.order_by().values_list("executor_id")
    sums = by_executor.annotate(
        Sum("job__cpu_millicores"), Sum("job__memory_bytes"), Sum("job__gpu_count"), Count("id")
    )
    return {executor_id: (cpu, memory, gpus, count) for executor_id, cpu, memory, gpus, count in sums}


_held_by_all = Lately(_held_by, 0.5, lambda held: len(held) > NAMED_AT_MOST)


class Executor(models.Model):
    """Written by the scheduler from the agent's hello and heartbeats (`executors/registry.py`), and by operators.

    CPU in millicores, memory in bytes. What is free is never stored: it is capacity − reserve − live attempts.
    """

    class State(models.TextChoices):
        ONLINE = "ONLINE"
        UNHEALTHY = "UNHEALTHY"
        """Its heartbeats come and name a problem, such as a Docker Engine that does not answer; nothing is placed."""
        LOST = "LOST"
        """Its heartbeats stopped; its attempts were closed and re-queued."""

    id = models.CharField(primary_key=True, max_length=64)
    name = models.CharField(max_length=255)
    address = models.CharField(max_length=255, blank=True)
    state = models.CharField(max_length=16, choices=State.choices, default=State.ONLINE)
    problem = models.TextField(blank=True, help_text="Why it is unhealthy or lost, in words.")
    schedulable = models.BooleanField(default=True, help_text="Off: running jobs go on, nothing new is placed.")
    drain_requested_at = models.DateTimeField(
        null=True, blank=True, help_text="Closed to new jobs, and somebody waits for those that run to end."
    )
    drain_jobs = models.PositiveIntegerField(default=0, help_text="How many ran when the drain began.")

    cpu_millicores = models.PositiveIntegerField()
    memory_bytes = models.PositiveBigIntegerField()
    reserve_cpu_millicores = models.PositiveIntegerField(default=0)
    reserve_memory_bytes = models.PositiveBigIntegerField(default=0)
    gpus = models.JSONField(
        default=list, blank=True, help_text="As agent.protocol.Gpu: index, uuid, model, memory_bytes."
    )
    labels = models.JSONField(default=dict, blank=True, help_text="As its agent says.")
    operator_labels = models.JSONField(default=dict, blank=True, help_text="Set here; they win over the agent's.")
    docker_version = models.CharField(max_length=64, blank=True)
    agent_version = models.CharField(max_length=64, blank=True)

    registered_at = models.DateTimeField(auto_now_add=True)
    last_heartbeat_at = models.DateTimeField(help_text="By the scheduler's clock, when it received it.")
    last_command = models.PositiveBigIntegerField(default=0, help_text="The seq of the last command given to it.")
    passed_command = models.PositiveBigIntegerField(default=0, help_text="The seq of the last command it processed.")

    objects = ExecutorQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("executors:detail", args=[self.id])

    @property
    def allocatable_cpu_millicores(self) -> int:
        return max(0, self.cpu_millicores - self.reserve_cpu_millicores)

    @property
    def allocatable_memory_bytes(self) -> int:
        return max(0, self.memory_bytes - self.reserve_memory_bytes)

    @property
    def placement_labels(self) -> dict[str, str]:
        """The labels that jobs may ask for: the agent's and the operator's, which win."""
        return {**self.labels, **self.operator_labels}

    def duty(self, live_attempts: int) -> str:
        """'' where an operator left it open to jobs, else CORDONED, DRAINING (jobs still run) or DRAINED."""
        if self.schedulable:
            return ""
        if self.drain_requested_at is None:
            return "CORDONED"
        return "DRAINING" if live_attempts else "DRAINED"


class ExecutorEvent(models.Model):
    """Something that an operator wants to know of an executor afterwards; `executors/events.py` writes and prunes."""

    class Kind(models.TextChoices):
        JOINED = "joined"
        LOST = "lost"
        RETURNED = "returned"
        UNHEALTHY = "unhealthy"
        WELL = "well"
        CORDONED = "cordoned"
        DRAINING = "draining"
        DRAINED = "drained"
        RESUMED = "resumed"
        LABELLED = "labelled"

    executor = models.ForeignKey(Executor, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=16, choices=Kind.choices)
    text = models.TextField(blank=True, help_text="What there is to add, in words.")
    by = models.CharField(max_length=150, blank=True, help_text="Who did it, where it was a person.")

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["executor", "-id"], name="executor_event_recent")]

    def __str__(self) -> str:
        return f"{self.kind} {self.executor_id}"
