"""Hello and heartbeat to rows: what the scheduler knows of each node, and whether it takes jobs.

Called inside the scheduler's transaction. A heartbeat suffices for a lost executor to come back: it says all that is
compared (what the agent holds, which commands it has passed), and what the node has can change only by a hello.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from agent.protocol import Heartbeat, Hello
from executors.models import Executor, ExecutorEvent
from executors.writes import insert_rows, update_rows

State = Executor.State
Kind = ExecutorEvent.Kind

STOPPING_SUPERSEDED = "It still runs containers of attempts that no longer count; they are being stopped."

_SEEN = ["state", "problem", "last_heartbeat_at", "passed_command", "last_command"]
_DESCRIBED = [
    "name",
    "address",
    "cpu_millicores",
    "memory_bytes",
    "reserve_cpu_millicores",
    "reserve_memory_bytes",
    "gpus",
    "labels",
    "docker_version",
    "agent_version",
]


@dataclass(slots=True)
class Report:
    """What a batch of messages changed. `lines` has one sentence for each change that an operator wants to read;
    `strangers` are executors that sent heartbeats but are not in the database, `executors` all others, as written."""

    lines: list[str] = field(default_factory=list)
    strangers: set[str] = field(default_factory=set)
    executors: dict[str, Executor] = field(default_factory=dict)


def record(messages: Sequence[Hello | Heartbeat], holding_superseded: Collection[str], now: datetime) -> Report:
    """Write what the agents say, in the order they said it.

    Executors in `holding_superseded` get no new jobs until they no longer hold what the database does not count:
    those containers take room that the database believes free.
    """
    report = Report()
    ids = sorted({message.executor_id for message in messages})
    known = {row.id: row for row in Executor.objects.select_for_update().filter(id__in=ids).order_by("id")}
    before = {row.id: (row.state, row.problem) for row in known.values()}
    described = set()
    happened: list[ExecutorEvent] = []
    for message in messages:
        executor = known.get(message.executor_id)
        if isinstance(message, Hello):
            if executor is None:
                executor = known[message.executor_id] = _new(message, now)
                report.lines.append(f"executor {executor.name} ({executor.id}) joined")
                happened.append(ExecutorEvent(executor=executor, kind=Kind.JOINED, at=now))
            _describe(executor, message)
            described.add(executor.id)
        if executor is None:
            report.strangers.add(message.executor_id)
            continue
        executor.last_heartbeat_at = now
        # Never lowered: an agent that lost its state folder begins at 0, and what it once passed is not sent again.
        executor.passed_command = max(executor.passed_command, message.last_command)
        # An agent ahead of the database means that the database was restored from an older copy.
        executor.last_command = max(executor.last_command, message.last_command)
        problem = message.problem or (STOPPING_SUPERSEDED if executor.id in holding_superseded else "")
        executor.state, executor.problem = (State.UNHEALTHY if problem else State.ONLINE), problem
    for row in known.values():
        kind = _news(row, *before.get(row.id, (State.ONLINE, "")))
        if kind is not None:
            report.lines.append(_line(row, kind))
            happened.append(ExecutorEvent(executor=row, kind=kind, at=now, text=row.problem))
    insert_rows(happened)
    update_rows([row for row in known.values() if row.id not in described], _SEEN)
    update_rows([known[executor_id] for executor_id in sorted(described)], _SEEN + _DESCRIBED)
    report.executors = known
    return report


def lose(executors: Iterable[Executor], now: datetime) -> list[str]:
    """Mark executors as lost, and say so, a sentence each. Their attempts are the caller's to close."""
    lost = list(executors)
    for executor in lost:
        executor.state = State.LOST
        executor.problem = f"No heartbeat since {executor.last_heartbeat_at:%Y-%m-%d %H:%M:%S} UTC."
    update_rows(lost, ["state", "problem"])
    insert_rows([ExecutorEvent(executor=executor, kind=Kind.LOST, at=now, text=executor.problem) for executor in lost])
    return [f"executor {executor.name} ({executor.id}) lost: {executor.problem}" for executor in lost]


def _new(hello: Hello, now: datetime) -> Executor:
    return Executor.objects.create(
        id=hello.executor_id,
        name=hello.name[:255],
        cpu_millicores=hello.cpu_millicores,
        memory_bytes=hello.memory_bytes,
        last_heartbeat_at=now,
    )


def _describe(executor: Executor, hello: Hello) -> None:
    executor.name, executor.address = hello.name[:255], hello.address[:255]
    executor.cpu_millicores, executor.memory_bytes = hello.cpu_millicores, hello.memory_bytes
    executor.reserve_cpu_millicores = hello.reserve_cpu_millicores
    executor.reserve_memory_bytes = hello.reserve_memory_bytes
    executor.gpus = [dataclasses.asdict(gpu) for gpu in hello.gpus]
    executor.labels = hello.labels
    executor.docker_version, executor.agent_version = hello.docker_version[:64], hello.agent_version[:64]


def _news(executor: Executor, state: str, problem: str) -> Kind | None:
    """What happened to an executor that was in `state` with `problem` before; None where nothing did."""
    if executor.state == State.UNHEALTHY and problem != executor.problem:
        return Kind.UNHEALTHY
    if executor.state == State.ONLINE and state != State.ONLINE:
        return Kind.RETURNED if state == State.LOST else Kind.WELL
    return None


def _line(executor: Executor, kind: Kind) -> str:
    name = f"executor {executor.name} ({executor.id})"
    if kind is Kind.UNHEALTHY:
        return f"{name} unhealthy: {executor.problem}"
    return f"{name} is back" if kind is Kind.RETURNED else f"{name} is well again"
