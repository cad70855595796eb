"""Scheduler, database and Redis as plain values around the pure functions that decide: `jobs.lifecycle` and
`jobs.reconcile`. What a pass does, and in which order, is what `jobs/scheduler.py` does."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agent.protocol import AttemptFinished, AttemptRunning, Command, Event, Hello, StartAttempt, StopAttempt
from jobs.invariants import AttemptFacts, ExecutorFacts, JobFacts
from jobs.lifecycle import FINAL, LIVE, Budget, EndReason, State, Trigger, judge, next_state
from jobs.reconcile import Counted, Difference, Said, Stops, Token, differences, sort_out
from tests.jobs.model_agent import CORES, GB

EPOCH = datetime(2026, 11, 24, tzinfo=UTC)
PATIENCE, FORGET = 30.0, 120.0
"""Seconds between two stops of the same attempt, and after which one was never told."""


class Crash(BaseException):
    """The scheduler dies here."""


# --- Redis -------------------------------------------------------------------------------------------------------


class PlainRedis:
    """The streams. Of events each agent's are in their order; whose come first the reader may choose, as if agents
    had been quicker or slower. A consumer group is what was delivered to it."""

    def __init__(self) -> None:
        self.empty()

    def empty(self) -> None:
        self.entries: dict[int, Event] = {}
        self.delivered: dict[str, set[int]] = defaultdict(set)
        self.commands: dict[str, list[Command]] = defaultdict(list)
        self.last_id: dict[str, int] = defaultdict(int)
        self._next = 0

    # --- events

    def write(self, event: Event) -> None:
        self.entries[self._next] = event
        self._next += 1

    def new(self, group: str, executor_ids: Collection[str], count: int) -> list[int]:
        """The oldest entries of these agents that nobody of the group has read; they are delivered now."""
        delivered = self.delivered[group]
        found = [
            number
            for number, event in self.entries.items()
            if number not in delivered and getattr(event, "executor_id", "") in executor_ids
        ]
        delivered.update(found[:count])
        return found[:count]

    def unacknowledged(self, group: str) -> list[int]:
        return [number for number in self.entries if number in self.delivered[group]]

    def acknowledge(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.entries.pop(number, None)

    def lose_events(self, count: int) -> None:
        self.acknowledge(list(self.entries)[-count:])

    # --- commands

    def send(self, executor_id: str, command: Command) -> None:
        """An id that is not greater than the last one is refused."""
        if command.seq > self.last_id[executor_id]:
            self.last_id[executor_id] = command.seq
            self.commands[executor_id].append(command)

    def read(self, executor_id: str, after: int, count: int) -> list[Command]:
        return [command for command in self.commands[executor_id] if command.seq > after][:count]

    def trim(self, executor_id: str, seq: int) -> None:
        self.commands[executor_id] = self.read(executor_id, seq, 10**6)

    def lose_commands(self, executor_id: str, count: int) -> None:
        """As after a crash with data: even the stream's last id is an older one."""
        del self.commands[executor_id][-count:]
        self.last_id[executor_id] = max([0, *(command.seq for command in self.commands[executor_id])])


# --- The database ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PlainAttempt:
    number: int
    executor_id: str
    start_command: int
    state: State = State.STARTING
    stop_command: int | None = None
    reason: str = ""
    exit_code: int | None = None


@dataclass(slots=True)
class PlainJob:
    id: str
    cores: int
    max_retries: int = 0
    at_most_once: bool = False
    state: State = State.PENDING
    attempts: list[PlainAttempt] = field(default_factory=list)
    retries_used: int = 0
    platform_failures: int = 0
    abort_requested: bool = False
    reason: str = ""
    exit_code: int | None = None

    @property
    def live(self) -> PlainAttempt | None:
        return self.attempts[-1] if self.attempts and self.attempts[-1].state in LIVE else None

    def facts(self) -> JobFacts:
        attempts = [
            AttemptFacts(
                item.number,
                item.state,
                item.executor_id,
                item.start_command,
                item.stop_command,
                (),
                item.exit_code,
                item.reason,
            )
            for item in self.attempts
        ]
        ended = EPOCH if self.state in FINAL else None
        return JobFacts(
            self.id, self.state, len(attempts), tuple(attempts), self.cores, GB, self.exit_code, self.reason, ended
        )


