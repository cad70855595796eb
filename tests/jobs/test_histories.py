"""Any history of crashes, losses, repetitions and delays keeps the invariants, and ends with every job final.

Hypothesis drives the real scheduler over a real database and Redis; the agents are those of `model_agent.py`.
"""

from collections.abc import Callable
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

from agent.protocol import FIELD, Keys, Wake, encode
from executors.models import Executor
from jobs import crashpoints, transitions
from jobs.invariants import check_executor, check_job
from jobs.leadership import LostLeadership
from jobs.lifecycle import FINAL
from jobs.management.commands.checkinvariants import all_jobs, executor_facts
from jobs.models import Attempt, Job
from jobs.reconcile import Token
from jobs.scheduler import Scheduler
from tests.jobs.model_agent import ModelAgent, RedisWire, assert_runs_are_allowed
from tests.jobs.passes import Clock, new_leader, submit

NODES = ("n1", "n2")
LONG = 120.0
"""Seconds after which whoever was not heard is lost; a scheduler that made no pass for so long would begin anew."""


class Crash(BaseException):
    """The scheduler dies here."""


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
        self.agents = {name: ModelAgent(RedisWire(client), name) for name in NODES}
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
        assert_runs_are_allowed(self.agents.values(), self.once)

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
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
