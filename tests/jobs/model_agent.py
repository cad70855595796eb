"""An agent that keeps an agent's promises and nothing more, on whatever wire: for tests of any history.

Commands are taken in order and once, what is held is on disk, events wait while Redis is away, and after that a hello
comes, with what ended lately. Everything else is the test's to decide.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis

from agent.protocol import (
    FIELD,
    AttemptFinished,
    AttemptRunning,
    Command,
    Event,
    Heartbeat,
    HeldAttempt,
    Hello,
    Keys,
    StartAttempt,
    StopAttempt,
    decode,
    encode,
)
from jobs.reconcile import Token

CORES = 2000
"""Millicores of each node; memory is never short."""
GB = 1024**3


class Wire(Protocol):
    """Redis, as far as an agent needs it."""

    def write(self, event: Event) -> None: ...

    def read(self, executor_id: str, after: int, count: int) -> Sequence[Command]: ...


class RedisWire:
    """The real one."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def write(self, event: Event) -> None:
        self.client.xadd(Keys().events, {FIELD: encode(event)})

    def read(self, executor_id: str, after: int, count: int) -> list[Command]:
        entries: Any = self.client.xrange(Keys().commands(executor_id), min=f"({after}-0", count=count)
        commands = [decode(fields[FIELD]) for _, fields in entries]
        return [command for command in commands if isinstance(command, Command)]


@dataclass(slots=True)
class Held:
    start: StartAttempt
    running: bool = False
    stop: bool = False
    end: AttemptFinished | None = None
    """Set where its container has ended and that was not yet written to Redis."""


class ModelAgent:
    """Its disk is `held` and `last_command`; its memory `waiting` and `ended`. `runs` is what Docker has seen."""

    def __init__(self, wire: Wire, executor_id: str) -> None:
        self.wire, self.id = wire, executor_id
        self.held: dict[Token, Held] = {}
        self.last_command = 0
        self.connected = True
        self.waiting: list[Event] = []
        self.ended: list[AttemptFinished] = []
        self.runs: Counter[Token] = Counter()
        self.sent: list[Event] = []
        self.truth: dict[Token, str] = {}
        """What really became of each attempt here."""

    # --- what it says

    def send(self, event: Event) -> None:
        self.waiting.append(event)
        self.flush()

    def flush(self) -> None:
        while self.connected and self.waiting:
            event = self.waiting.pop(0)
            self.wire.write(event)
            self.sent.append(event)
            if isinstance(event, AttemptFinished):
                self.held.pop(Token(event.job_id, event.attempt), None)

    def repeat(self, count: int) -> None:
        """What was written and not answered is written again. A hello is answered before commands are taken."""
        for event in self.sent[-count:]:
            if not (isinstance(event, Hello) and event.last_command < self.last_command):
                self.wire.write(event)

    def counted(self) -> list[HeldAttempt]:
        return [HeldAttempt(*token) for token, held in self.held.items() if held.end is None]

    def beat(self) -> None:
        if self.connected:
            self.send(Heartbeat(executor_id=self.id, last_command=self.last_command, held=self.counted()))

    def hello(self) -> None:
        for event in self.ended:
            self.send(event)
        said = {"executor_id": self.id, "last_command": self.last_command, "held": self.counted()}
        self.send(Hello(name=self.id, address="", cpu_millicores=CORES, memory_bytes=8 * GB, **said))  # type: ignore[arg-type]

    # --- what it is told

    def receive(self, count: int) -> None:
        if not self.connected:
            return
        for command in self.wire.read(self.id, self.last_command, count):
            if isinstance(command, StartAttempt):
                self.accept(command)
            elif isinstance(command, StopAttempt) and (held := self.held.get(Token(command.job_id, command.attempt))):
                held.stop = True
            self.last_command = command.seq

    def accept(self, start: StartAttempt) -> None:
        token = Token(start.job_id, start.attempt)
        if token in self.held:
            return
        if sum(item.start.cpu_millicores for item in self.held.values() if not item.end) + start.cpu_millicores > CORES:
            self.finish(token, "start_refused", None)
        else:
            self.held[token] = Held(start)

    # --- what happens on its node

    def work(self, token: Token, exit_code: int) -> None:
        """One step of an attempt's life."""
        held = self.held[token]
        if held.end:
            return
        if held.stop:
            self.finish(token, "stopped", 143 if held.running else None)
        elif not held.running:
            held.running = True
            self.runs[token] += 1
            said = {"executor_id": self.id, "job_id": token.job_id, "attempt": token.number}
            self.send(AttemptRunning(**said, container_id="c", started_at="2026-11-24T13:00:00Z"))  # type: ignore[arg-type]
        else:
            self.finish(token, "exit_nonzero" if exit_code else "completed", exit_code)

    def finish(self, token: Token, reason: str, exit_code: int | None) -> None:
        event = AttemptFinished(
            executor_id=self.id, job_id=token.job_id, attempt=token.number, reason=reason, exit_code=exit_code
        )
        self.truth[token] = reason
        if token in self.held:
            self.held[token].end = event
        self.ended.append(event)
        self.send(event)

    def restart(self) -> None:
        """Killed and started again: what was not written is found again from the containers on the node."""
        self.waiting, self.ended, self.sent = [], [], []
        for held in self.held.values():
            if held.end:
                self.ended.append(held.end)
        self.hello()

    def reconnect(self) -> None:
        """Redis answers again, maybe emptied."""
        self.connected = True
        self.flush()
        self.hello()
        self.beat()

    def load(self) -> int:
        return sum(held.start.cpu_millicores for held in self.held.values() if held.running and not held.end)


def assert_runs_are_allowed(agents: Collection[ModelAgent], once: Collection[str]) -> None:
    """Invariants 2 and 3, of what has truly run on all nodes; `once` are the jobs that may run at most once."""
    runs = sum((agent.runs for agent in agents), Counter())
    assert not runs or max(runs.values()) == 1, "2: an attempt ran twice"
    jobs = Counter(token.job_id for token in runs)
    assert all(jobs[job_id] <= 1 for job_id in once), "2: a job that must run at most once ran again"
    assert all(agent.load() <= CORES for agent in agents), "3: a node is over-committed"
