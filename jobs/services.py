"""The ways to change jobs from outside: submit, abort, retry, set the priority; one by one, or many at once.

The API, the pages and the tests all come through here.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.utils import timezone

from agent.protocol import Wake
from executors import broker
from executors.writes import insert_rows
from jobs import crashpoints, idempotency, transitions
from jobs.lifecycle import FINAL, State
from jobs.models import Job, JobEvent
from jobs.submission import MAX_PRIORITY, MIN_PRIORITY, InvalidSubmission, JobSubmission

BULK_CHUNK = 200
"""Jobs changed in one transaction: the scheduler waits for no more than that."""
_ASKED = [
    "name", "owner_id", "image", "command", "env", "working_dir", "cpu_millicores", "memory_bytes", "gpu_type",
    "gpu_count", "labels", "shape", "timeout_seconds", "max_retries", "at_most_once", "priority",
]  # fmt: skip
"""What a job was asked for, which a retry asks for again; its owner's, whoever retries it, as its secrets are."""

NOT_TOLD = "Redis is away: the job is accepted and waits; the scheduler takes it up when Redis is back."


class JobNotFound(LookupError):
    """No job has this id."""


class JobIsFinal(ValueError):
    """The job has ended; its state never changes again."""


class JobNotFinal(ValueError):
    """The job has not ended yet, so there is nothing to retry."""


class JobNotPending(ValueError):
    """The job has its executor already, or has ended: its place in the queue means nothing any more."""


def submit(submission: JobSubmission, owner: User | AnonymousUser | None = None) -> Job:
    """Accept a job: when this returns it is in the database, and the scheduler has been woken."""
    job = _new(submission, _owned_by(owner), timezone.now())
    job.save(force_insert=True)
    _announce(job)
    return job


@dataclass(frozen=True, slots=True)
class Accepted:
    """The ids of submitted jobs, in their order, and those that are new; none where an earlier submission under the
    same key had made them."""

    ids: list[uuid.UUID]
    new: list[Job]


def submit_all(
    submissions: Sequence[JobSubmission], owner: User | AnonymousUser | None = None, key: str = ""
) -> Accepted:
    """Accept all of these jobs, or, where anything goes wrong, none. Under an idempotency `key` only once.

    Raises InvalidSubmission for a key that cannot be one, and KeyUsedOtherwise.
    """
    if problem := idempotency.key_problem(key):
        raise InvalidSubmission({"Idempotency-Key": [problem]})
    owned_by, now = _owned_by(owner), timezone.now()
    jobs = [_new(submission, owned_by, now) for submission in submissions]
    ids = new_ids = [job.id for job in jobs]
    with transaction.atomic():
        if key:
            ids = idempotency.claim(key, owned_by, jobs, now)
        if ids == new_ids:
            insert_rows(jobs)
    # Again where they are not new: who accepted them may have died before saying so.
    _announce_accepted(ids)
    return Accepted(ids, jobs if ids == new_ids else [])


def _owned_by(owner: User | AnonymousUser | None) -> User | None:
    return owner if owner is not None and owner.is_authenticated else None


def _new(submission: JobSubmission, owner: User | None, now: datetime) -> Job:
    return Job(owner=owner, submitted_at=now, **submission.job_fields())


def abort(job_id: uuid.UUID, by: str = "") -> Job:
    """End a job: at once when PENDING, else as soon as the scheduler has stopped its container.

    `by` is the name of the user who asks, here as below; asking again changes nothing. Raises JobNotFound, and
    JobIsFinal for a job that has ended.
    """
    with transaction.atomic():
        job = _locked(job_id)
        _note(_abort(job, by))
    _announce(job)
    return job


def retry(job_id: uuid.UUID, by: str = "") -> Job:
    """Ask once more for what a job that has ended asked for: a new job, as an end is never taken back.

    Raises JobNotFound, and JobNotFinal for a job that has not ended.
    """
    job = Job.objects.filter(id=job_id).first()
    if job is None:
        raise JobNotFound(f"There is no job {job_id}.")
    again, event = _again(job, by)
    with transaction.atomic():
        again.save(force_insert=True)
        _note(event)
    _announce(again)
    return again


def set_priority(job_id: uuid.UUID, priority: int, by: str = "") -> Job:
    """Move a PENDING job in the queue; higher goes first.

    Raises JobNotFound, JobNotPending, and InvalidSubmission for a priority out of bounds.
    """
    _check_priority(priority)
    with transaction.atomic():
        job = _locked(job_id)
        _note(_set_priority(job, priority, by))
    _announce(job)
    return job


def retried_by(job: Job) -> str:
    """Who asked for a job that is a retry; '' where it is none, or nobody knows."""
    if job.retry_of is None:
        return ""
    asked = JobEvent.objects.filter(job=job.retry_of, kind=JobEvent.Kind.RETRY, text=str(job.id))
    return asked.values_list("by", flat=True).first() or ""


# --- Many at once ------------------------------------------------------------------------------------------------


class Action(StrEnum):
    ABORT = "abort"
    RETRY = "retry"
    PRIORITY = "priority"


