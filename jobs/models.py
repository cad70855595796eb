"""What must never be lost of jobs: the jobs, their attempts, and the lease that says which scheduler leads.

A state is written by `jobs/transitions.py` alone, which asks `jobs/lifecycle.py` first.
"""

import datetime
import uuid

import uuid_utils.compat
from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from executors.models import Executor
from jobs.lifecycle import FINAL, LIVE, EndReason, State

STATE_CHOICES = [(state.value, state.value) for state in State]
LIVE_STATES = sorted(LIVE)
FINAL_STATES = sorted(FINAL)


def new_job_id() -> uuid.UUID:
    """A time-ordered UUID (version 7, RFC 9562), so that jobs sort by submission and inserts stay local."""
    return uuid_utils.compat.uuid7()


class Job(models.Model):
    """What a person asked for, and what became of it. CPU in millicores, memory in bytes."""

    id = models.UUIDField(primary_key=True, default=new_job_id, editable=False)
    name = models.CharField(max_length=200, blank=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, db_index=False
    )
    retry_of = models.UUIDField(
        null=True, blank=True, help_text="The job that was asked for once more with this one; it may be deleted since."
    )

    image = models.CharField(max_length=512)
    command = models.JSONField(default=list, blank=True, help_text="List of strings; empty runs the image's own.")
    env = models.JSONField(default=dict, blank=True)
    working_dir = models.CharField(max_length=1024, blank=True)
    cpu_millicores = models.PositiveIntegerField()
    memory_bytes = models.PositiveBigIntegerField()
    gpu_type = models.CharField(max_length=100, blank=True, help_text="'' for none, 'any', or part of a model's name.")
    gpu_count = models.PositiveSmallIntegerField(default=0)
    labels = models.JSONField(default=dict, blank=True, help_text="Labels an executor must have, as name: value.")
    shape = models.CharField(max_length=64, editable=False, help_text="Digest of what placement compares.")
    timeout_seconds = models.PositiveIntegerField(default=3600)
    max_retries = models.PositiveSmallIntegerField(default=0)
    at_most_once = models.BooleanField(default=False, help_text="Fails rather than run again what may have run.")
    priority = models.SmallIntegerField(default=0, help_text="Higher goes first.")

    state = models.CharField(max_length=16, choices=STATE_CHOICES, default=State.PENDING.value)
    reason = models.CharField(max_length=40, blank=True, help_text="A code of jobs.lifecycle.EndReason, or ''.")
    reason_text = models.TextField(blank=True, help_text="The reason as a sentence for a person.")
    exit_code = models.IntegerField(null=True, blank=True)
    submitted_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True, help_text="By the engine, of the last attempt that ran.")
    finished_at = models.DateTimeField(null=True, blank=True)
    abort_requested_at = models.DateTimeField(null=True, blank=True)

    attempt_number = models.PositiveIntegerField(default=0, help_text="The current attempt's; 0 before the first.")
    executor = models.ForeignKey(
        Executor,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        db_index=False,
        help_text="Where the current attempt runs or ran.",
    )
    retries_used = models.PositiveSmallIntegerField(default=0)
    platform_failures = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField(null=True, blank=True, help_text="A re-queued job is not placed before this.")

    class Meta:
        ordering = ["-id"]
        # Each change of a job's state is written into each of these, but for those with a condition.
        indexes = [
            models.Index(fields=["state", "-priority", "id"], condition=Q(state=State.PENDING.value), name="job_queue"),
            models.Index(fields=["state", "-id"], name="job_state_recent"),
            models.Index(fields=["executor", "-id"], name="job_executor_recent"),
            models.Index(fields=["owner", "-id"], name="job_owner_recent"),
            models.Index(fields=["image", "-id"], name="job_image_recent"),
            models.Index(fields=["retry_of"], condition=Q(retry_of__isnull=False), name="job_retries"),
        ]

    def __str__(self) -> str:
        return self.name or str(self.id)

    def get_absolute_url(self) -> str:
        return reverse("jobs:detail", args=[self.id])

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def is_aborting(self) -> bool:
        return self.abort_requested_at is not None and not self.is_final


