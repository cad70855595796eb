"""The messages between scheduler and agents, and the Redis keys they travel by.

The one module that both sides import. Commands go from the scheduler to one agent, in the stream
`executor:{id}:commands`; events come back from all agents (and, as wake-ups, from the web processes) in the
stream `events`. Each stream entry has one field, `m`: a JSON object `{"v": 1, "kind": …, …fields}`.

Units: CPU in millicores, memory in bytes, durations in seconds, times as RFC 3339 UTC strings, progress in percent.
"""

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from agent.codec import build, fields_of

VERSION = 1
FIELD = b"m"


class UnknownMessage(ValueError):
    """A message of a kind that this version does not know: log it and skip it."""


class MalformedMessage(ValueError):
    """A message that is not JSON, or lacks a field its kind requires: log it and skip it."""


# --- What messages are made of ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU device of a node. `index` is nvidia-smi's; `uuid` is what Docker is asked for."""

    index: int
    uuid: str
    model: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class HeldAttempt:
    """An attempt that an agent has accepted and not yet reported as finished."""

    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image that is being pulled. `status` is `waiting`, `downloading`, `downloaded`, `unpacking` or
    `done`; `current` of `total` bytes of that are done, 0 of 0 where nobody says."""

    id: str
    status: str
    current: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Use:
    """What an attempt's container used over its life, as far as an agent saw it; 0 also where nobody says.

    CPU, memory and GPUs at their highest (`gpu_percent` is the average of its devices), the others in all.
    `held_back` of `samples` looks found it at its CPU limit.
    """

    samples: int
    cpu_millicores: int = 0
    memory_bytes: int = 0
    gpu_percent: int = 0
    gpu_memory_bytes: int = 0
    cpu_seconds: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    held_back: int = 0


AT_LIMIT = 0.93
"""The part of its CPU limit from which on a container counts as held back by it."""


# --- Commands: scheduler to agent ------------------------------------------------------------------------------
#
# Every command to one executor has a number, `seq`, growing by one and given by the database in the transaction that
# decided the command. The entry's id in the stream is `{seq}-0`: Redis itself refuses a second copy of a command,
# and "the agent has passed command N" is a comparison of two integers.


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAttempt:
    kind: ClassVar[str] = "start"
    seq: int
    job_id: str
    attempt: int
    image: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    working_dir: str = ""
    cpu_millicores: int
    memory_bytes: int
    gpu_indices: list[int] = field(default_factory=list)
    timeout_seconds: int
    job_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAttempt:
    """Stop an attempt: SIGTERM, then SIGKILL after `grace_seconds`.

    `why` is `abort` (a person asked), `timeout` (the scheduler's own clock), `start_timeout` (the same, before it ran)
    or `superseded` (the database no longer counts this attempt). An attempt that was accepted and has no container yet
    is dropped and reported as stopped.
    """

    kind: ClassVar[str] = "stop"
    seq: int
    job_id: str
    attempt: int
    why: str
    grace_seconds: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefetch:
    """Pull an image before a job needs it."""

    kind: ClassVar[str] = "prefetch"
    seq: int
    image: str


Command = StartAttempt | StopAttempt | Prefetch


# --- Events: agent to scheduler --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First event after an agent starts, reconnects or finds Redis emptied: all there is to know of the node."""

    kind: ClassVar[str] = "hello"
    executor_id: str
    name: str
    address: str
    cpu_millicores: int
    memory_bytes: int
    reserve_cpu_millicores: int = 0
    reserve_memory_bytes: int = 0
    gpus: list[Gpu] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    docker_version: str = ""
    agent_version: str = ""
    last_command: int
    held: list[HeldAttempt] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """`last_command` is the seq of the last command the agent processed; `problem` says why it is unhealthy, or ''."""

    kind: ClassVar[str] = "heartbeat"
    executor_id: str
    last_command: int
    held: list[HeldAttempt] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptProgress:
    """What an attempt that is not running yet is doing, in words: 'pulling alpine:3.20: 40 %'.

    `layers` while an image is pulled, MOST_LAYERS at most; `accepted_at` and `pulled_at` by the agent's clock.
    """

    kind: ClassVar[str] = "attempt_progress"
    executor_id: str
    job_id: str
    attempt: int
    detail: str
    layers: list[Layer] = field(default_factory=list)
    accepted_at: str | None = None
    pulled_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRunning:
    """The container runs. `accepted_at` and `pulled_at` (None where the image was there) are by the agent's clock,
    `created_at` and `started_at` by the engine's. `settings` is what Docker applied, by Docker's own names, without the
    values of environment variables."""

    kind: ClassVar[str] = "attempt_running"
    executor_id: str
    job_id: str
    attempt: int
    container_id: str
    started_at: str
    accepted_at: str | None = None
    pulled_at: str | None = None
    created_at: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFinished:
    """The last event of an attempt. `reason` is one of `jobs.lifecycle.EndReason`; `message` a sentence for a person.

    `exit_code`, `oom_killed` and the times are the engine's own, None where no container ever ran; `oom_killed` also
    where the engine lost word of it, and the kernel has it. For `accepted_at`, `pulled_at` and `created_at` see
    AttemptRunning, and for `settings`, which come here where it ended at once.
    """

    kind: ClassVar[str] = "attempt_finished"
    executor_id: str
    job_id: str
    attempt: int
    reason: str
    message: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    container_id: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    accepted_at: str | None = None
    pulled_at: str | None = None
    created_at: str | None = None
    use: Use | None = None
    settings: dict[str, Any] = field(default_factory=dict)


# --- Events: web to scheduler ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """The database has something new for the scheduler, which reads what is named here and nothing else.

    `job_ids`: submitted, aborted, moved in the queue. `first_job_id` to `last_job_id`: jobs submitted together, those
    PENDING with an id from the one to the other. `executor_ids`: changed or forgotten by an operator. Where nothing is
    named everything is compared. A wake that gets lost is made up for by the scheduler's audit, every
    JOB_POLL_INTERVAL or a little later.
    """

    kind: ClassVar[str] = "wake"
    job_ids: list[str] = field(default_factory=list)
    first_job_id: str = ""
    last_job_id: str = ""
    executor_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRequest:
    """Run a pass and RPUSH its result, a JSON object, to the list `reply_to`, which the asker pops."""

    kind: ClassVar[str] = "pass_request"
    reply_to: str


Event = Hello | Heartbeat | AttemptProgress | AttemptRunning | AttemptFinished | Wake | PassRequest
Message = Command | Event

_KINDS: dict[str, type] = {cls.kind: cls for cls in get_args(Message)}


# --- On the wire -----------------------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """The message as JSON, for the field `m` of a stream entry."""
    return _JSON.encode({"v": VERSION, "kind": message.kind, **fields_of(message)}).encode()


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=fields_of)


def decode(data: bytes) -> Message:
    """The message that `encode` made; unknown fields are ignored.

    Raises UnknownMessage for a kind this version does not know and MalformedMessage for anything else unreadable.
    """
    try:
        body = json.loads(data)
        kind = body["kind"]
        cls = _KINDS.get(kind)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedMessage(f"not a message: {data[:200]!r}") from error
    if cls is None:
        raise UnknownMessage(f"unknown kind of message: {kind!r}")
    try:
        message: Message = build(cls, body)
    except TypeError as error:
        raise MalformedMessage(str(error)) from error
    return message


# --- Redis keys ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """Every Redis key and pub/sub channel of the system. `prefix` lets several clusters share one Redis."""

    prefix: str = ""

    @property
    def events(self) -> str:
        return f"{self.prefix}events"

    def commands(self, executor_id: str) -> str:
        return f"{self.prefix}executor:{executor_id}:commands"

    def samples(self, executor_id: str) -> str:
        """Stream of utilisation samples. An agent that finds it gone says hello: Redis was emptied, or the scheduler,
        which does not know the agent, deleted it to be told."""
        return f"{self.prefix}executor:{executor_id}:samples"

    def images(self, executor_id: str) -> str:
        """String, expires: JSON of the images in the node's cache, as `[[name, bytes], …]`, largest first."""
        return f"{self.prefix}executor:{executor_id}:images"

    @property
    def history(self) -> str:
        """Capped stream: the cluster in numbers every ten seconds of the last day (`executors/history.py`), from the
        scheduler; the charts of the dashboard. An entry's id is its time, so that two schedulers write it once."""
        return f"{self.prefix}history"

    def job_samples(self, job_id: str) -> str:
        """Capped stream, expires JOB_SAMPLES_SECONDS after the last: what a job's containers use, from the agent."""
        return f"{self.prefix}job_samples:{job_id}"

    def job_logs(self, job_id: str) -> str:
        return f"{self.prefix}job_logs:{job_id}"

    def job_logs_meta(self, job_id: str) -> str:
        """Hash: `lines` ever written, `bytes` kept, `dropped` lines that are no longer in the list, `complete` 0 or 1;
        `archived` lines (written by the archiver), bytes `unarchived`, `begin:N` the first line of attempt N; and the
        agent's own bookkeeping (`agent/logs.py`). `tail_stdout` and `tail_stderr`: what each stream has printed behind
        its last newline so far, its last MOST_TAIL bytes; not counted anywhere, gone when the attempt ends."""
        return f"{self.prefix}job_logs_meta:{job_id}"

    @property
    def logs_to_archive(self) -> str:
        """Sorted set: ids of jobs of whose log something is not archived yet, by the time (Redis's, in seconds) at
        which to archive it; 0 for at once."""
        return f"{self.prefix}logs_to_archive"

    @property
    def archive_doubts(self) -> str:
        """Sorted set: names of files in the archive that may not count (any more), by (Redis's) time of doubt."""
        return f"{self.prefix}archive_doubts"

    @property
    def archive_trouble(self) -> str:
        """String, expires: why the archive takes nothing at present."""
        return f"{self.prefix}archive_trouble"

    def log_channel(self, job_id: str) -> str:
        """Pub/sub: a message here says that `job_logs:{job_id}` grew or is complete."""
        return f"{self.prefix}live:logs:{job_id}"

    @property
    def changes_channel(self) -> str:
        """Pub/sub: JSON `{"jobs": [ids], "executors": [ids]}` of rows that changed in the database."""
        return f"{self.prefix}live:changes"

    def reply(self, request_id: str) -> str:
        return f"{self.prefix}reply:{request_id}"


ARCHIVE_AFTER_BYTES = 1024 * 1024
ARCHIVE_AFTER_SECONDS = 30
"""A log is archived when this much of it is not, or its end came, or after this long. Where it grows slowly, pieces of
the archive are joined later on."""

NOTED = "stderr [workload-runner]"
"""Between time and text of a line that the system itself puts into a log."""
NOTHING_SHIPPED = """'shipped', 0, 'first', '', 'last', '',
    'stdout_newlines', 0, 'stdout_tail', 0, 'stderr_newlines', 0, 'stderr_tail', 0"""
"""In Lua, the fields of job_logs_meta that say how far an attempt's log has come, as they are at its beginning."""
MOST_TAIL = 4096
MOST_LAYERS = 40

JOB_SAMPLES_KEPT = 5000
JOB_SAMPLES_SECONDS = 24 * 3600