@dataclass(slots=True)
class BulkOutcome:
    """What became of each job: `done` (for a retry, the new jobs) and `refused` with a sentence of why."""

    done: list[Job] = field(default_factory=list)
    refused: dict[uuid.UUID, str] = field(default_factory=dict)


def concerned(action: Action, job_ids: Sequence[uuid.UUID]) -> int:
    """How many of the jobs the action would change as they are now."""
    states = {
        Action.ABORT: [state for state in State if state not in FINAL],
        Action.RETRY: sorted(FINAL),
        Action.PRIORITY: [State.PENDING],
    }[action]
    chunks = (job_ids[start : start + BULK_CHUNK] for start in range(0, len(job_ids), BULK_CHUNK))
    return sum(Job.objects.filter(id__in=chunk, state__in=states).count() for chunk in chunks)


def change_many(action: Action, job_ids: Sequence[uuid.UUID], priority: int | None = None, by: str = "") -> BulkOutcome:
    """Do the same to each job, as `abort`, `retry` and `set_priority` do; one that refuses stops none of the others.

    Done in pieces, each a transaction of its own. Raises InvalidSubmission for a priority that is missing or out of
    bounds, before anything is changed.
    """
    if action is Action.PRIORITY:
        _check_priority(priority)
    outcome = BulkOutcome()
    for start in range(0, len(job_ids), BULK_CHUNK):
        _change_chunk(action, job_ids[start : start + BULK_CHUNK], priority or 0, by, outcome)
    return outcome


def _change_chunk(action: Action, job_ids: Sequence[uuid.UUID], priority: int, by: str, outcome: BulkOutcome) -> None:
    changed: list[Job] = []
    noted: list[JobEvent | None] = []
    with transaction.atomic():
        jobs = {
            job.id: job for job in Job.objects.select_for_update(of=("self",)).filter(id__in=job_ids).order_by("id")
        }
        for job_id in job_ids:
            try:
                if job_id not in jobs:
                    raise JobNotFound(f"There is no job {job_id}.")
                job, event = jobs[job_id], None
                if action is Action.ABORT:
                    event = _abort(job, by)
                elif action is Action.PRIORITY:
                    event = _set_priority(job, priority, by)
                else:
                    job, event = _again(job, by)
                changed.append(job)
                noted.append(event)
            except (JobNotFound, JobIsFinal, JobNotFinal, JobNotPending) as error:
                outcome.refused[job_id] = str(error)
        if action is Action.RETRY:
            insert_rows(changed)
        _note(*noted)
    _announce(*changed)
    outcome.done += changed


# --- One job, in a transaction, locked -----------------------------------------------------------------------------


def _locked(job_id: uuid.UUID) -> Job:
    job = Job.objects.select_for_update(of=("self",)).filter(id=job_id).first()
    if job is None:
        raise JobNotFound(f"There is no job {job_id}.")
    return job


def _abort(job: Job, by: str) -> JobEvent | None:
    if job.is_final:
        raise JobIsFinal(f"The job has already ended: {job.state}.")
    asked_before, now = job.abort_requested_at is not None, timezone.now()
    transitions.request_abort(job, now)
    return None if asked_before else JobEvent(job=job, at=now, kind=JobEvent.Kind.ABORT, by=by)


def _again(job: Job, by: str) -> tuple[Job, JobEvent]:
    if not job.is_final:
        raise JobNotFinal(f"The job has not ended, it is {job.state}: abort it first, or clone it.")
    now = timezone.now()
    again = Job(retry_of=job.id, submitted_at=now, **{name: getattr(job, name) for name in _ASKED})
    return again, JobEvent(job=job, at=now, kind=JobEvent.Kind.RETRY, by=by, text=str(again.id))


def _set_priority(job: Job, priority: int, by: str) -> JobEvent | None:
    if job.state != State.PENDING:
        raise JobNotPending(f"Only a PENDING job has a place in the queue; this one is {job.state}.")
    before, job.priority = job.priority, priority
    job.save(update_fields=["priority"])
    if before == priority:
        return None
    kind, text = JobEvent.Kind.PRIORITY, f"from {before} to {priority}"
    return JobEvent(job=job, at=timezone.now(), kind=kind, by=by, text=text)


def _note(*events: JobEvent | None) -> None:
    insert_rows([event for event in events if event is not None])


def _check_priority(priority: int | None) -> None:
    if priority is None or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        sentence = f"Must be a whole number from {MIN_PRIORITY} to {MAX_PRIORITY}."
        raise InvalidSubmission({"priority": [sentence]})


def _announce(*jobs: Job) -> None:
    if not jobs:
        return
    crashpoints.reach("committed-before-announced")
    ids = [str(job.id) for job in jobs]
    if broker.send_event(Wake(job_ids=ids)):  # else Redis is away, and waiting for it twice helps nobody
        broker.publish_changes(jobs=ids, executors={job.executor_id for job in jobs if job.executor_id})


def _announce_accepted(job_ids: Sequence[uuid.UUID]) -> None:
    """As `_announce`, for jobs submitted together: their ids are neighbours, so that the wake names the two ends."""
    crashpoints.reach("committed-before-announced")
    if broker.send_event(Wake(first_job_id=str(min(job_ids)), last_job_id=str(max(job_ids)))):
        broker.publish_changes(jobs=job_ids)