@dataclass(slots=True)
class PlainExecutor:
    """`closed`: it holds what does not count."""

    id: str
    last_command: int = 0
    passed_command: int = 0
    lost: bool = False
    closed: bool = False

    def facts(self) -> ExecutorFacts:
        return ExecutorFacts(self.id, self.lost, CORES, 8 * GB, (), self.last_command)


class Rows:
    """The database. `term` is the lease's."""

    def __init__(self, executor_ids: Iterable[str]) -> None:
        self.jobs: dict[str, PlainJob] = {}
        self.executors = {executor_id: PlainExecutor(executor_id) for executor_id in executor_ids}
        self.term = 0

    def live(self) -> Iterator[tuple[PlainJob, PlainAttempt]]:
        for job in self.jobs.values():
            if (attempt := job.live) is not None:
                yield job, attempt

    def find(self, token: Token, executor_id: str) -> tuple[PlainJob, PlainAttempt] | None:
        """The attempt of that name on that executor, where it is the job's current one and live."""
        job = self.jobs[token.job_id]
        attempt = job.live
        if attempt is None or (attempt.number, attempt.executor_id) != (token.number, executor_id):
            return None
        return job, attempt

    def room(self, executor_id: str) -> int:
        return CORES - sum(job.cores for job, attempt in self.live() if attempt.executor_id == executor_id)

    def abort(self, job: PlainJob) -> None:
        """A person's wish."""
        after = next_state(job.state, Trigger.ABORT)
        job.abort_requested = True
        if job.state is State.PENDING:
            job.state, job.reason = after, EndReason.ABORTED_BY_USER.value


# --- The scheduler -----------------------------------------------------------------------------------------------


