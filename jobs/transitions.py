"""The one place that writes the state of a job or an attempt. Every change asks `jobs/lifecycle.py` first."""

from datetime import datetime

from jobs import lifecycle
from jobs.lifecycle import EndReason, State, Trigger
from jobs.models import Job


def request_abort(job: Job, now: datetime) -> None:
    """A person wants the job ended: ABORTED at once when PENDING, else noted (once) for the scheduler, which stops it.

    Inside the caller's transaction, with the job's row locked. Raises IllegalTransition for a job that is final.
    """
    after = lifecycle.next_state(State(job.state), Trigger.ABORT)
    if job.abort_requested_at is None:
        job.abort_requested_at = now
    if job.state == State.PENDING:
        job.state, job.finished_at = after, now
        job.reason, job.reason_text = EndReason.ABORTED_BY_USER, lifecycle.describe(EndReason.ABORTED_BY_USER)
        job.not_before = None
    job.save(update_fields=["abort_requested_at", "state", "finished_at", "reason", "reason_text", "not_before"])
