"""What happened to a job, in order, from its own rows: the steps of an attempt, and everything as a list. Pure.

Nodes have clocks of their own, minutes off from ours at worst. How long something took is therefore always the
difference of two times by one clock; and what a node tells is put in order with the rest after shifting it by the
difference of the two clocks as it was when the attempt began.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from jobs.lifecycle import State
from jobs.models import Attempt, Job, JobEvent

PULLED = "Image pulled"

# --- Steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One point of an attempt's life. `took` is the time since the step before it, where that is known; `kind` is done,
    now (since `since`, by our clock) or ahead."""

    label: str
    at: datetime | None
    took: timedelta | None
    since: datetime | None
    kind: str


def steps(job: Job, attempt: Attempt | None) -> list[Step]:
    """Submitted, placed, image pulled, container created, running, ended: what has happened to the job's current
    attempt and what is still ahead. A pull appears where there was, or is, one."""
    if attempt is None or (attempt.finished_at is not None and not job.is_final):
        attempt = Attempt()  # the next one
    started = attempt.started_at or (job.started_at if job.is_final else None)
    running = attempt.running_since or started
    waited = _between(job.submitted_at, attempt.placed_at) if attempt.number in (None, 1) else None
    to_run = _between(attempt.created_at, started) if attempt.created_at else _between(attempt.placed_at, running)
    ended = job.state.capitalize() if job.is_final else "Ended"
    marks = [
        ("Submitted", job.submitted_at, None),
        ("Placed", attempt.placed_at, waited),
        (PULLED, attempt.pulled_at, _between(attempt.accepted_at, attempt.pulled_at)),
        ("Created", attempt.created_at, _between(attempt.image_ready_at, attempt.created_at)),
        ("Running", running, to_run),
        (ended, job.finished_at, _between(started or attempt.placed_at or job.submitted_at, job.finished_at)),
    ]
    last = max(place for place, (_, at, _) in enumerate(marks) if at)
    pulls = attempt.state == State.STARTING and bool(attempt.layers or attempt.progress.startswith("pulling"))
    known = [mark for place, mark in enumerate(marks) if mark[1] or (place > last and (mark[0] != PULLED or pulls))]
    reached = sum(1 for _, at, _ in known if at)
    since = attempt.running_since or running or attempt.placed_at or job.submitted_at
    return [
        Step(label, at, took, since, "done" if place < reached else "now" if place == reached else "ahead")
        for place, (label, at, took) in enumerate(known[:reached] if job.is_final else known)
    ]


def _between(begin: datetime | None, end: datetime | None) -> timedelta | None:
    return end - begin if begin and end else None


# --- Everything --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to a job. `by` is a user's name, or ''; `attempt` 0 where it is about none; `job` another
    job that it is about; `kind` is person, step, good or bad."""

    at: datetime
    text: str
    by: str = ""
    attempt: int = 0
    job: UUID | None = None
    kind: str = "step"


def happenings(
    job: Job, attempts: Sequence[Attempt], noted: Sequence[JobEvent], retried_by: str = ""
) -> list[Happening]:
    """All that is known to have happened to the job, in order. `attempts` in the order of their numbers, `noted` what
    people did; `retried_by` asked for it where it is a retry."""
    owner = job.owner.get_username() if job.owner else ""
    if job.retry_of:
        first = Happening(job.submitted_at, "Submitted as a retry of", retried_by, job=job.retry_of, kind="person")
    else:
        first = Happening(job.submitted_at, "Submitted", owner, kind="person")
    found = [(job.submitted_at, first), *((event.at, _noted(event)) for event in noted)]
    if job.abort_requested_at and not any(event.kind == JobEvent.Kind.ABORT for event in noted):
        found.append((job.abort_requested_at, Happening(job.abort_requested_at, "Abort asked for", kind="person")))
    for attempt in attempts:
        found += _of_attempt(attempt, queued_again=attempt.number < job.attempt_number or not job.is_final)
    ended_with_it = bool(attempts) and attempts[-1].finished_at == job.finished_at
    if job.is_final and job.finished_at and not ended_with_it:
        text = f"{job.state.capitalize()}: {job.reason_text}"
        found.append((job.finished_at, Happening(job.finished_at, text, kind="bad")))
    return [happening for _, happening in sorted(found, key=lambda item: item[0])]


def _noted(event: JobEvent) -> Happening:
    if event.kind == JobEvent.Kind.RETRY:
        return Happening(event.at, "Retried as", event.by, job=UUID(event.text), kind="person")
    text = "Abort asked for" if event.kind == JobEvent.Kind.ABORT else f"Priority changed {event.text}"
    return Happening(event.at, text, event.by, kind="person")


def _of_attempt(attempt: Attempt, queued_again: bool) -> Iterator[tuple[datetime, Happening]]:
    """What happened to it, each with the time by our clock that puts it in order."""
    number = attempt.number
    shift = timedelta()
    if attempt.accepted_at:
        shift = attempt.placed_at - attempt.accepted_at
    elif attempt.running_since and attempt.started_at:
        shift = attempt.running_since - attempt.started_at
    gpus = ", ".join(map(str, attempt.gpu_indices))
    where = f"Placed on {attempt.executor_name}" + (f", GPU {gpus}" if gpus else "")
    yield attempt.placed_at, Happening(attempt.placed_at, where, attempt=number)
    if attempt.pulled_at:
        yield attempt.pulled_at + shift, Happening(attempt.pulled_at, "Image pulled", attempt=number)
    if attempt.created_at:
        yield attempt.created_at + shift, Happening(attempt.created_at, "Container created", attempt=number)
    if attempt.started_at:
        yield attempt.started_at + shift, Happening(attempt.started_at, "Running", attempt=number)
    if attempt.finished_at:
        by_node = attempt.started_at is not None
        why = (attempt.reason_text or attempt.reason).rstrip(".")
        text = f"{attempt.state.capitalize()}: {why}.{' Queued again.' if queued_again else ''}"
        kind = "good" if attempt.state == State.SUCCEEDED else "bad"
        ended = Happening(attempt.finished_at, text, attempt=number, kind=kind)
        yield max(attempt.finished_at + shift if by_node else attempt.finished_at, attempt.placed_at), ended
