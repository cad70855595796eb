"""What the jobs' API takes and answers, and how a job is put into it."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from ninja import Schema
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from jobs.lifecycle import State
from jobs.listing import COUNT_LIMIT, JobFilter
from jobs.masking import masked
from jobs.models import Attempt, ContainerSettings, Job
from jobs.services import Action
from jobs.submission import GB, MAX_PRIORITY, MIN_PRIORITY
from jobs.timeline import Happening

TAIL_LINES = 100


class ExecutorName(BaseModel):
    executor_id: str
    name: str


class JobSummary(BaseModel):
    """A job as lists show it. Cores and GB (1024³ bytes); times in UTC."""

    job_id: UUID
    name: str
    status: State
    reason: str = Field(description="Why it has this status, as a code: exit_nonzero, oom_killed, timeout, …")
    reason_text: str = Field(description="The same as a sentence.")
    docker_image: str
    command: list[str]
    env: dict[str, str] = Field(description="What looks like a secret by its name is masked.")
    working_dir: str
    cpu_cores: float
    memory_gb: float
    gpu_type: str | None
    gpu_count: int
    labels: dict[str, str]
    timeout_seconds: int
    max_retries: int
    at_most_once: bool
    priority: int
    owner: str | None
    retry_of: UUID | None = Field(description="The job that was asked for once more with this one.")
    executor: ExecutorName | None = Field(description="Where the current attempt runs or ran.")
    attempt: int = Field(description="The current attempt's number; 0 before the first.")
    exit_code: int | None
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    abort_requested_at: datetime | None


class JobAccepted(JobSummary):
    warning: str | None = Field(
        description="Set where no registered executor could ever fit the job, or the scheduler hears of it only later."
    )


class BatchWarning(Schema):
    jobs: int = Field(description="How many jobs of the batch it is about.")
    first: int = Field(description="The index of the first of them.")
    message: str


class BatchAccepted(Schema):
    job_ids: list[UUID] = Field(description="In the order of the jobs in the request.")
    repeated: bool = Field(description="The same was submitted before under this idempotency key: no job is new.")
    warnings: list[BatchWarning] = Field(
        description="Of new jobs that no registered executor could ever fit, or that the scheduler hears of only later."
    )


class JobList(BaseModel):
    jobs: list[JobSummary]
    next_cursor: UUID | None = Field(
        description="For `cursor`, to go on behind these jobs; null at the end. A page may hold fewer jobs than "
        "`limit`, even none, and not be the last: only so many jobs are looked through at once."
    )


class JobChange(Schema):
    model_config = ConfigDict(extra="forbid")

    priority: Annotated[int, Field(ge=MIN_PRIORITY, le=MAX_PRIORITY)] = Field(
        description="Of a job that is PENDING; higher goes first."
    )


class JobMatch(Schema):
    """The same filters as those of GET /jobs."""

    model_config = ConfigDict(extra="forbid")

    status: str = ""
    executor: str = ""
    owner: str = ""
    image: str = ""
    label: str = ""
    since: str = ""
    until: str = ""
    q: str = ""

    @model_validator(mode="after")
    def _at_least_one(self) -> "JobMatch":
        if not as_filter(self):
            raise ValueError(
                "Must name at least one filter, spelt as for GET /jobs: nothing is done to all jobs there are."
            )
        return self


class BulkRequest(Schema):
    """Give either `job_ids` or `match`."""

    model_config = ConfigDict(extra="forbid")

    action: Action
    job_ids: Annotated[list[UUID], Field(max_length=COUNT_LIMIT)] | None = None
    match: JobMatch | None = Field(
        default=None,
        validate_default=True,
        description=f"The newest {COUNT_LIMIT} jobs that match at most: ask again until `done` is empty.",
    )
    priority: Annotated[int, Field(ge=MIN_PRIORITY, le=MAX_PRIORITY)] | None = Field(
        default=None, validate_default=True, description="The new one, for the action 'priority'."
    )

    @field_validator("match")
    @classmethod
    def _ids_or_match(cls, match: JobMatch | None, info: ValidationInfo) -> JobMatch | None:
        if (match is None) == (info.data.get("job_ids") is None):
            raise ValueError("Give either job_ids or match, and not both.")
        return match

    @field_validator("priority")
    @classmethod
    def _priority_where_needed(cls, priority: int | None, info: ValidationInfo) -> int | None:
        if priority is None and info.data.get("action") is Action.PRIORITY:
            raise ValueError("Is required by the action 'priority'.")
        return priority


class Refused(Schema):
    job_id: UUID
    message: str


class BulkResult(Schema):
    done: list[UUID] = Field(description="The jobs that were changed; for a retry, the new ones.")
    refused: list[Refused]


class Layer(Schema):
    id: str
    status: str = Field(description="waiting, downloading, downloaded, unpacking or done")
    current: int = Field(description="Bytes of `total`; 0 of 0 where Docker does not say.")
    total: int


class Use(Schema):
    samples: int = Field(description="How often it was looked at.")
    cpu_millicores: int
    memory_bytes: int
    gpu_percent: int
    gpu_memory_bytes: int
    cpu_seconds: int
    received_bytes: int
    sent_bytes: int
    read_bytes: int
    written_bytes: int
    held_back: int = Field(description="How many of the looks found it at its CPU limit.")


class AttemptSummary(Schema):
    number: int
    status: State
    reason: str
    reason_text: str
    progress: str = Field(description="What an attempt that is STARTING does, such as pulling the image.")
    executor: ExecutorName
    gpu_indices: list[int]
    container_id: str
    exit_code: int | None
    oom_killed: bool
    placed_at: datetime
    accepted_at: datetime | None = Field(description="By the agent's clock, as are the next four.")
    pulled_at: datetime | None = Field(description="Null where the image was there already.")
    created_at: datetime | None = Field(description="Of the container.")
    started_at: datetime | None
    finished_at: datetime | None
    layers: list[Layer] = Field(description="Of the image, while it is pulled.")
    use: Use | None = Field(description="What it used in all and at most, where it was seen; at its end.")
    settings: dict[str, Any] | None = Field(
        description="What Docker applied to the container, by Docker's own names; of variables the names alone."
    )


class Happened(Schema):
    """Something that happened to a job."""

    at: datetime
    text: str
    by: str | None = Field(description="The user who did it.")
    attempt: int | None
    job_id: UUID | None = Field(description="Another job that it is about, such as the retry.")


class JobDetail(JobSummary):
    waiting_reason: str | None = Field(description="Why a PENDING job waits.")
    attempts: list[AttemptSummary]
    events: list[Happened] = Field(description="What happened to it, in order.")
    logs: list[str] | None = Field(description=f"The last {TAIL_LINES} lines; null while Redis does not answer.")
    logs_total: int | None = Field(description="How many lines the job has written.")


class Placement(Schema):
    job_id: UUID
    attempt: int
    executor_id: str
    executor_name: str
    gpu_indices: list[int]


class Waiting(Schema):
    job_id: UUID
    reason: str


class PassResult(Schema):
    placed: list[Placement]
    waiting: list[Waiting] = Field(description="The first hundred that still wait, and why.")
    waiting_count: int


def summary(job: Job) -> dict[str, Any]:
    """A job as JobSummary has it."""
    return {
        "job_id": job.id,
        "name": job.name,
        "status": job.state,
        "reason": job.reason,
        "reason_text": job.reason_text,
        "docker_image": job.image,
        "command": job.command,
        "env": masked(job.env),
        "working_dir": job.working_dir,
        "cpu_cores": job.cpu_millicores / 1000,
        "memory_gb": round(job.memory_bytes / GB, 9),
        "gpu_type": job.gpu_type or None,
        "gpu_count": job.gpu_count,
        "labels": job.labels,
        "timeout_seconds": job.timeout_seconds,
        "max_retries": job.max_retries,
        "at_most_once": job.at_most_once,
        "priority": job.priority,
        "owner": job.owner.get_username() if job.owner else None,
        "retry_of": job.retry_of,
        "executor": {"executor_id": job.executor.id, "name": job.executor.name} if job.executor else None,
        "attempt": job.attempt_number,
        "exit_code": job.exit_code,
        "submitted_at": job.submitted_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "abort_requested_at": job.abort_requested_at,
    }


def attempt_summary(attempt: Attempt) -> dict[str, Any]:
    """An attempt as AttemptSummary has it."""
    settings: ContainerSettings | None = getattr(attempt, "container_settings", None)
    return {
        "number": attempt.number,
        "status": attempt.state,
        "reason": attempt.reason,
        "reason_text": attempt.reason_text,
        "progress": attempt.progress,
        "executor": {"executor_id": attempt.executor_id or "", "name": attempt.executor_name},
        "gpu_indices": attempt.gpu_indices,
        "container_id": attempt.container_id,
        "exit_code": attempt.exit_code,
        "oom_killed": attempt.oom_killed,
        "placed_at": attempt.placed_at,
        "accepted_at": attempt.accepted_at,
        "pulled_at": attempt.pulled_at,
        "created_at": attempt.created_at,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "layers": attempt.layers,
        "use": attempt.use,
        "settings": settings.applied if settings else None,
    }


def happened(happening: Happening) -> dict[str, Any]:
    """As Happened has it."""
    return {
        "at": happening.at,
        "text": happening.text,
        "by": happening.by or None,
        "attempt": happening.attempt or None,
        "job_id": happening.job,
    }


def as_filter(match: JobMatch) -> JobFilter:
    """The filter that the API's names describe."""
    named = match.model_dump(include={"executor", "owner", "image", "label", "since", "until"})
    return JobFilter.from_query({**named, "state": match.status, "text": match.q})
