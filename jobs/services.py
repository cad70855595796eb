"""The ways to change a job from outside: submit and abort. The API, the pages and the tests all come through here."""

import uuid

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.utils import timezone

from agent.protocol import Wake
from executors import broker
from jobs import transitions
from jobs.models import Job
from jobs.submission import JobSubmission


class JobNotFound(LookupError):
    """No job has this id."""


class JobIsFinal(ValueError):
    """The job has ended; its state never changes again."""


def submit(submission: JobSubmission, owner: User | AnonymousUser | None = None) -> Job:
    """Accept a job: when this returns it is in the database, and the scheduler has been woken."""
    owned_by = owner if owner is not None and owner.is_authenticated else None
    job = Job.objects.create(owner=owned_by, submitted_at=timezone.now(), **submission.job_fields())
    _announce(job)
    return job


def abort(job_id: uuid.UUID) -> Job:
    """End a job: at once when PENDING, else as soon as the scheduler has stopped its container.

    Asking again changes nothing. Raises JobNotFound, and JobIsFinal for a job that has ended.
    """
    now = timezone.now()
    with transaction.atomic():
        job = Job.objects.select_for_update(of=("self",)).filter(id=job_id).first()
        if job is None:
            raise JobNotFound(f"There is no job {job_id}.")
        if job.is_final:
            raise JobIsFinal(f"The job has already ended: {job.state}.")
        transitions.request_abort(job, now)
    _announce(job)
    return job


def _announce(job: Job) -> None:
    if broker.send_event(Wake(job_ids=[str(job.id)])):  # else Redis is away, and waiting for it twice helps nobody
        broker.publish_changes(jobs=[job.id], executors=[job.executor_id] if job.executor_id else [])
