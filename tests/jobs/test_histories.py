"""Any history of crashes, losses, repetitions and delays keeps the invariants, and ends with every job final.

Hypothesis drives the real scheduler over a real database and Redis. The agents are models that keep the agent's
promises and nothing more: commands are taken in order and once, what is held is on disk, events wait while Redis is
away, and after that a hello comes, with what ended lately. Everything else is left to chance.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import redis
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.protocol import (
    FIELD,
    AttemptFinished,
    AttemptRunning,
    Event,
    Heartbeat,
    HeldAttempt,
    Hello,
    Keys,
    StartAttempt,
    StopAttempt,
    Wake,
    decode,
    encode,
)
from executors.models import Executor
from jobs import crashpoints, transitions
from jobs.invariants import check_executor, check_job
from jobs.leadership import LostLeadership
from jobs.lifecycle import FINAL
from jobs.management.commands.checkinvariants import all_jobs, executor_facts
from jobs.models import Attempt, Job
from jobs.reconcile import Token
from jobs.scheduler import Scheduler
from tests.jobs.passes import Clock, new_leader, submit

GB = 1024**3
CORES = 2000
NODES = ("n1", "n2")
LONG = 120.0
"""Seconds after which whoever was not heard is lost; a scheduler that made no pass for so long would begin anew."""


class Crash(BaseException):
    """The scheduler dies here."""


# --- An agent that keeps its promises ----------------------------------------------------------------------------


@dataclass(slots=True)
class Held:
    start: StartAttempt
    running: bool = False
    stop: bool = False
    end: AttemptFinished | None = None
    """Set where its container has ended and that was not yet written to Redis."""


class ModelAgent:
    """Its disk is `held` and `last_command`; its memory `waiting` and `ended`. `runs` is what Docker has seen."""

    def __init__(self, client: redis.Redis, executor_id: str) -> None:
        self.client, self.id = client, executor_id
        self.held: dict[Token, Held] = {}
        self.last_command = 0
        self.connected = True
        self.waiting: list[Event] = []
        self.ended: list[AttemptFinished] = []
        self.runs: Counter[Token] = Counter()
        self.sent: list[Event] = []
        self.truth: dict[Token, str] = {}
        """What really became of each attempt here."""

    def send(self, event: Event) -> None:
        self.waiting.append(event)
        self.flush()

    def flush(self) -> None:
        while self.connected and self.waiting:
            event = self.waiting.pop(0)
            self.client.xadd(Keys().events, {FIELD: encode(event)})
            self.sent.append(event)
            if isinstance(event, AttemptFinished):
                self.held.pop(Token(event.job_id, event.attempt), None)

    def repeat(self, count: int) -> None:
        """A batch whose answer was lost is written again."""
        for event in self.sent[-count:]:
            self.client.xadd(Keys().events, {FIELD: encode(event)})

    def counted(self) -> list[HeldAttempt]:
        return [HeldAttempt(*token) for token, held in self.held.items() if held.end is None]

    def beat(self) -> None:
        if self.connected:
            self.send(Heartbeat(executor_id=self.id, last_command=self.last_command, held=self.counted()))

    def hello(self) -> None:
        for event in self.ended:
            self.send(event)
        described = {"name": self.id, "address": "", "cpu_millicores": CORES, "memory_bytes": 8 * GB}
        self.send(Hello(executor_id=self.id, last_command=self.last_command, held=self.counted(), **described))  # type: ignore[arg-type]

    def receive(self, count: int) -> None:
        if not self.connected:
            return
        entries: Any = self.client.xrange(Keys().commands(self.id), min=f"({self.last_command}-0", count=count)
        for _, fields in entries:
            command = decode(fields[FIELD])
            if isinstance(command, StartAttempt):
                self.accept(command)
            elif isinstance(command, StopAttempt) and (held := self.held.get(Token(command.job_id, command.attempt))):
                held.stop = True
            self.last_command = command.seq  # type: ignore[union-attr]

    def accept(self, start: StartAttempt) -> None:
        token = Token(start.job_id, start.attempt)
        if token in self.held:
            return
        if sum(item.start.cpu_millicores for item in self.held.values() if not item.end) + start.cpu_millicores > CORES:
            self.finish(token, "start_refused", None)
        else:
            self.held[token] = Held(start)

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


# --- Histories ---------------------------------------------------------------------------------------------------

NODE = st.sampled_from(NODES)
HARMS = (
    "take_over",
    "deposed_leader_wakes",
    "long_time_passes",
    "beat",
    "restart_agent",
    "cut_off",
    "reconnect",
    "repeat",
    "redis_is_emptied",
    "redis_loses_its_last_commands",
    "redis_loses_its_last_events",
)


class Histories(RuleBasedStateMachine):
    def __init__(self, client: redis.Redis, crash_at: Callable[[str], None]) -> None:
        super().__init__()
        self.client, self.crash_at = client, crash_at
        self.rollback = transaction.atomic()
        self.rollback.__enter__()
        client.flushall()
        self.clock = Clock()
        self.leader = new_leader(self.clock)
        self.deposed: Scheduler | None = None
        self.agents = {name: ModelAgent(client, name) for name in NODES}
        self.ends: dict[str, str] = {}
        self.once: set[str] = set()
        """The jobs that must not run a second time."""
        self.redis_was_harmed = self.agents_were_harmed = False

    def holding(self) -> list[ModelAgent]:
        return [agent for agent in self.agents.values() if agent.held]

    @initialize()
    def begin(self) -> None:
        for agent in self.agents.values():
            agent.hello()
        self.pass_("")

    # --- people

    @rule(
        cores=st.sampled_from([500, 1000, 2000]),
        retries=st.integers(0, 3),
        once=st.sampled_from([False, False, True]),
    )
    def submit(self, cores: int, retries: int, once: bool) -> None:
        for _ in range(2):
            job = submit(cpu_millicores=cores, max_retries=0 if once else retries, at_most_once=once)
            self.once |= {str(job.id)} if once else set()

    @precondition(lambda self: len(self.ends) < Job.objects.count())
    @rule(which=st.integers(0, 5))
    def abort(self, which: int) -> None:
        jobs = [job for job in Job.objects.order_by("id") if not job.is_final]
        if jobs:
            job = jobs[which % len(jobs)]
            transitions.request_abort(job, timezone.now())
            self.client.xadd(Keys().events, {FIELD: encode(Wake(job_ids=[str(job.id)]))})

    # --- the scheduler

    @rule(crash=st.sampled_from(["", "", "", "received", "before-commit", "before-send", "before-acknowledge"]))
    def pass_(self, crash: str) -> None:
        self.crash_at(crash)
        try:
            self.leader.run_pass()
        except Crash:
            self.leader = new_leader(self.clock)
        finally:
            self.crash_at("")

    def take_over(self, node: str, count: int) -> None:
        self.deposed, self.leader = self.leader, new_leader(self.clock)

    def deposed_leader_wakes(self, node: str, count: int) -> None:
        if self.deposed is None:
            return
        with pytest.raises(LostLeadership):
            self.deposed.run_pass()
        self.deposed = None
        self.leader.start_over()  # it had read events, which the leader finds again only when it starts over

    def long_time_passes(self, node: str, count: int) -> None:
        """The other node, which is not heard, is lost."""
        for _ in range(5):
            self.agents[node].beat()
            self.pass_("")
            self.clock.now += LONG / 5

    # --- what goes wrong, as one rule, so that it is one step among several that lead on

    @rule(what=st.sampled_from(HARMS), node=NODE, count=st.integers(1, 3))
    def harm(self, what: str, node: str, count: int) -> None:
        getattr(self, what)(node, count)

    # --- the agents

    @rule(node=NODE, count=st.integers(1, 3))
    def receive(self, node: str, count: int) -> None:
        self.agents[node].receive(count)

    @precondition(lambda self: self.holding())
    @rule(which=st.integers(0, 3), exit_code=st.sampled_from([0, 0, 1]))
    def work(self, which: int, exit_code: int) -> None:
        here = [(agent, token) for agent in self.holding() for token in sorted(agent.held)]
        agent, token = here[which % len(here)]
        agent.work(token, exit_code)

    @rule(exit_code=st.sampled_from([0, 1, None, None]))
    def all_goes_on(self, exit_code: int | None) -> None:
        """What happens most of the time; with an exit code, what runs ends."""
        for _ in range(2):
            self.pass_("")
            for agent in self.agents.values():
                agent.receive(100)
                for token, held in list(agent.held.items()):
                    if exit_code is not None or not held.running:
                        agent.work(token, exit_code or 0)

    def beat(self, node: str, count: int) -> None:
        self.agents[node].beat()

    def restart_agent(self, node: str, count: int) -> None:
        self.agents_were_harmed = True
        self.agents[node].restart()

    def cut_off(self, node: str, count: int) -> None:
        self.agents[node].connected = False

    def reconnect(self, node: str, count: int) -> None:
        self.agents[node].reconnect()

    def repeat(self, node: str, count: int) -> None:
        self.agents[node].repeat(count)

    # --- Redis

    def redis_is_emptied(self, node: str, count: int) -> None:
        """Each agent notices for itself, later, by `reconnect`."""
        self.redis_was_harmed = True
        self.client.flushall()

    def redis_loses_its_last_commands(self, node: str, count: int) -> None:
        """As after a crash with data: even the stream's last number is an older one."""
        self.redis_was_harmed = True
        key = Keys().commands(node)
        entries: Any = self.client.xrange(key)
        self.client.delete(key)
        for entry_id, fields in entries[:-count]:
            self.client.xadd(key, fields, id=entry_id)

    def redis_loses_its_last_events(self, node: str, count: int) -> None:
        self.redis_was_harmed = True
        lost: Any = self.client.xrevrange(Keys().events, count=count)
        for entry_id, _ in lost:
            self.client.xdel(Keys().events, entry_id)

    # --- what must hold, always and in the end

    @invariant()
    def nothing_disagrees(self) -> None:
        jobs = list(all_jobs())
        found = [item for job in jobs for item in check_job(job, timezone.now(), 10)]
        for executor in Executor.objects.all():
            here = [job for job in jobs if (live := job.live_attempt) and live.executor_id == executor.id]
            found += check_executor(executor_facts(executor), here)
        assert not found
        for job in jobs:
            if job.id in self.ends:
                assert job.state == self.ends[job.id], "4: a final state changed"
            elif job.state in FINAL:
                self.ends[job.id] = job.state

    @invariant()
    def nothing_runs_twice_or_beyond_the_nodes_capacity(self) -> None:
        runs = sum((agent.runs for agent in self.agents.values()), Counter())
        assert not runs or max(runs.values()) == 1, "2: an attempt ran twice"
        jobs = Counter(token.job_id for token in runs)
        assert all(jobs[job_id] <= 1 for job_id in self.once), "2: a job that must run at most once ran again"
        assert all(agent.load() <= CORES for agent in self.agents.values()), "3: a node is over-committed"

    @invariant()
    def what_is_written_is_what_happened(self) -> None:
        for job_id, number, executor_id, reason in _ended_attempts():
            if reason in ("completed", "exit_nonzero", "start_refused"):
                happened = self.agents[executor_id].truth.get(Token(str(job_id), number))
                assert reason == happened, f"4: attempt {number} of {job_id} is {reason}, and in truth {happened}"
            harmed = self.redis_was_harmed or self.agents_were_harmed
            assert reason != "attempt_gone" or harmed, "2: an attempt was given up that was only on its way"

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            transaction.set_rollback(True)
            self.rollback.__exit__(None, None, None)

    def everything_ends(self) -> None:
        """Once nothing is harmed any more, every job becomes final and no agent holds anything."""
        for agent in self.agents.values():
            if self.redis_was_harmed or not agent.connected:
                agent.reconnect()
        for _ in range(60):
            for agent in self.agents.values():
                agent.receive(100)
                counted = set(Attempt.objects.filter(finished_at=None).values_list("job_id", "number"))
                for token, held in list(agent.held.items()):
                    if held.stop or (UUID(token.job_id), token.number) in counted:  # else it has to be told to stop
                        agent.work(token, 0)
                agent.beat()
            Job.objects.filter(state="PENDING").update(not_before=None)
            self.clock.now += 40
            self.leader.start_over()
            while self.leader.run_pass().more:
                pass
            unfinished = [str(job.id) for job in Job.objects.all() if not job.is_final]
            held = [token for agent in self.agents.values() for token in agent.held]
            if not unfinished and not held:
                self.nothing_disagrees()
                self.nothing_runs_twice_or_beyond_the_nodes_capacity()
                self.what_is_written_is_what_happened()
                return
        raise AssertionError(f"1: never final: {unfinished}; 9: still held: {held}")


def _ended_attempts() -> list[tuple[Any, ...]]:
    rows = Attempt.objects.filter(finished_at__isnull=False)
    return list(rows.values_list("job_id", "number", "executor_id", "reason"))


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the scheduler die at the next crash point whose name ends so; '' for none."""
    wanted = ""

    def reach(name: str) -> None:
        if wanted and name.endswith(wanted):
            raise Crash

    def crash_at(moment: str) -> None:
        nonlocal wanted
        wanted = moment

    monkeypatch.setattr(crashpoints, "reach", reach)
    return crash_at


def test_1_2_3_4_8_any_history_keeps_the_invariants_and_ends(
    db: None, redis_client: redis.Redis, crash_at: Callable[[str], None]
) -> None:
    run_state_machine_as_test(
        lambda: Histories(redis_client, crash_at),  # type: ignore[arg-type]
        settings=settings(
            max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
