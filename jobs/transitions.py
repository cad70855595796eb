"""The one place that writes the state of a job or an attempt. Every change asks `jobs/lifecycle.py` first.

A person's wish comes through `request_abort`. All else is the scheduler's: it opens a transaction, loads what it is
going to change into a `Ledger` (which locks the rows), calls one method for each thing that happened, and writes
everything at once. Messages about any but the current, live attempt of a job find nothing in the ledger, so hearing
something twice changes nothing.
"""

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.utils.dateparse import parse_datetime

from agent.protocol import MOST_LAYERS, AttemptFinished, AttemptProgress, AttemptRunning, Command
from executors.models import Executor
from executors.rows import made, read, read_with
from executors.writes import insert_rows, one_of, update_rows
from jobs import commands, lifecycle
from jobs.lifecycle import Budget, EndReason, State, Trigger
from jobs.models import Attempt, ContainerSettings, Job
from jobs.scheduling.placement import Placement

# What a change to a row needs to know of it, and what it may write. Fewer columns cost less on either side.
_JOB_PLACED = ["state", "reason", "reason_text", "exit_code", "attempt_number", "executor", "not_before"]
_JOB_LIVE = [
    "id", "state", "reason", "reason_text", "exit_code", "submitted_at", "started_at", "finished_at", "not_before",
    "abort_requested_at", "retries_used", "platform_failures", "max_retries", "at_most_once", "cpu_millicores",
    "memory_bytes", "timeout_seconds", "executor_id", "priority", "shape", "gpu_type", "gpu_count", "labels",
]  # fmt: skip
_JOB_TO_PLACE = [*_JOB_LIVE, "name", "image", "command", "env", "working_dir", "attempt_number"]
_JOB_CHANGED = [
    "state", "reason", "reason_text", "exit_code", "started_at", "finished_at", "retries_used", "platform_failures",
    "not_before",
]  # fmt: skip
_ATTEMPT_CHANGED = [
    "state", "reason", "reason_text", "progress", "layers", "exit_code", "oom_killed", "container_id", "accepted_at",
    "pulled_at", "created_at", "running_since", "started_at", "finished_at", "use", "stop_command", "stop_why",
]  # fmt: skip
_ATTEMPT_LIVE = [
    "id", "job_id", "number", "executor_id", "executor_name", "gpu_indices", "placed_at", "start_command",
    *_ATTEMPT_CHANGED,
]  # fmt: skip
_CHECKED = ["id", "executor_id", "state", "stop_command"]
"""What would differ of an attempt at hand if anybody else had written it: forgetting an executor, or a newer leader."""
_NEW_ATTEMPT = {field.attname: field.get_default() for field in Attempt._meta.concrete_fields}

_STOPPED_FOR = {"timeout": EndReason.TIMEOUT, "start_timeout": EndReason.START_TIMEOUT}
"""What it means that an agent stopped an attempt, by why it was told to, where that is not a person's wish."""

MOST_SETTINGS = 16 * 1024
"""Characters of a container's settings that are kept; what agents send stays below."""


def request_abort(job: Job, now: datetime) -> None:
    """A person wants the job ended: ABORTED at once when PENDING, else noted (once) for the scheduler, which stops it.

    Inside the caller's transaction, with the job's row locked. Raises IllegalTransition for a job that is final.
    """
    after = lifecycle.next_state(State(job.state), Trigger.ABORT)
    if job.abort_requested_at is None:
        job.abort_requested_at = now
    if job.state == State.PENDING:
        job.state, job.finished_at = after.value, now
        job.reason, job.reason_text = EndReason.ABORTED_BY_USER.value, lifecycle.describe(EndReason.ABORTED_BY_USER)
        job.not_before = None
    job.save(update_fields=["abort_requested_at", "state", "finished_at", "reason", "reason_text", "not_before"])


@dataclass(slots=True)
class Outcome:
    """What remains to be done after the commit: `commands` (by executor) to send, `lines` to log, changed rows to
    announce; `strangers` are the agents that are to introduce themselves; for the charts, `waits` are seconds from
    submission to the first start, `ended` counts jobs by their final state.

    For whoever keeps track of the rows: `touched` are the attempts that were made or changed, by job, with their jobs,
    `executors` those that were written; both as the transaction leaves them."""

    commands: dict[str, list[Command]] = field(default_factory=lambda: defaultdict(list))
    lines: list[str] = field(default_factory=list)
    changed_jobs: set[UUID] = field(default_factory=set)
    changed_executors: set[str] = field(default_factory=set)
    strangers: set[str] = field(default_factory=set)
    waits: list[float] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    touched: dict[UUID, Attempt] = field(default_factory=dict)
    executors: dict[str, Executor] = field(default_factory=dict)

    def add(self, other: "Outcome") -> None:
        for executor_id, queue in other.commands.items():
            self.commands[executor_id] += queue
        self.lines += other.lines
        self.changed_jobs |= other.changed_jobs
        self.changed_executors |= other.changed_executors
        self.strangers |= other.strangers
        self.waits += other.waits
        self.ended.update(other.ended)
        self.touched.update(other.touched)
        self.executors.update(other.executors)


