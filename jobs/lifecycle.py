"""What can happen to a job: its states, every transition between them, and what the end of an attempt means for it.

Pure: no Django, no clock, no I/O. Everything that changes a state asks this module first.

    PENDING ──place──> STARTING ──run──> RUNNING ──succeed──> SUCCEEDED
       ▲                  │                 ├──────fail─────> FAILED
       └─────requeue──────┴─────────────────┘
    PENDING, STARTING, RUNNING ──abort──> ABORTED
"""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """A job's state; an attempt has the same ones but PENDING."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.ABORTED})
LIVE = frozenset({State.STARTING, State.RUNNING})
"""States in which an attempt holds resources on an executor."""


class Trigger(StrEnum):
    PLACE = "place"
    RUN = "run"
    SUCCEED = "succeed"
    FAIL = "fail"
    REQUEUE = "requeue"
    ABORT = "abort"


TRANSITIONS: dict[tuple[State, Trigger], State] = {
    (State.PENDING, Trigger.PLACE): State.STARTING,
    (State.PENDING, Trigger.ABORT): State.ABORTED,
    (State.STARTING, Trigger.RUN): State.RUNNING,
    (State.STARTING, Trigger.SUCCEED): State.SUCCEEDED,
    (State.STARTING, Trigger.FAIL): State.FAILED,
    (State.STARTING, Trigger.REQUEUE): State.PENDING,
    (State.STARTING, Trigger.ABORT): State.ABORTED,
    (State.RUNNING, Trigger.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Trigger.FAIL): State.FAILED,
    (State.RUNNING, Trigger.REQUEUE): State.PENDING,
    (State.RUNNING, Trigger.ABORT): State.ABORTED,
}


class IllegalTransition(ValueError):
    """The table has no such transition; nothing may be changed."""


def next_state(state: State, trigger: Trigger) -> State:
    """The state that `trigger` leads to. Raises IllegalTransition where the table has none."""
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise IllegalTransition(f"a job that is {state} cannot {trigger}") from None


class EndReason(StrEnum):
    """Why an attempt ended, or why a job is in the state it is in."""

    COMPLETED = "completed"
    # the job's own failures
    EXIT_NONZERO = "exit_nonzero"
    OOM_KILLED = "oom_killed"
    TIMEOUT = "timeout"
    IMAGE_NOT_FOUND = "image_not_found"
    IMAGE_ACCESS_DENIED = "image_access_denied"
    COMMAND_NOT_FOUND = "command_not_found"
    COMMAND_NOT_EXECUTABLE = "command_not_executable"
    INVALID_SETTINGS = "invalid_settings"
    # the platform's failures
    EXECUTOR_LOST = "executor_lost"
    START_REFUSED = "start_refused"
    START_TIMEOUT = "start_timeout"
    IMAGE_PULL_FAILED = "image_pull_failed"
    ENGINE_ERROR = "engine_error"
    CONTAINER_GONE = "container_gone"
    ATTEMPT_GONE = "attempt_gone"
    # neither
    ABORTED_BY_USER = "aborted_by_user"
    SUPERSEDED = "superseded"
    STOPPED = "stopped"


RETRYABLE = frozenset({EndReason.EXIT_NONZERO, EndReason.OOM_KILLED, EndReason.TIMEOUT})
"""The job's own failures that another try may mend; they use up `max_retries`."""

PLATFORM = frozenset(
    {
        EndReason.EXECUTOR_LOST,
        EndReason.START_REFUSED,
        EndReason.START_TIMEOUT,
        EndReason.IMAGE_PULL_FAILED,
        EndReason.ENGINE_ERROR,
        EndReason.CONTAINER_GONE,
        EndReason.ATTEMPT_GONE,
    }
)
"""Failures that are not the job's: re-queued up to PLATFORM_LIMIT times, on another executor where there is one."""

NEVER_RAN = frozenset({EndReason.START_REFUSED, EndReason.IMAGE_PULL_FAILED})
"""Failures of the platform after which it is certain that nothing of the job has run."""

