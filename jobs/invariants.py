"""What must always hold of jobs, attempts, executors and Redis, asked of plain values: pure.

Each disagreement bears the number of the invariant it breaks (docs/architecture.md lists all ten):

    1  an accepted job is never lost, and ends          5  a log is whole
    2  an attempt runs once, and only the current counts 6  an abort ends the container
    3  an executor is never over-committed               8  one scheduler numbers the commands
    4  a final state says what happened, and stays       9  nothing is left behind

7 and 10 are about processes and people, which no look at the stores can tell.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.lifecycle import FINAL, LIVE, State
from jobs.reconcile import Counted, Token, compare

LATE = timedelta(seconds=30)
"""How long an end, an abort or a last log line may be on its way beyond what it is granted anyway."""


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """`subject` is a job's id, an executor's id or a Redis key."""

    invariant: int
    subject: str
    sentence: str


# --- Jobs and attempts -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    number: int
    state: str
    executor_id: str | None
    start_command: int
    stop_command: int | None = None
    gpu_indices: tuple[int, ...] = ()
    exit_code: int | None = None
    reason: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE


@dataclass(frozen=True, slots=True)
class JobFacts:
    """CPU in millicores, memory in bytes."""

    id: str
    state: str
    attempt_number: int
    attempts: tuple[AttemptFacts, ...] = ()
    cpu_millicores: int = 0
    memory_bytes: int = 0
    exit_code: int | None = None
    reason: str = ""
    finished_at: datetime | None = None
    abort_requested_at: datetime | None = None

    @property
    def live_attempt(self) -> AttemptFacts | None:
        return next((attempt for attempt in self.attempts if attempt.live), None)


def check_job(job: JobFacts, now: datetime, abort_grace_seconds: int) -> Iterator[Violation]:
    """What does not hold of a job and its attempts."""
    live = [attempt.number for attempt in job.attempts if attempt.live]
    numbers = sorted(attempt.number for attempt in job.attempts)
    if numbers != list(range(1, job.attempt_number + 1)):
        yield Violation(2, job.id, f"It counts {job.attempt_number} attempts and has those numbered {numbers}.")
    if live and live != [job.attempt_number]:
        yield Violation(2, job.id, f"Its current attempt is {job.attempt_number}, and live are {live}.")
    if job.state in LIVE and not live:
        yield Violation(1, job.id, f"It is {job.state} and has no live attempt: nothing will ever end it.")
    if job.state not in LIVE and live:
        yield Violation(4 if job.state in FINAL else 1, job.id, f"It is {job.state} and attempt {live[0]} is live.")
    if job.state in FINAL:
        yield from _check_end(job)
    elif job.abort_requested_at is not None:
        waited = now - job.abort_requested_at
        if waited > timedelta(seconds=abort_grace_seconds) + LATE:
            asked = f"Its abort was asked for {waited.total_seconds():.0f} s ago"
            yield Violation(6, job.id, f"{asked} and it is {job.state}.")


def _check_end(job: JobFacts) -> Iterator[Violation]:
    if job.finished_at is None or not job.reason:
        yield Violation(4, job.id, f"It is {job.state} without a time or a reason of its end.")
    last = next((attempt for attempt in job.attempts if attempt.number == job.attempt_number), None)
    if last is None or last.live:
        return
    if job.state != State.ABORTED and job.state != last.state:
        yield Violation(4, job.id, f"It is {job.state} and its last attempt {last.state}.")
    if job.state != State.ABORTED and job.exit_code != last.exit_code:
        yield Violation(4, job.id, f"It says exit code {job.exit_code}, its last attempt {last.exit_code}.")
    if job.state == State.SUCCEEDED and job.exit_code != 0:
        yield Violation(4, job.id, f"It is SUCCEEDED with exit code {job.exit_code}.")


# --- Executors and what they hold --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExecutorFacts:
    """CPU in millicores and memory in bytes are what may be given to jobs: the reserve is taken off."""

    id: str
    lost: bool
    cpu_millicores: int
    memory_bytes: int
    gpu_indices: tuple[int, ...] = ()
    last_command: int = 0


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an agent said last: the attempts it holds, and the last command it has passed."""

    held: frozenset[Token]
    passed_command: int


