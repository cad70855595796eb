"""The pure functions that decide keep the invariants over any history of messages, and end it: lifecycle and
reconciliation, with everything around them as plain values (`tests/jobs/plain_system.py`).

Messages are doubled, lost and late; agents die and come back, nodes are lost and come back, Redis is emptied, another
scheduler takes over at any moment. `test_histories.py` does the same with the real scheduler, database and Redis.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jobs.invariants import Greeting, check_executor, check_held, check_job
from jobs.lifecycle import FINAL
from jobs.reconcile import Token
from tests.jobs.model_agent import ModelAgent, assert_runs_are_allowed
from tests.jobs.plain_system import EPOCH, PATIENCE, Crash, PlainJob, PlainRedis, PlainScheduler, Rows

NODES = ("n1", "n2")
NODE = st.sampled_from(NODES)
HEARD = st.sampled_from([NODES, NODES, NODES[:1], NODES[1:]])
MOMENTS = st.sampled_from(["", "", "", "received", "committed", "sent"])


HARMS = (
    "leader_is_paused_past_its_lease_and_wakes",
    "node_counts_as_lost",
    "time_passes",
    "restart_agent",
    "cut_off_or_reconnect",
    "repeat",
    "redis_is_emptied",
    "redis_loses_its_last_commands",
    "redis_loses_its_last_events",
)


class PureHistories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.redis, self.rows, self.now = PlainRedis(), Rows(NODES), 0.0
        self.leader = PlainScheduler(self.rows, self.redis)
        self.agents = {name: ModelAgent(self.redis, name) for name in NODES}
        self.ends: dict[str, str] = {}
        self.harmed: set[Token] = set()
        """The attempts that were live when something was lost that was believed to be kept: Redis' memory, or an
        agent's."""
        self.unwanted: dict[str, int] = {}
        """How many attempts each job had when a person wanted it ended."""

    def holding(self) -> list[ModelAgent]:
        return [agent for agent in self.agents.values() if agent.held]

    @initialize()
    def begin(self) -> None:
        for agent in self.agents.values():
            agent.hello()
        self.pass_(NODES, 1000, "")

    # --- people

    @rule(
        cores=st.sampled_from([500, 1000, 2000]), retries=st.integers(0, 2), once=st.sampled_from([False] * 2 + [True])
    )
    def submit(self, cores: int, retries: int, once: bool) -> None:
        for _ in range(2):
            job_id = f"job{len(self.rows.jobs)}"
            self.rows.jobs[job_id] = PlainJob(job_id, cores, 0 if once else retries, once)

    @precondition(lambda self: len(self.ends) < len(self.rows.jobs))
    @rule(which=st.integers(0, 5))
    def abort(self, which: int) -> None:
        unfinished = [job for job in self.rows.jobs.values() if job.state not in FINAL]
        if unfinished:
            job = unfinished[which % len(unfinished)]
            self.rows.abort(job)
            self.unwanted.setdefault(job.id, len(job.attempts))

    # --- schedulers

    @rule(hear=HEARD, count=st.sampled_from([1, 2, 1000]), crash=MOMENTS)
    def pass_(self, hear: tuple[str, ...], count: int, crash: str) -> None:
        """Whose events come first, and how many of them, is chance: agents are quicker or slower."""
        try:
            assert self.leader.run_pass(self.now, hear, count, crash=crash)
        except Crash:
            self.leader = PlainScheduler(self.rows, self.redis)

    # --- agents

    @rule(node=NODE, count=st.sampled_from([1, 2, 100]))
    def receive(self, node: str, count: int) -> None:
        self.agents[node].receive(count)

    @rule(node=NODE)
    def beat(self, node: str) -> None:
        self.agents[node].beat()

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
            self.pass_(NODES, 1000, "")
            self.all_work(exit_code)

    def all_work(self, exit_code: int | None) -> None:
        for agent in self.agents.values():
            agent.receive(100)
            for token, held in list(agent.held.items()):
                if exit_code is not None or not held.running:
                    agent.work(token, exit_code or 0)

    # --- what goes wrong, as one rule, so that it is one step among several that lead on

    @rule(what=st.sampled_from(HARMS), node=NODE, count=st.integers(1, 3))
    def harm(self, what: str, node: str, count: int) -> None:
        getattr(self, what)(node, count)

    def leader_is_paused_past_its_lease_and_wakes(self, node: str, count: int) -> None:
        deposed, self.leader = self.leader, PlainScheduler(self.rows, self.redis)
        self.pass_(NODES, 1000, "")
        self.all_work(0 if count > 1 else None)
        assert not deposed.run_pass(self.now, NODES), "8: it no longer leads"

    def node_counts_as_lost(self, node: str, count: int) -> None:
        """Its agent lives on: it is cut off, or only slow."""
        for _ in range(3):  # what was heard of it is applied first
            self.pass_(NODES, 1000, "")
        self.leader.run_pass(self.now, (), lost=[node])

    def time_passes(self, node: str, count: int) -> None:
        self.now += PATIENCE + 1

    def loses(self) -> None:
        self.harmed |= {Token(job.id, attempt.number) for job, attempt in self.rows.live()}

    def restart_agent(self, node: str, count: int) -> None:
        self.loses()
        self.agents[node].restart()

    def cut_off_or_reconnect(self, node: str, count: int) -> None:
        if self.agents[node].connected:
            self.agents[node].connected = False
        else:
            self.agents[node].reconnect()

    def repeat(self, node: str, count: int) -> None:
        """And read one by one."""
        self.agents[node].repeat(count)
        self.pass_(NODES, 1, "")

    def redis_is_emptied(self, node: str, count: int) -> None:
        """The scheduler notices by the group that is gone; each agent for itself, when it says hello again."""
        self.loses()
        self.redis.empty()
        self.leader.start_over()

    def redis_loses_its_last_commands(self, node: str, count: int) -> None:
        self.loses()
        self.redis.lose_commands(node, count)

    def redis_loses_its_last_events(self, node: str, count: int) -> None:
        self.loses()
        """Maybe with an agent's memory of them: a power cut."""
        self.redis.lose_events(count)
        if count == 1:
            for agent in self.agents.values():
                agent.restart()

    # --- what must hold, always and in the end

    @invariant()
    def nothing_disagrees(self) -> None:
        jobs = [job.facts() for job in self.rows.jobs.values()]
        found = [item for job in jobs for item in check_job(job, EPOCH, 10)]
        for executor in self.rows.executors.values():
            here = [job for job in jobs if (live := job.live_attempt) and live.executor_id == executor.id]
            found += check_executor(executor.facts(), here)
        assert not found
        for job in jobs:
            if job.state in FINAL:
                assert self.ends.setdefault(job.id, job.state) == job.state, "4: a final state changed"
            assert job.state in FINAL or job.id not in self.ends, "4: a final state changed"

    @invariant()
    def nothing_runs_twice_or_beyond_the_nodes_capacity(self) -> None:
        once = {job.id for job in self.rows.jobs.values() if job.at_most_once}
        assert_runs_are_allowed(self.agents.values(), once)

    @invariant()
    def nothing_is_tried_against_a_wish_to_abort(self) -> None:
        assert all(len(self.rows.jobs[job_id].attempts) == count for job_id, count in self.unwanted.items()), "6"

    @invariant()
    def what_is_written_is_what_happened(self) -> None:
        for job in self.rows.jobs.values():
            for attempt in job.attempts:
                happened = self.agents[attempt.executor_id].truth.get(Token(job.id, attempt.number))
                if attempt.reason in ("completed", "exit_nonzero", "start_refused"):
                    assert attempt.reason == happened, f"4: {job.id} is {attempt.reason}, and in truth {happened}"
                given_up = attempt.reason == "attempt_gone" and Token(job.id, attempt.number) not in self.harmed
                assert not given_up, "2: given up, and it was only on its way"

    def teardown(self) -> None:
        """Once nothing is harmed any more, every job becomes final and no agent holds anything."""
        for agent in self.agents.values():
            agent.reconnect()
        for _ in range(60):
            for agent in self.agents.values():
                agent.receive(100)
                counted = {Token(job.id, attempt.number) for job, attempt in self.rows.live()}
                for token, held in list(agent.held.items()):
                    if held.stop or token in counted:  # else it has to be told to stop
                        agent.work(token, 0)
                agent.beat()
            self.now += PATIENCE + 1
            for _ in range(2):
                self.pass_(NODES, 1000, "")
            if len(self.ends) == len(self.rows.jobs) and not self.holding():
                break
            self.nothing_disagrees()
        self.nothing_runs_twice_or_beyond_the_nodes_capacity()
        self.what_is_written_is_what_happened()
        unfinished = [job.id for job in self.rows.jobs.values() if job.state not in FINAL]
        assert not unfinished, "1: never final"
        assert not self.holding(), "9: still held"
        greetings = {name: Greeting(frozenset(), agent.last_command) for name, agent in self.agents.items()}
        assert not list(check_held(greetings, {}))


PureHistories.TestCase.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


class TestAnyHistoryOfMessagesKeepsTheInvariantsAndEnds(PureHistories.TestCase):
    """1, 2, 3, 4, 8."""
