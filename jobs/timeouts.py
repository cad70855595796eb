"""How long an attempt may take, and what is done when it takes longer.

Time-outs are the agent's business. The scheduler steps in later, by its own clock alone: the clocks of nodes may differ
by minutes.
"""

from datetime import datetime, timedelta

from django.conf import settings

from jobs.lifecycle import State
from jobs.snapshot import LiveAttempt

MARGIN = timedelta(minutes=5)
"""How much later than the agent the scheduler steps in. An attempt that it told to stop and that never ran is given up
after this time again."""


def next_deadline(attempt: LiveAttempt) -> datetime | None:
    """When something is to be done about the attempt, should nothing more be heard of it; None for never."""
    if attempt.state == State.STARTING:
        stop_at = _start_by(attempt)
        return stop_at if attempt.stop_command is None else stop_at + MARGIN
    return _end_by(attempt) if attempt.stop_command is None else None


def why_stop(attempt: LiveAttempt, now: datetime) -> str:
    """Why to stop the attempt, as StopAttempt has it; '' where it may go on or was told already."""
    if attempt.stop_command is not None:
        return ""
    if attempt.abort_requested_at is not None:
        return "abort"
    if attempt.state == State.STARTING:
        return "start_timeout" if now > _start_by(attempt) else ""
    end_by = _end_by(attempt)
    return "timeout" if end_by is not None and now > end_by else ""


def is_given_up(attempt: LiveAttempt, now: datetime) -> bool:
    """Whether it has been STARTING for so long that its agent is not waited for any more."""
    return attempt.state == State.STARTING and now > _start_by(attempt) + MARGIN


def _start_by(attempt: LiveAttempt) -> datetime:
    return attempt.placed_at + timedelta(seconds=settings.STARTING_TIMEOUT_SECONDS)


def _end_by(attempt: LiveAttempt) -> datetime | None:
    if attempt.running_since is None:
        return None
    return attempt.running_since + timedelta(seconds=attempt.timeout_seconds + settings.ABORT_GRACE_SECONDS) + MARGIN