def check_executor(executor: ExecutorFacts, jobs: Sequence[JobFacts]) -> Iterator[Violation]:
    """What does not hold of an executor and the live attempts on it; `jobs` are those whose live attempt is there."""

    def broken(invariant: int, sentence: str) -> Violation:
        return Violation(invariant, executor.id, sentence)

    cpu, memory = sum(job.cpu_millicores for job in jobs), sum(job.memory_bytes for job in jobs)
    attempts = [attempt for job in jobs if (attempt := job.live_attempt)]
    if cpu > executor.cpu_millicores:
        yield broken(3, f"Its live attempts ask for {cpu} millicores of {executor.cpu_millicores}.")
    if memory > executor.memory_bytes:
        yield broken(3, f"Its live attempts ask for {memory} bytes of memory of {executor.memory_bytes}.")
    for index, takers in Counter(index for attempt in attempts for index in attempt.gpu_indices).items():
        if takers > 1:
            yield broken(3, f"GPU {index} belongs to {takers} live attempts.")
        if index not in executor.gpu_indices:
            yield broken(3, f"GPU {index} belongs to a live attempt and the executor has none of that number.")
    if executor.lost and attempts:
        yield broken(1, f"It is lost and {len(attempts)} attempts on it are live.")
    for number, times in Counter(attempt.start_command for attempt in attempts).items():
        if times > 1:
            yield broken(8, f"Command {number} starts {times} attempts.")
        if number > executor.last_command:
            yield broken(8, f"Command {number} was given and the executor counts up to {executor.last_command}.")


def check_held(greetings: Mapping[str, Greeting], jobs: Mapping[str, Sequence[JobFacts]]) -> Iterator[Violation]:
    """What agents hold against what the database counts; `jobs` are the live ones by executor."""
    for executor_id, greeting in sorted(greetings.items()):
        counted = [
            Counted(Token(job.id, attempt.number), attempt.start_command, attempt.stop_command)
            for job in jobs.get(executor_id, ())
            if (attempt := job.live_attempt)
        ]
        difference = compare(greeting.held, greeting.passed_command, counted)
        for token in difference.superseded:
            yield Violation(2, executor_id, f"It holds attempt {token.number} of {token.job_id}, which does not count.")
        for token in difference.gone:
            yield Violation(1, executor_id, f"It has passed attempt {token.number} of {token.job_id} and lacks it.")
    holders = Counter(token for greeting in greetings.values() for token in greeting.held)
    for token, times in sorted(holders.items()):
        if times > 1:
            yield Violation(2, token.job_id, f"Attempt {token.number} is held by {times} executors.")


# --- Redis -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogFacts:
    """A job's log as Redis has it. `kept` is the list's length; `expires` says that both keys have a time limit."""

    job_id: str
    lines: int
    dropped: int
    kept: int
    complete: bool
    expires: bool


def check_log(log: LogFacts, job: JobFacts | None, held: Collection[Token], now: datetime) -> Iterator[Violation]:
    """What does not hold of a log; `job` is None where the database has none of that id."""
    if job is None:
        if not log.expires:
            yield Violation(9, log.job_id, "Redis keeps the log of a job that does not exist, without a time limit.")
        return
    if log.lines - log.dropped != log.kept:
        counts = f"{log.lines} lines were written, {log.dropped} dropped, and {log.kept} are there"
        yield Violation(5, log.job_id, f"Its log is not whole: {counts}.")
    ended_long_ago = job.state in FINAL and job.finished_at is not None and now - job.finished_at > LATE
    if ended_long_ago and Token(job.id, job.attempt_number) not in held and not log.expires:
        yield Violation(9, log.job_id, "It has ended and Redis keeps its log without a time limit.")


def check_keys(keys: Collection[str], known: Collection[str]) -> Iterator[Violation]:
    """`keys` are those of Redis without a time limit that are no logs; `known` those that somebody writes."""
    for key in sorted(set(keys) - set(known)):
        yield Violation(9, key, "Nobody needs this key, and it has no time limit.")