class Ledger:
    """The jobs and live attempts that a transaction of the scheduler changes. `outcome` is for after its commit.

    `at_hand` are live attempts, by job, as the leader's own transactions left them: those are locked and looked at for
    what others may have changed, and not read again. Whoever rolls back what was done here forgets them.
    """

    def __init__(self, now: datetime, at_hand: Mapping[UUID, Attempt] | None = None) -> None:
        self.now = now
        self.outcome = Outcome()
        self._at_hand = at_hand or {}
        self._live: dict[UUID, Attempt] = {}
        self._dirty: dict[UUID, Attempt] = {}
        self._settings: list[ContainerSettings] = []
        self._counters: dict[str, Executor] = {}

    def load(self, which: Q) -> list[Attempt]:
        """Lock and return the live attempts that `which` (over Attempt) selects, with their jobs."""
        self.write()
        live = Attempt.objects.filter(finished_at__isnull=True).order_by("job_id")
        rows = live.filter(which).select_for_update()
        found: dict[UUID, Attempt | None] = {}
        for job_id, aborted_at, *known in rows.values_list("job_id", "job__abort_requested_at", *_CHECKED):
            attempt = found[job_id] = self._as_known(job_id, known)
            if attempt is not None:
                attempt.job.abort_requested_at = aborted_at
        unknown = [job_id for job_id, attempt in found.items() if attempt is None]
        if unknown:
            whole = read_with(live.filter(one_of("job_id", unknown)), _ATTEMPT_LIVE, "job", _JOB_LIVE)
            found.update((attempt.job_id, attempt) for attempt in whole)
        attempts = [attempt for attempt in found.values() if attempt is not None]
        self._live.update((attempt.job_id, attempt) for attempt in attempts)
        return attempts

    def _as_known(self, job_id: UUID, found: list[Any]) -> Attempt | None:
        attempt = self._at_hand.get(job_id)
        return attempt if attempt is not None and [getattr(attempt, name) for name in _CHECKED] == found else None

    def find(self, job_id: UUID, number: int, executor_id: str) -> Attempt | None:
        """The loaded attempt of this name on this executor, if it is the job's current one and live."""
        attempt = self._live.get(job_id)
        if attempt is None or attempt.number != number or attempt.executor_id != executor_id:
            return None
        return attempt

    # --- What can happen -------------------------------------------------------------------------------------

    def lock_executors(self, executor_ids: set[str]) -> dict[str, Executor]:
        """Lock executors on which something is to be placed: as they are now, by id, without those forgotten since."""
        self._lock_counters(executor_ids)
        return self._counters

    def place(self, placements: Sequence[Placement]) -> list[Attempt]:
        """Give each job that is still PENDING an attempt on its executor, and number its start command."""
        chosen = {placement.job_id: placement for placement in placements}
        rows = Job.objects.select_for_update(of=("self",)).filter(one_of("id", chosen), state=State.PENDING)
        jobs = {job.id: job for job in read(rows.order_by("id"), _JOB_TO_PLACE)}
        executor_ids = {placement.executor_id for placement in placements}
        if not executor_ids <= self._counters.keys():
            self._lock_counters(executor_ids)
        attempts = []
        for placement in placements:
            job, executor = jobs.get(placement.job_id), self._counters.get(placement.executor_id)
            if job is not None and executor is not None:
                attempts.append(self._place(job, executor, placement.gpu_indices))
        insert_rows(attempts)
        update_rows([attempt.job for attempt in attempts], _JOB_PLACED)
        self._write_counters()
        return attempts

    def _place(self, job: Job, executor: Executor, gpu_indices: list[int]) -> Attempt:
        job.state = lifecycle.next_state(State(job.state), Trigger.PLACE).value
        job.reason, job.reason_text, job.exit_code, job.not_before = "", "", None, None
        job.attempt_number += 1
        job.executor_id = executor.id
        values = {
            **_NEW_ATTEMPT,
            "job_id": job.id,
            "number": job.attempt_number,
            "executor_id": executor.id,
            "executor_name": executor.name,
            "gpu_indices": gpu_indices,
            "placed_at": self.now,
            "start_command": self._next_command(executor.id),
        }
        attempt = made(Attempt, values, {"job": job})
        self.outcome.commands[executor.id].append(commands.start(attempt))
        self.outcome.lines.append(
            f"placed {job.id} on {executor.name}" + (f", GPUs {gpu_indices}" if gpu_indices else "")
        )
        self._touch(attempt)
        return attempt

    def progress(self, attempt: Attempt, event: AttemptProgress) -> None:
        """What a STARTING attempt is doing, in words."""
        if attempt.state == State.STARTING:
            attempt.progress = clean(event.detail, 300)
            attempt.layers = [storable(asdict(layer)) for layer in event.layers[:MOST_LAYERS]]
            _note_start(attempt, event)
            self._change(attempt)

    def running(self, attempt: Attempt, event: AttemptRunning) -> None:
        """The attempt's container runs."""
        if attempt.state == State.RUNNING:
            return
        job = attempt.job
        if job.started_at is None:
            self.outcome.waits.append(max(0.0, (self.now - job.submitted_at).total_seconds()))
        attempt.state = job.state = lifecycle.next_state(State(job.state), Trigger.RUN).value
        attempt.running_since = self.now
        attempt.started_at = job.started_at = engine_time(event.started_at) or self.now
        attempt.container_id, attempt.progress = clean(event.container_id, 64), ""
        attempt.layers = []
        _note_start(attempt, event)
        self._note_settings(attempt, event.settings)
        self.outcome.lines.append(f"job {job.id} RUNNING on {attempt.executor_name}")
        self._change(attempt)

    def finish(self, attempt: Attempt, event: AttemptFinished) -> None:
        """The attempt ended as its agent says; the job ends or is queued again."""
        reason, message = end_reason(event), clean(event.message, 4000)
        if reason is EndReason.STOPPED and attempt.stop_why in _STOPPED_FOR:
            reason, message = _STOPPED_FOR[attempt.stop_why], ""
        attempt.started_at = engine_time(event.started_at) or attempt.started_at
        attempt.container_id = clean(event.container_id, 64) or attempt.container_id
        attempt.oom_killed = event.oom_killed
        attempt.use = asdict(event.use) if event.use else None
        if attempt.state == State.STARTING:
            self._note_settings(attempt, event.settings)
        _note_start(attempt, event)
        self._end(attempt, reason, event.exit_code, message, engine_time(event.finished_at))

    def close(self, attempt: Attempt, reason: EndReason, message: str = "") -> None:
        """The attempt ended without its agent saying so.

        How long it ran is counted by one clock, the scheduler's: the node's, by which it started, may be another.
        """
        ran = self.now - attempt.running_since if attempt.running_since else None
        finished_at = attempt.started_at + ran if attempt.started_at and ran else None
        self._end(attempt, reason, None, message, finished_at)

    def _end(
        self, attempt: Attempt, reason: EndReason, exit_code: int | None, message: str, finished_at: datetime | None
    ) -> None:
        job = attempt.job
        budget = Budget(
            max_retries=job.max_retries,
            retries_used=job.retries_used,
            platform_failures=job.platform_failures,
            abort_requested=job.abort_requested_at is not None,
            at_most_once=job.at_most_once,
        )
        verdict = lifecycle.judge(reason, exit_code, message, budget)
        after = lifecycle.next_state(State(job.state), verdict.trigger)
        ended_at = finished_at or self.now

        attempt.state, attempt.reason, attempt.reason_text = verdict.attempt_state, verdict.reason, verdict.sentence
        attempt.exit_code, attempt.finished_at, attempt.progress = exit_code, ended_at, ""
        attempt.layers = []
        job.state, job.reason, job.reason_text = after.value, verdict.reason.value, verdict.sentence
        job.retries_used, job.platform_failures = verdict.retries_used, verdict.platform_failures
        job.exit_code, job.started_at = exit_code, attempt.started_at or job.started_at
        line = f"job {job.id} {after}"
        if after is State.PENDING:
            job.not_before = self.now + timedelta(seconds=verdict.delay_seconds)
            line = f"job {job.id} queued again"
        else:
            job.finished_at = ended_at
            self.outcome.ended[after.value] += 1
        self.outcome.lines.append(f"{line} ({verdict.reason}): {verdict.sentence}")
        self._change(attempt)
        del self._live[job.id]

    def request_stop(self, attempt: Attempt, why: str) -> None:
        """Have the agent stop the attempt; `why` as StopAttempt has it. Asking again gives the command a new number."""
        if attempt.executor_id is None:
            return
        attempt.stop_command, attempt.stop_why = self._next_command(attempt.executor_id), why
        self.outcome.commands[attempt.executor_id].append(
            commands.stop(attempt.stop_command, str(attempt.job_id), attempt.number, why)
        )
        self.outcome.lines.append(f"stopping {attempt.job_id} on {attempt.executor_name} ({why})")
        self._change(attempt)

    def stop_superseded(self, executor_id: str, job_id: str, number: int) -> None:
        """Have an agent stop what the database does not count (any more). Nothing of it is written but the number."""
        seq = self._next_command(executor_id)
        self.outcome.commands[executor_id].append(commands.stop(seq, job_id, number, "superseded"))
        self.outcome.lines.append(f"stopping {job_id} attempt {number} on executor {executor_id} (superseded)")

    # --- Writing ---------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write what has changed since the last time."""
        attempts = list(self._dirty.values())
        self._dirty = {}
        update_rows(attempts, _ATTEMPT_CHANGED)
        update_rows([attempt.job for attempt in attempts], _JOB_CHANGED)
        if self._settings:
            insert_rows(self._settings)
            self._settings = []
        self._write_counters()

    def _note_settings(self, attempt: Attempt, settings: dict[str, Any]) -> None:
        if settings:
            self._settings.append(ContainerSettings(attempt=attempt, applied=bounded(settings)))

    def _change(self, attempt: Attempt) -> None:
        self._dirty[attempt.job_id] = attempt
        self._touch(attempt)

    def _touch(self, attempt: Attempt) -> None:
        job_id, executor_id = attempt.job_id, attempt.executor_id  # Django takes its time to look them up
        self.outcome.touched[job_id] = attempt
        self.outcome.changed_jobs.add(job_id)
        if executor_id:
            self.outcome.changed_executors.add(executor_id)

    def _next_command(self, executor_id: str) -> int:
        if executor_id not in self._counters:
            self._lock_counters({executor_id})
        executor = self._counters[executor_id]
        executor.last_command += 1
        return executor.last_command

    def _lock_counters(self, executor_ids: set[str]) -> None:
        self._write_counters()
        rows = Executor.objects.select_for_update().filter(id__in=executor_ids).order_by("id")
        self._counters = {row.id: row for row in rows}

    def _write_counters(self) -> None:
        update_rows(list(self._counters.values()), ["last_command"])
        self._counters = {}