class PlainScheduler:
    """A leader from its construction until the next one's."""

    def __init__(self, rows: Rows, redis: PlainRedis) -> None:
        self.rows, self.redis = rows, redis
        rows.term += 1
        self.term = rows.term
        self.stops = Stops()
        self.start_over()

    @property
    def group(self) -> str:
        return f"scheduler:{self.term}"

    def start_over(self) -> None:
        self.resend = self.read_again = True

    def run_pass(
        self,
        now: float,
        hear: Collection[str],
        count: int = 1000,
        lost: Collection[str] = (),
        crash: str = "",
    ) -> bool:
        """Hears so many events of those agents; False where another leads. `lost` were silent for too long.

        Raises Crash at the moment named: 'received', 'committed' or 'sent'.
        """
        numbers = self.redis.unacknowledged(self.group) if self.read_again else []
        if self.read_again and not numbers:  # all that its predecessor may have applied, and in one batch as it did
            hear, count, self.read_again = self.rows.executors, 1000, False
        numbers = numbers or self.redis.new(self.group, hear, count)
        _reach("received", crash)
        if self.term != self.rows.term:
            return False
        # The transaction, with what is to be sent after its commit.
        self.commands: dict[str, dict[int, Command]] = defaultdict(dict)
        said = sort_out(self.redis.entries[number] for number in numbers)
        self._apply(said, now)
        self._expire(lost)
        self._place()
        if self.resend:
            self._add_outstanding(self.rows.executors)
        _reach("committed", crash)
        self._send(said, lost)
        self.resend = False
        _reach("sent", crash)
        self.redis.acknowledge(numbers)
        return True

    def _apply(self, said: Said, now: float) -> None:
        for event in said.of_attempts:
            if found := self.rows.find(Token(event.job_id, event.attempt), event.executor_id):
                job, attempt = found
                if isinstance(event, AttemptRunning) and attempt.state is State.STARTING:
                    attempt.state = job.state = next_state(job.state, Trigger.RUN)
                elif isinstance(event, AttemptFinished):
                    self._end(job, attempt, EndReason(event.reason), event.exit_code)
        counted, passed = defaultdict(list), {item.id: item.passed_command for item in self.rows.executors.values()}
        for job, attempt in self.rows.live():
            name = Token(job.id, attempt.number)
            counted[attempt.executor_id].append(Counted(name, attempt.start_command, attempt.stop_command))
        for executor_id, difference in differences(said, counted, passed).items():
            executor, greeting = self.rows.executors[executor_id], said.latest[executor_id]
            executor.passed_command = max(executor.passed_command, greeting.last_command)
            executor.lost, executor.closed = False, bool(difference.superseded)
            self._settle(executor_id, difference, now)
        self._add_outstanding({item.executor_id for item in said.greetings if isinstance(item, Hello)})

    def _settle(self, executor_id: str, difference: Difference, now: float) -> None:
        for token in difference.gone:
            if found := self.rows.find(token, executor_id):
                self._end(*found, EndReason.ATTEMPT_GONE, None)
        for token in difference.superseded:
            if self._may_tell(executor_id, token, now, at_once=True):
                self._tell_to_stop(executor_id, token, "superseded")
        for token in difference.unheeded:
            found = self.rows.find(token, executor_id)
            if self._may_tell(executor_id, token, now, at_once=False) and found:
                found[1].stop_command = self._tell_to_stop(executor_id, token, "abort")

    def _may_tell(self, executor_id: str, token: Token, now: float, at_once: bool) -> bool:
        return self.stops.may_tell(executor_id, token, now, at_once=at_once, patience=PATIENCE, forget=FORGET)

    def _expire(self, lost: Collection[str]) -> None:
        for executor_id in lost:
            self.rows.executors[executor_id].lost = True
        for job, attempt in list(self.rows.live()):
            if attempt.executor_id in lost:
                self._end(job, attempt, EndReason.EXECUTOR_LOST, None)
            elif job.abort_requested and attempt.stop_command is None:
                attempt.stop_command = self._tell_to_stop(attempt.executor_id, Token(job.id, attempt.number), "abort")

    def _end(self, job: PlainJob, attempt: PlainAttempt, reason: EndReason, exit_code: int | None) -> None:
        budget = Budget(job.max_retries, job.retries_used, job.platform_failures, job.abort_requested, job.at_most_once)
        verdict = judge(reason, exit_code, "", budget)
        job.state = next_state(job.state, verdict.trigger)
        job.retries_used, job.platform_failures = verdict.retries_used, verdict.platform_failures
        attempt.state, attempt.exit_code = verdict.attempt_state, exit_code
        attempt.reason = job.reason = verdict.reason.value
        job.exit_code = exit_code

    def _place(self) -> None:
        for job in self.rows.jobs.values():
            for executor in self.rows.executors.values():
                if job.state is not State.PENDING:
                    break
                if not (executor.lost or executor.closed) and job.cores <= self.rows.room(executor.id):
                    job.state = next_state(job.state, Trigger.PLACE)
                    job.reason, job.exit_code = "", None
                    executor.last_command += 1
                    attempt = PlainAttempt(len(job.attempts) + 1, executor.id, executor.last_command)
                    job.attempts.append(attempt)
                    self._add(executor.id, _start(job, attempt))

    # --- commands

    def _tell_to_stop(self, executor_id: str, token: Token, why: str) -> int:
        executor = self.rows.executors[executor_id]
        executor.last_command += 1
        self._add(executor_id, _stop(executor.last_command, token, why))
        return executor.last_command

    def _add(self, executor_id: str, command: Command) -> None:
        self.commands[executor_id].setdefault(command.seq, command)

    def _add_outstanding(self, executor_ids: Collection[str]) -> None:
        for job, attempt in self.rows.live():
            if attempt.executor_id not in executor_ids:
                continue
            passed = self.rows.executors[attempt.executor_id].passed_command
            if attempt.state is State.STARTING and attempt.start_command > passed:
                self._add(attempt.executor_id, _start(job, attempt))
            if attempt.stop_command is not None and attempt.stop_command > passed:
                self._add(attempt.executor_id, _stop(attempt.stop_command, Token(job.id, attempt.number), "abort"))

    def _send(self, said: Said, lost: Collection[str]) -> None:
        for executor_id, greeting in said.latest.items():
            self.redis.trim(executor_id, greeting.last_command)
        for executor_id in lost:
            self.redis.trim(executor_id, self.rows.executors[executor_id].last_command)
        for executor_id, queue in self.commands.items():
            for seq in sorted(queue):
                self.redis.send(executor_id, queue[seq])


def _start(job: PlainJob, attempt: PlainAttempt) -> StartAttempt:
    return StartAttempt(
        seq=attempt.start_command,
        job_id=job.id,
        attempt=attempt.number,
        image="i",
        command=[],
        cpu_millicores=job.cores,
        memory_bytes=GB,
        timeout_seconds=3600,
    )


def _stop(seq: int, token: Token, why: str) -> StopAttempt:
    return StopAttempt(seq=seq, job_id=token.job_id, attempt=token.number, why=why, grace_seconds=1)


def _reach(moment: str, crash: str) -> None:
    if moment == crash:
        raise Crash
