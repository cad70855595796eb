"""What the leader remembers is what the database says, whatever happened and whoever did it."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import redis
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import executors.services
from agent.protocol import HeldAttempt, Keys, Wake
from executors import broker
from executors.models import Executor
from jobs import crashpoints, events, scheduler, services, snapshot, tracking
from jobs.models import Attempt, Job
from jobs.scheduler import Scheduler, WrongMemory
from jobs.scheduling.cluster import ClusterState
from jobs.scheduling.placement import Strategy
from jobs.snapshot import Waiting
from jobs.tracking import Mirror
from tests.jobs import node as nodes
from tests.jobs.node import Node
from tests.jobs.passes import Clock, fresh, new_leader, run, settle, submit

pytestmark = pytest.mark.django_db


def remembered(leader: Scheduler) -> Mirror:
    assert leader._mirror is not None
    return leader._mirror


def read_anew() -> Mirror:
    mirror = tracking.load(Strategy.FIRST_FIT, lambda: None)
    while not mirror.whole:
        mirror.read_queue(7, timezone.now())
    return mirror


def contents(mirror: Mirror) -> dict[str, Any]:
    """All that the mirror says, in a form that two of them can be compared by."""
    now = timezone.now()
    jobs: dict[UUID, object] = {job_id: mirror.known(job_id) for job_id in {*mirror.live, *mirror.waiting_ids()}}
    for job_id, item in jobs.items():
        if isinstance(item, Waiting) and (item.not_before is None or item.not_before <= now):
            jobs[job_id] = item.job
    return {
        "jobs": jobs,
        "executors": mirror.state.executors(),  # with what is free of each
        "held": {name: sorted(mirror.state.attempts_on(name)) for name in mirror.state.executor_ids()},
        "present": mirror.present,
        "aborting": mirror.aborting,
        "orphans": mirror.orphans,
    }


OTHERS_WRITE = {"abort_requested_at", "executor_id"}
"""Of a live job and its attempt, what people change; it is looked at before an attempt at hand is used."""


def at_hand(mirror: Mirror, told_by: str) -> dict[UUID, dict[str, Any]]:
    """The columns of the attempts at hand and of their jobs, as they are `known` or as their `rows` are."""
    columns: dict[UUID, dict[str, Any]] = {}
    for attempt in mirror.at_hand.values():
        row = Attempt.objects.select_related("job").get(id=attempt.id) if told_by == "rows" else attempt
        columns[attempt.job_id] = {
            f"{instance._meta.model_name}.{field.attname}": vars(told)[field.attname]
            for instance, told in ((attempt, row), (attempt.job, row.job))
            for field in instance._meta.concrete_fields
            if field.attname in vars(instance) and field.attname not in OTHERS_WRITE
        }
    return columns


# --- Any history -------------------------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """What people, agents and operators do, each as it is done; sometimes the wake of it is lost."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.client = client
        self.rollback = transaction.atomic()
        self.rollback.__enter__()
        client.flushall()
        self.clock = Clock()
        self.leader = new_leader(self.clock)
        self.nodes = [Node(client, f"n{number}", cores=number, gpus=2 * (number == 3)) for number in (2, 3, 4)]
        self.wakes_lost = False

    @initialize()
    def begin(self) -> None:
        for node in self.nodes:
            node.hello()
        settle(self.leader)

    # --- people

    @rule(
        count=st.integers(1, 4),
        cores=st.sampled_from([500, 1000, 3000]),
        gpus=st.sampled_from([0, 0, 1]),
        priority=st.integers(-1, 1),
        retries=st.integers(0, 2),
    )
    def submit(self, count: int, cores: int, gpus: int, priority: int, retries: int) -> None:
        asked = {"cpu_millicores": cores, "priority": priority, "max_retries": retries}
        together = [
            nodes.submit(**asked, gpu_count=gpus, gpu_type="any" if gpus else "", platform_failures=number % 2)
            for number in range(count)
        ]
        broker.send_event(Wake(first_job_id=str(together[0].id), last_job_id=str(together[-1].id)))

    @rule(which=st.integers(0, 20))
    def abort(self, which: int) -> None:
        jobs = [job.id for job in Job.objects.order_by("id") if not job.is_final]
        if jobs:
            services.abort(jobs[which % len(jobs)])

    @rule(which=st.integers(0, 20), priority=st.integers(-1, 1))
    def set_priority(self, which: int, priority: int) -> None:
        jobs = list(Job.objects.filter(state="PENDING").order_by("id"))
        if jobs:
            services.set_priority(jobs[which % len(jobs)].id, priority)

    @rule()
    def a_wake_is_lost(self) -> None:
        """And Redis with it."""
        self.client.delete(Keys().events)
        events.ensure_group(self.client, self.leader.term)
        self.wakes_lost = True

    # --- agents

    @rule(which=st.integers(0, 2))
    def receive(self, which: int) -> None:
        self.nodes[which].receive()

    @precondition(lambda self: any(node.held for node in self.nodes))
    @rule(
        which=st.integers(0, 9),
        what=st.sampled_from(["running", "completed", "exit_nonzero", "engine_error", "stopped"]),
    )
    def work(self, which: int, what: str) -> None:
        here = [(node, held) for node in self.nodes for held in node.held]
        node, held = here[which % len(here)]
        job = Job(id=UUID(held.job_id))
        if what == "running":
            node.running(job, held.attempt)
        else:
            node.finished(job, what, held.attempt)

    @rule(which=st.integers(0, 2), problem=st.sampled_from(["", "", "Docker is away."]), held=st.booleans())
    def beat(self, which: int, problem: str, held: bool) -> None:
        if not held:
            self.nodes[which].held = []
        self.nodes[which].heartbeat(problem)

    @rule(which=st.integers(0, 2), cores=st.integers(1, 5), stranger=st.booleans())
    def say_hello(self, which: int, cores: int, stranger: bool) -> None:
        node = self.nodes[which]
        node.cores = cores
        if stranger:
            node.held.append(HeldAttempt("01890000-0000-7000-8000-000000000000", 1))
        node.hello(labels={"zone": str(cores)}, name=f"{node.executor_id}-{cores}")

    # --- operators, and who goes behind everybody's back

    @rule(which=st.integers(0, 2), what=st.sampled_from(["cordon", "drain", "resume", "forget", "label", "by hand"]))
    def operate(self, which: int, what: str) -> None:
        name = self.nodes[which].executor_id
        try:
            if what == "label":
                executors.services.change_labels(name, {"disk": "ssd"})
            elif what == "by hand":
                Executor.objects.filter(id=name).delete()
                self.wakes_lost = True
            else:
                getattr(executors.services, what)(name)
        except (executors.services.ExecutorNotFound, executors.services.ExecutorInUse):
            pass

    # --- the scheduler

    @rule(seconds=st.sampled_from([0, 0, 25, 70]))
    def pass_(self, seconds: int) -> None:
        self.clock.now += seconds
        settle(self.leader)
        if not self.wakes_lost:
            assert contents(remembered(self.leader)) == contents(read_anew())
            assert at_hand(remembered(self.leader), "known") == at_hand(remembered(self.leader), "rows")

    @rule()
    def a_round_is_audited(self) -> None:
        broker.send_event(Wake())
        for _ in range(2):
            settle(self.leader)
        self.wakes_lost = False
        assert contents(remembered(self.leader)) == contents(read_anew())
        assert at_hand(remembered(self.leader), "known") == at_hand(remembered(self.leader), "rows")

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.rollback.__exit__(None, None, None)