def end_reason(event: AttemptFinished) -> EndReason:
    """The event's reason; for a word of a newer agent that this version does not know, what the exit code says."""
    try:
        return EndReason(event.reason)
    except ValueError:
        if event.exit_code is None:
            return EndReason.ENGINE_ERROR
        return EndReason.COMPLETED if event.exit_code == 0 else EndReason.EXIT_NONZERO


def _note_start(attempt: Attempt, event: AttemptProgress | AttemptRunning | AttemptFinished) -> None:
    """When the agent took it, and had image and container; an older agent does not say."""
    attempt.accepted_at = engine_time(event.accepted_at) or attempt.accepted_at
    attempt.pulled_at = engine_time(event.pulled_at) or attempt.pulled_at
    if not isinstance(event, AttemptProgress):
        attempt.created_at = engine_time(event.created_at) or attempt.created_at


@functools.lru_cache(maxsize=4096)
def engine_time(text: str | None) -> datetime | None:
    """A time as the engine gives it; None for none, for one that cannot be read, and for the engine's 'never'."""
    if not text:
        return None
    try:
        time = parse_datetime(text)
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None and time.year > 1970 else None


def clean(text: str, limit: int) -> str:
    """Text from a node, cut to the column and without the one character that PostgreSQL does not store."""
    return text.replace("\0", "")[:limit]


def storable(value: Any) -> Any:
    """JSON from a node, without the one character that PostgreSQL does not store."""
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value.replace("\0", "") if isinstance(value, str) else value


def bounded(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a container as they may be stored."""
    size = len(json.dumps(settings))
    if size > MOST_SETTINGS:
        return {"": f"{size} characters of settings are too many to be kept"}
    stored: dict[str, Any] = storable(settings)
    return stored