class Attempt(models.Model):
    """One try at running a job on one executor. `(job, number)` is the fencing token of every message about it."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    number = models.PositiveIntegerField()
    executor = models.ForeignKey(
        Executor, null=True, on_delete=models.SET_NULL, related_name="attempts", db_index=False
    )
    executor_name = models.CharField(max_length=255, help_text="Kept when the executor is forgotten.")
    gpu_indices = models.JSONField(default=list, blank=True)

    state = models.CharField(max_length=16, choices=STATE_CHOICES, default=State.STARTING.value)
    reason = models.CharField(max_length=40, blank=True, choices=[(r.value, r.value) for r in EndReason])
    reason_text = models.TextField(blank=True)
    progress = models.CharField(max_length=300, blank=True, help_text="What a STARTING attempt is doing, in words.")
    layers = models.JSONField(default=list, blank=True, help_text="Of the image being pulled: agent.protocol.Layer.")
    exit_code = models.IntegerField(null=True, blank=True)
    oom_killed = models.BooleanField(default=False)
    container_id = models.CharField(max_length=64, blank=True)
    placed_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True, help_text="By the agent's clock, as are the next two.")
    pulled_at = models.DateTimeField(null=True, blank=True, help_text="None where the image was there already.")
    created_at = models.DateTimeField(null=True, blank=True, help_text="The container; by the engine.")
    running_since = models.DateTimeField(null=True, blank=True, help_text="Heard of, by the scheduler's clock.")
    started_at = models.DateTimeField(null=True, blank=True, help_text="By the engine.")
    finished_at = models.DateTimeField(null=True, blank=True, help_text="By the engine where a container ran.")
    use = models.JSONField(null=True, blank=True, help_text="At its end, where anybody saw it: agent.protocol.Use.")

    start_command = models.PositiveBigIntegerField(help_text="The seq of its start command.")
    stop_command = models.PositiveBigIntegerField(null=True, blank=True, help_text="The seq of its stop command.")
    stop_why = models.CharField(max_length=16, blank=True, help_text="As agent.protocol.StopAttempt.why.")

    class Meta:
        ordering = ["job", "number"]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="attempt_number_once"),
            models.UniqueConstraint(fields=["job"], condition=Q(finished_at__isnull=True), name="attempt_one_live"),
            models.CheckConstraint(
                condition=Q(state__in=LIVE_STATES, finished_at__isnull=True)
                | Q(state__in=FINAL_STATES, finished_at__isnull=False),
                name="attempt_live_until_finished",
            ),
        ]
        indexes = [
            models.Index(fields=["executor"], name="attempt_executor"),  # for an executor that is forgotten
            # The last: of two indexes that seem alike to it, SQLite takes the one that was made last.
            models.Index(fields=["executor"], condition=Q(finished_at__isnull=True), name="attempt_live"),
        ]

    def __str__(self) -> str:
        return f"{self.job_id} attempt {self.number}"

    @property
    def image_ready_at(self) -> datetime.datetime | None:
        """When the agent had the image, by its own clock."""
        return self.pulled_at or self.accepted_at

    @property
    def container_name(self) -> str:
        return f"job-{self.job_id}-{self.number}"


class ContainerSettings(models.Model):
    """What Docker applied to an attempt's container, by Docker's own names; without values of environment variables."""

    attempt = models.OneToOneField(
        Attempt, primary_key=True, on_delete=models.CASCADE, related_name="container_settings"
    )
    applied = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"settings of the container of {self.attempt}"


class JobEvent(models.Model):
    """What a person did to a job. All else that happened to it stands in its own row and its attempts'."""

    class Kind(models.TextChoices):
        ABORT = "abort"
        PRIORITY = "priority"
        RETRY = "retry"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=16, choices=Kind.choices)
    by = models.CharField(max_length=150, blank=True, help_text="The user's name, or '' where nobody knows.")
    text = models.CharField(max_length=200, blank=True, help_text="What there is to add.")

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.job_id}"


class SubmissionKey(models.Model):
    """An idempotency key under which somebody submitted jobs: asked again, the same jobs are the answer."""

    id = models.CharField(primary_key=True, max_length=64, help_text="Digest of the owner and the key.")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, db_index=False)
    submission = models.CharField(max_length=64, help_text="Digest of what was submitted.")
    job_ids = models.JSONField(help_text="In the order in which they were submitted.")
    made_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{len(self.job_ids)} jobs submitted under a key"


class LogArchive(models.Model):
    """How far a job's log has come in the archive. The truth about it: what Redis says of it is a copy.

    Every change asks for the `lines` it was decided by, so that of two who archive the same lines one changes nothing.
    """

    job = models.OneToOneField(Job, primary_key=True, on_delete=models.CASCADE, related_name="log_archive")
    lines = models.PositiveBigIntegerField(default=0, help_text="Archived since the log began: the next line's number.")
    kept_bytes = models.PositiveBigIntegerField(default=0, help_text="Of text, uncompressed, without what was cut.")
    begins = models.JSONField(default=dict, help_text="The number of each attempt's first line, by attempt.")
    complete = models.BooleanField(default=False, help_text="The job's last attempt ended, and all of it is here.")

    def __str__(self) -> str:
        return f"log of {self.job_id}: {self.lines} lines"


class LogChunk(models.Model):
    """Consecutive lines of a job's log in one file of the archive, or, without a name, lines that are missing.

    The chunks of a job follow each other without a hole from line 0 to `LogArchive.lines`.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="log_chunks", db_index=False)
    first = models.PositiveBigIntegerField(help_text="The number of its first line.")
    count = models.PositiveBigIntegerField(help_text="Of lines.")
    bytes = models.PositiveBigIntegerField(help_text="Of text, uncompressed, line ends included.")
    name = models.CharField(max_length=120, blank=True, help_text="In the archive; '' for lines that are missing.")
    began = models.CharField(max_length=27, blank=True, help_text="The time of its first line, as the line has it.")

    class Meta:
        ordering = ["job", "first"]
        constraints = [models.UniqueConstraint(fields=["job", "first"], name="log_chunk_once")]

    def __str__(self) -> str:
        return self.name or f"{self.count} missing lines of {self.job_id}"

    @property
    def end(self) -> int:
        """The number of the line after its last."""
        return self.first + self.count


class SavedView(models.Model):
    """A list of jobs that somebody wants to come back to: the query of its address under a name."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_views")
    name = models.CharField(max_length=60)
    query = models.CharField(max_length=2000, help_text="As jobs.listing.JobFilter.query makes it.")

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="saved_view_name_once")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("jobs:list") + self.query


class SchedulerLease(models.Model):
    """The one row (id 1) that says which scheduler leads, until when, and its term.

    The term grows by one each time another scheduler takes over; a transaction that places checks holder and term.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    holder = models.CharField(max_length=255)
    term = models.PositiveBigIntegerField(default=0)
    expires_at = models.DateTimeField()
    last_pass_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"term {self.term}, held by {self.holder}"


def count_by_state(jobs: models.QuerySet[Job]) -> dict[str, int]:
    """How many of these jobs are in each state; states of none are left out."""
    return dict(jobs.order_by().values_list("state").annotate(models.Count("id")))