def test_over_any_history_the_leader_remembers_what_the_database_says(db: None, redis_client: redis.Redis) -> None:
    run_state_machine_as_test(
        lambda: Histories(redis_client),  # type: ignore[arg-type]
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# --- Memory that is wrong places nothing -------------------------------------------------------------------------


def while_it_decides(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """`happen` comes between the decision and its transaction's look at the rows, once."""
    choose, waiting = ClusterState.place, [happen]

    def choose_then(self: ClusterState, limit: int) -> Any:
        chosen = choose(self, limit)
        if chosen[0] and waiting:
            waiting.pop()()
        return chosen

    monkeypatch.setattr(ClusterState, "place", choose_then)


@pytest.mark.parametrize("what", ["cordon", "drain", "forget"])
def test_3_an_executor_that_changed_while_it_was_chosen_gets_nothing(
    leader: Scheduler, node: Node, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    other = Node(redis_client, "n2")
    other.hello()
    settle(leader)
    job = submit()
    while_it_decides(monkeypatch, lambda: getattr(executors.services, what)("n1"))
    assert [attempt.executor_id for attempt in settle(leader)] == ["n2"]
    assert fresh(job).attempt_number == 1


def test_3_nothing_is_placed_where_the_database_counts_more_than_is_remembered(leader: Scheduler, node: Node) -> None:
    for _ in range(4):
        run(leader, node)
    forgotten = Attempt.objects.latest("id")
    remembered(leader).state.attempt_ended(forgotten.job_id)
    waiting = submit()
    with pytest.raises(WrongMemory, match="n1 would have got more than it has"):
        settle(leader)
    assert fresh(waiting).state == "PENDING"
    leader.start_over()
    settle(leader)
    assert fresh(waiting).state == "PENDING"
    node.finished(Job(id=forgotten.job_id))
    settle(leader)
    assert fresh(waiting).state == "STARTING"


def test_3_a_gpu_that_the_database_says_is_taken_is_not_given_again(
    redis_client: redis.Redis, leader: Scheduler
) -> None:
    node = Node(redis_client, gpus=1)
    node.hello()
    first = run(leader, node, gpu_type="any", gpu_count=1)
    remembered(leader).state.attempt_ended(first.id)
    second = submit(gpu_type="any", gpu_count=1)
    with pytest.raises(WrongMemory, match="A GPU of executor n1"):
        settle(leader)
    assert fresh(second).state == "PENDING"


def test_a_node_that_lost_a_gpu_in_use_still_gets_what_it_has_room_for(
    redis_client: redis.Redis, leader: Scheduler
) -> None:
    node = Node(redis_client, gpus=2)
    node.hello()
    run(leader, node, gpu_type="any", gpu_count=2)
    node.gpus = 1
    node.hello()
    assert len(settle(leader)) == 0
    job, another = submit(), submit(gpu_type="any", gpu_count=1)
    settle(leader)
    assert (fresh(job).state, fresh(another).state) == ("STARTING", "PENDING")


def test_a_pass_that_fails_is_not_remembered(leader: Scheduler, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit()
    with monkeypatch.context() as patch:
        patch.setattr(crashpoints, "reach", lambda name: 1 / 0 if name == "placing-before-commit" else None)
        with pytest.raises(ZeroDivisionError):
            leader.run_pass()
    assert leader._mirror is None
    leader.start_over()
    settle(leader)
    assert fresh(job).attempt_number == 1


# --- The audit ---------------------------------------------------------------------------------------------------


def test_what_was_changed_by_hand_is_found_within_the_poll_interval_and_said(
    leader: Scheduler, node: Node, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    job, gone = nodes.submit(), submit(cpu_millicores=9000)
    settle(leader)
    assert fresh(job).state == "PENDING"
    Job.objects.filter(id=gone.id).delete()
    Executor.objects.update(schedulable=False)
    for _ in range(5):
        clock.now += 3
        settle(leader)
    assert fresh(job).state == "PENDING"
    assert contents(remembered(leader)) == contents(read_anew())
    said = [record.message for record in caplog.records]
    assert any(text.startswith("executors had changed") and "n1" in text for text in said)
    assert any(str(job.id) in text for text in said) and any(str(gone.id) in text for text in said)


def test_an_audit_of_what_is_as_it_should_be_says_nothing(
    leader: Scheduler, node: Node, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    run(leader, node)
    submit(not_before=timezone.now() + timedelta(hours=1))
    submit(cpu_millicores=9000)
    caplog.clear()
    for _ in range(10):
        clock.now += 5
        node.heartbeat()
        settle(leader)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# --- Reading -----------------------------------------------------------------------------------------------------


def test_a_long_queue_is_read_in_pieces_and_placed_in_its_order_meanwhile(
    leader: Scheduler, node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "QUEUE_READ_PER_PASS", 2)
    jobs = [nodes.submit(priority=number % 3) for number in range(9)]
    successor = new_leader(clock)
    first = successor.run_pass()
    assert [attempt.job_id for attempt in first.placed] == [jobs[2].id, jobs[5].id] and first.more
    assert [attempt.job.priority for attempt in settle(successor)] == [2, 1]
    assert remembered(successor).whole
    assert contents(remembered(successor)) == contents(read_anew())


def test_the_lease_is_kept_while_much_is_read(
    leader: Scheduler, node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[float] = []
    monkeypatch.setattr("jobs.leadership.renew", lambda holder, term: kept.append(clock.now))
    read = snapshot.executors_after

    def slowly(*args: Any) -> Any:
        clock.now += 6
        return read(*args)

    monkeypatch.setattr(snapshot, "executors_after", slowly)
    new_leader(clock).run_pass()
    assert len(kept) >= 2


def test_attempts_end_as_well_where_they_are_no_longer_at_hand(
    leader: Scheduler, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MOST_AT_HAND", 1)
    jobs = [run(leader, node, cpu_millicores=100), run(leader, node, cpu_millicores=100)]
    assert len(remembered(leader).at_hand) == 1
    for job in jobs:
        node.finished(job)
    settle(leader)
    assert [fresh(job).state for job in jobs] == ["SUCCEEDED", "SUCCEEDED"]
    assert not remembered(leader).at_hand


def test_an_attempt_at_hand_that_somebody_else_changed_is_read_again(leader: Scheduler, node: Node) -> None:
    job = run(leader, node, max_retries=1)
    Attempt.objects.update(stop_command=7, stop_why="timeout")
    node.finished(job, "stopped", exit_code=137)
    settle(leader)
    attempt = Attempt.objects.get(job=job, number=1)
    assert (attempt.reason, attempt.stop_command) == ("timeout", 7)