PLATFORM_LIMIT = 5
PLATFORM_DELAYS = (0, 5, 15, 45, 120)
"""Seconds to wait before the n-th re-queue for a platform failure."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a job may still spend when an attempt ends. `at_most_once`: nothing that may have run is tried again."""

    max_retries: int
    retries_used: int
    platform_failures: int
    abort_requested: bool
    at_most_once: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the end of an attempt means: the attempt's own final state, and the job's transition.

    `delay_seconds` is how long a re-queued job waits before it may be placed again.
    """

    attempt_state: State
    trigger: Trigger
    reason: EndReason
    sentence: str
    retries_used: int
    platform_failures: int
    delay_seconds: int = 0


def judge(reason: EndReason, exit_code: int | None, message: str, budget: Budget) -> Verdict:
    """What becomes of a job whose current attempt ended for `reason`.

    An attempt that ended by itself counts as it ended, even when an abort was on its way; a retry or re-queue,
    though, never happens against a person's wish to abort.
    """
    sentence = message or describe(reason, exit_code)
    retries, platform = budget.retries_used, budget.platform_failures
    if reason is EndReason.COMPLETED:
        return Verdict(State.SUCCEEDED, Trigger.SUCCEED, reason, sentence, retries, platform)
    if reason in (EndReason.STOPPED, EndReason.ABORTED_BY_USER, EndReason.SUPERSEDED):
        if budget.abort_requested:
            text = describe(EndReason.ABORTED_BY_USER, exit_code)
            return Verdict(State.ABORTED, Trigger.ABORT, EndReason.ABORTED_BY_USER, text, retries, platform)
        # Stopped on the node by somebody else, such as `docker stop` typed by hand.
        reason, sentence = EndReason.CONTAINER_GONE, message or describe(EndReason.CONTAINER_GONE, exit_code)
    if budget.abort_requested:
        text = f"Aborted; its last attempt had ended: {sentence}"
        return Verdict(State.FAILED, Trigger.ABORT, EndReason.ABORTED_BY_USER, text, retries, platform)
    if budget.at_most_once and reason not in NEVER_RAN:
        if reason in PLATFORM:
            sentence = f"{sentence} It may have run, and may run at most once: it is not tried again."
        return Verdict(State.FAILED, Trigger.FAIL, reason, sentence, retries, platform)
    if reason in PLATFORM:
        if platform < PLATFORM_LIMIT:
            delay = PLATFORM_DELAYS[min(platform, len(PLATFORM_DELAYS) - 1)]
            return Verdict(State.FAILED, Trigger.REQUEUE, reason, sentence, retries, platform + 1, delay)
        text = f"{sentence} Given up after {PLATFORM_LIMIT} re-queues."
        return Verdict(State.FAILED, Trigger.FAIL, reason, text, retries, platform)
    if reason in RETRYABLE and retries < budget.max_retries:
        text = f"{sentence} Retry {retries + 1} of {budget.max_retries}."
        return Verdict(State.FAILED, Trigger.REQUEUE, reason, text, retries + 1, platform)
    return Verdict(State.FAILED, Trigger.FAIL, reason, sentence, retries, platform)


def describe(reason: EndReason, exit_code: int | None = None) -> str:
    """The reason as a sentence for a person, for when whoever reports it sends none."""
    if reason is EndReason.EXIT_NONZERO:
        return f"The command exited with code {exit_code}."
    return _SENTENCES[reason]


_SENTENCES = {
    EndReason.COMPLETED: "The command exited with code 0.",
    EndReason.OOM_KILLED: "The job used more memory than it asked for and was killed.",
    EndReason.TIMEOUT: "The job ran longer than its time-out and was stopped.",
    EndReason.IMAGE_NOT_FOUND: "The image does not exist, or its name or tag is misspelt.",
    EndReason.IMAGE_ACCESS_DENIED: "The registry refuses access to the image; it may need a login on the executor.",
    EndReason.COMMAND_NOT_FOUND: "The command does not exist in the image.",
    EndReason.COMMAND_NOT_EXECUTABLE: "The command exists in the image but cannot be executed.",
    EndReason.INVALID_SETTINGS: "Docker refused the container's settings.",
    EndReason.EXECUTOR_LOST: "The executor stopped sending heartbeats.",
    EndReason.START_REFUSED: "The executor refused the start: it had no room.",
    EndReason.START_TIMEOUT: "The executor did not start the container in time.",
    EndReason.IMAGE_PULL_FAILED: "The image could not be pulled.",
    EndReason.ENGINE_ERROR: "The Docker engine on the executor failed.",
    EndReason.CONTAINER_GONE: "The container was stopped or removed on the executor by somebody else.",
    EndReason.ATTEMPT_GONE: "The executor's agent no longer knows the attempt.",
    EndReason.ABORTED_BY_USER: "Aborted on request.",
    EndReason.SUPERSEDED: "A newer attempt took over.",
    EndReason.STOPPED: "Stopped.",
}
