"""Passes over a real Redis and database, driven by events that a node played by hand sends."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.db import OperationalError
from django.utils import timezone
from pytest_django import Settings

import executors.services
from agent.protocol import (
    FIELD,
    Heartbeat,
    HeldAttempt,
    Keys,
    PassRequest,
    StartAttempt,
    StopAttempt,
    Wake,
    encode,
)
from executors import broker
from executors.models import Executor
from jobs import commands, crashpoints, leadership, scheduler, services
from jobs.events import group_of
from jobs.leadership import LostLeadership
from jobs.models import Attempt, Job
from jobs.scheduler import Scheduler
from jobs.scheduling.cluster import ClusterState
from tests.jobs.node import GB, Node
from tests.jobs.passes import Clock, fresh, new_leader, run, settle, submit

pytestmark = pytest.mark.django_db


# --- A job's life ----------------------------------------------------------------------------------------------


def test_a_job_is_placed_run_and_succeeds_with_the_engines_own_times(leader: Scheduler, node: Node) -> None:
    job = submit(command=["echo", "hi"], env={"A": "b"}, working_dir="/tmp", name="greeting", timeout_seconds=60)
    settle(leader)
    assert fresh(job).state == "STARTING"
    [start] = node.receive()
    assert start == StartAttempt(
        seq=1,
        job_id=str(job.id),
        attempt=1,
        image="alpine",
        command=["echo", "hi"],
        env={"A": "b"},
        working_dir="/tmp",
        cpu_millicores=1000,
        memory_bytes=GB,
        timeout_seconds=60,
        job_name="greeting",
    )
    node.progress(job, "pulling alpine: 40 %")
    settle(leader)
    assert Attempt.objects.get().progress == "pulling alpine: 40 %"
    node.running(job)
    settle(leader)
    assert fresh(job).state == "RUNNING"
    node.finished(job, started_at="2026-11-24T13:00:00.5Z")
    settle(leader)
    job, attempt = fresh(job), Attempt.objects.get()
    assert (job.state, job.reason, job.exit_code) == ("SUCCEEDED", "completed", 0)
    assert job.started_at == attempt.started_at == datetime(2026, 11, 24, 13, 0, 0, 500000, tzinfo=UTC)
    assert job.finished_at == attempt.finished_at == datetime(2026, 11, 24, 13, 1, tzinfo=UTC)
    assert (attempt.state, attempt.container_id, attempt.progress) == ("SUCCEEDED", "c0ffee", "")


def test_hearing_everything_twice_changes_nothing(leader: Scheduler, node: Node) -> None:
    job = submit(max_retries=1)
    settle(leader)
    node.receive()
    steps = [
        lambda: node.progress(job, "creating"),
        lambda: node.running(job),
        lambda: node.heartbeat(),
        lambda: node.finished(job, "exit_nonzero"),
    ]
    for step in steps:
        step()
        settle(leader)
        once = [list(Job.objects.values()), list(Attempt.objects.values())]
        step()
        settle(leader)
        assert [list(Job.objects.values()), list(Attempt.objects.values())] == once
    assert Attempt.objects.count() == 2


def test_events_of_one_batch_are_applied_in_their_order(leader: Scheduler, node: Node) -> None:
    job = submit()
    settle(leader)
    node.receive()
    node.heartbeat()
    node.running(job)
    node.finished(job)
    node.heartbeat()
    settle(leader)
    assert fresh(job).state == "SUCCEEDED"
    assert node.receive() == []


def test_nothing_is_over_committed_and_what_waits_is_placed_when_room_is_freed(leader: Scheduler, node: Node) -> None:
    jobs = [submit() for _ in range(6)]
    assert [attempt.job_id for attempt in settle(leader)] == [job.id for job in jobs[:4]]
    node.receive()
    node.running(jobs[0])
    node.finished(jobs[0])
    assert [attempt.job_id for attempt in settle(leader)] == [jobs[4].id]


def test_gpus_are_given_by_index_and_never_shared(redis_client: redis.Redis, leader: Scheduler) -> None:
    node = Node(redis_client, gpus=3)
    node.hello()
    jobs = [
        submit(gpu_type="a100", gpu_count=2),
        submit(gpu_type="any", gpu_count=1),
        submit(gpu_type="any", gpu_count=1),
    ]
    settle(leader)
    given = [command.gpu_indices for command in node.receive() if isinstance(command, StartAttempt)]
    assert given == [[0, 1], [2]]
    assert fresh(jobs[2]).state == "PENDING"


def test_a_closed_or_unhealthy_executor_gets_nothing(leader: Scheduler, node: Node) -> None:
    job = submit()
    executors.services.cordon("n1")
    assert settle(leader) == []
    executors.services.resume("n1")
    node.heartbeat(problem="Docker does not answer.")
    assert settle(leader) == []
    node.heartbeat()
    assert [attempt.job_id for attempt in settle(leader)] == [job.id]


def test_more_jobs_than_one_pass_places_follow_at_once(
    leader: Scheduler, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PLACEMENTS_PER_PASS", 2)
    Node(redis_client, cores=7, gb=64).hello()
    for number in range(9):
        submit(priority=number % 2)
    placed = settle(leader)
    assert len(placed) == 7
    assert [attempt.job.priority for attempt in placed] == [1] * 4 + [0] * 3


# --- Failing and trying again ----------------------------------------------------------------------------------


def test_a_jobs_own_failure_uses_up_its_retries_and_every_attempt_stays_visible(leader: Scheduler, node: Node) -> None:
    job = submit(max_retries=1)
    for number in (1, 2):
        settle(leader)
        node.receive()
        node.running(job, number)
        node.finished(job, "exit_nonzero", number, exit_code=3)
    settle(leader)
    job = fresh(job)
    assert (job.state, job.reason, job.exit_code, job.retries_used) == ("FAILED", "exit_nonzero", 3, 1)
    assert job.reason_text == "The command exited with code 3."
    assert list(job.attempts.values_list("number", "state", "exit_code")) == [(1, "FAILED", 3), (2, "FAILED", 3)]


def test_a_platform_failure_goes_to_another_executor_and_later_waits_for_its_time(
    leader: Scheduler, node: Node, redis_client: redis.Redis
) -> None:
    other = Node(redis_client, "n2")
    other.hello()
    job = submit()
    settle(leader)
    node.receive()
    node.finished(job, "start_refused", exit_code=None)
    settle(leader)
    assert fresh(job).executor_id == "n2"
    other.receive()
    other.finished(job, "engine_error", 2, exit_code=None)
    settle(leader)
    job = fresh(job)
    assert (job.state, job.platform_failures, job.reason) == ("PENDING", 2, "engine_error")
    assert job.not_before is not None
    assert 4 < (job.not_before - timezone.now()).total_seconds() <= 5
    Job.objects.update(not_before=timezone.now())
    leader.start_over()
    settle(leader)
    assert fresh(job).executor_id == "n1"


def test_the_wait_for_events_ends_when_a_requeued_job_is_due(leader: Scheduler, node: Node) -> None:
    job = submit(platform_failures=1)
    settle(leader)
    node.receive()
    node.finished(job, "engine_error", exit_code=None)
    settle(leader)
    Job.objects.update(not_before=timezone.now() + timedelta(seconds=0.3))
    leader.start_over()
    settle(leader)
    began = timezone.now()
    leader.run_pass(block_seconds=4)
    assert fresh(job).state == "STARTING"
    assert (timezone.now() - began).total_seconds() < 2


def test_a_word_of_a_newer_agent_still_ends_the_attempt(leader: Scheduler, node: Node) -> None:
    job = run(leader, node)
    node.finished(job, "struck_by_lightning", exit_code=9)
    settle(leader)
    assert (fresh(job).state, fresh(job).reason) == ("FAILED", "exit_nonzero")


# --- Abort -----------------------------------------------------------------------------------------------------


def test_a_pending_job_is_aborted_at_once_and_never_placed(leader: Scheduler, redis_client: redis.Redis) -> None:
    job = submit()
    services.abort(job.id)
    assert (fresh(job).state, fresh(job).reason) == ("ABORTED", "aborted_by_user")
    assert fresh(job).finished_at is not None
    node = Node(redis_client)
    node.hello()
    assert settle(leader) == []
    with pytest.raises(services.JobIsFinal):
        services.abort(job.id)


@pytest.mark.parametrize("runs", [False, True])
def test_a_placed_job_is_stopped_once_and_aborted_when_its_container_is_gone(
    leader: Scheduler, node: Node, settings: Settings, runs: bool
) -> None:
    settings.ABORT_GRACE_SECONDS = 7
    job = submit(max_retries=3)
    settle(leader)
    node.receive()
    if runs:
        node.running(job)
    services.abort(job.id)
    services.abort(job.id)
    settle(leader)
    settle(leader)
    assert node.receive() == [StopAttempt(seq=2, job_id=str(job.id), attempt=1, why="abort", grace_seconds=7)]
    assert fresh(job).state in ("STARTING", "RUNNING")
    node.finished(job, "stopped", exit_code=143)
    settle(leader)
    job = fresh(job)
    assert (job.state, job.reason, job.exit_code) == ("ABORTED", "aborted_by_user", 143)
    assert job.attempts.get().state == "ABORTED"


def test_a_job_aborted_while_it_was_being_placed_is_left_alone(
    leader: Scheduler, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()
    choose = ClusterState.place

    def choose_then_abort(self: ClusterState, limit: int) -> Any:
        chosen = choose(self, limit)
        if chosen[0]:
            services.abort(job.id)
        return chosen

    monkeypatch.setattr(ClusterState, "place", choose_then_abort)
    assert settle(leader) == []
    assert fresh(job).state == "ABORTED"
    assert not Attempt.objects.exists()


def test_a_stop_that_is_not_heeded_for_long_is_sent_again_with_a_new_number(
    leader: Scheduler, node: Node, clock: Clock
) -> None:
    job = run(leader, node)
    services.abort(job.id)
    settle(leader)
    assert [command.seq for command in node.receive()] == [2]
    for _ in range(2):
        node.heartbeat()
        settle(leader)
        assert node.receive() == []
        clock.now += 25
    node.heartbeat()
    settle(leader)
    assert [(command.kind, command.seq) for command in node.receive()] == [("stop", 3)]
    assert Attempt.objects.get().stop_command == 3


# --- Reconciling -----------------------------------------------------------------------------------------------


def test_an_attempt_that_the_agent_passed_and_does_not_hold_is_gone_and_queued_again(
    leader: Scheduler, node: Node
) -> None:
    job = run(leader, node)
    node.held = []
    node.hello()
    settle(leader)
    assert Attempt.objects.get(number=1).reason == "attempt_gone"
    assert (fresh(job).state, fresh(job).attempt_number) == ("STARTING", 2)


def test_an_attempt_whose_start_is_still_on_its_way_is_left_alone(leader: Scheduler, node: Node) -> None:
    job = submit()
    settle(leader)
    node.heartbeat()
    settle(leader)
    assert fresh(job).attempt_number == 1
    assert Attempt.objects.get().state == "STARTING"


def test_what_is_held_and_does_not_count_is_stopped_and_nothing_is_placed_there_meanwhile(
    leader: Scheduler, node: Node
) -> None:
    node.held = [HeldAttempt("01890000-0000-7000-8000-000000000000", 1)]
    node.heartbeat()
    job = submit()
    settle(leader)
    [stop] = node.receive()
    assert isinstance(stop, StopAttempt)
    assert (stop.job_id, stop.attempt, stop.why) == ("01890000-0000-7000-8000-000000000000", 1, "superseded")
    assert fresh(job).state == "PENDING"
    node.heartbeat()
    settle(leader)
    assert node.receive() == []
    node.held = []
    node.heartbeat()
    settle(leader)
    assert fresh(job).state == "STARTING"


def test_what_a_superseded_attempt_reports_is_ignored(leader: Scheduler, node: Node) -> None:
    job = run(leader, node)
    node.held = []
    node.hello()
    settle(leader)
    node.running(job, 1)
    node.finished(job, "completed", 1)
    settle(leader)
    assert (fresh(job).state, fresh(job).attempt_number) == ("STARTING", 2)


def test_an_attempt_can_be_ended_by_its_own_executor_only(
    leader: Scheduler, node: Node, redis_client: redis.Redis
) -> None:
    job = run(leader, node)
    Node(redis_client, "n2").finished(job)
    settle(leader)
    assert fresh(job).state == "RUNNING"


def test_an_agent_ahead_of_a_restored_database_gets_numbers_it_has_not_seen(leader: Scheduler, node: Node) -> None:
    node.last_command = 40
    node.heartbeat()
    submit()
    settle(leader)
    assert [command.seq for command in node.receive()] == [41]


def test_passed_commands_are_trimmed(leader: Scheduler, node: Node, redis_client: redis.Redis) -> None:
    run(leader, node)
    assert redis_client.xlen(Keys().commands("n1")) == 0


def test_an_agent_that_the_database_does_not_know_is_asked_to_say_hello(
    leader: Scheduler, redis_client: redis.Redis
) -> None:
    redis_client.xadd(Keys().samples("n9"), {"cpu": 1})
    Node(redis_client, "n9").heartbeat()
    settle(leader)
    assert not redis_client.exists(Keys().samples("n9"))
    assert not Executor.objects.exists()


# --- Lost executors --------------------------------------------------------------------------------------------


def test_after_three_missed_heartbeats_an_executors_jobs_go_elsewhere(
    leader: Scheduler, node: Node, redis_client: redis.Redis, clock: Clock
) -> None:
    job = run(leader, node)
    waiting = [submit(cpu_millicores=3000)]
    settle(leader)
    assert redis_client.xlen(Keys().commands("n1")) == 1
    other = Node(redis_client, "n2", cores=8)
    other.hello()
    settle(leader)
    for _ in range(3):
        clock.now += 29
        other.heartbeat()
        settle(leader)
    assert Executor.objects.get(id="n1").state == "ONLINE"
    clock.now += 4
    settle(leader)
    lost = Executor.objects.get(id="n1")
    assert lost.state == "LOST" and lost.problem.startswith("No heartbeat since")
    assert Attempt.objects.get(job=job, number=1).reason == "executor_lost"
    assert {fresh(item).executor_id for item in [job, *waiting]} == {"n2"}
    assert redis_client.xlen(Keys().commands("n1")) == 0, "a returning node must not start what was superseded"

    node.heartbeat()
    settle(leader)
    [stop] = node.receive()
    assert isinstance(stop, StopAttempt) and (stop.job_id, stop.why) == (str(job.id), "superseded")
    assert Executor.objects.get(id="n1").state == "UNHEALTHY"


def test_heartbeats_that_waited_in_the_stream_count_before_anything_is_lost(
    leader: Scheduler, node: Node, clock: Clock
) -> None:
    clock.now += 1000
    node.heartbeat()
    settle(leader)
    assert Executor.objects.get().state == "ONLINE"


def test_a_new_leader_gives_every_executor_a_full_period(leader: Scheduler, node: Node, clock: Clock) -> None:
    clock.now += 1000
    successor = new_leader(clock)
    settle(successor)
    assert Executor.objects.get().state == "ONLINE"
    for _ in range(3):
        clock.now += 29
        settle(successor)
    assert Executor.objects.get().state == "ONLINE"
    clock.now += 4
    settle(successor)
    assert Executor.objects.get().state == "LOST"


def test_a_leader_that_stood_still_gives_every_executor_a_full_period(
    leader: Scheduler, node: Node, clock: Clock
) -> None:
    clock.now += 1000
    settle(leader)
    assert Executor.objects.get().state == "ONLINE"


def test_a_database_that_hangs_within_a_pass_costs_no_executor(
    leader: Scheduler, node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(name: str) -> None:
        clock.now += 1000 if name == "wake-received" else 0

    monkeypatch.setattr(crashpoints, "reach", hang)
    broker.send_event(Wake())
    leader.run_pass()
    assert Executor.objects.get().state == "ONLINE"
    settle(leader)
    assert Executor.objects.get().state == "ONLINE"
    for _ in range(4):
        clock.now += 29
        settle(leader)
    assert Executor.objects.get().state == "LOST"


def test_the_attempts_of_a_forgotten_executor_are_queued_again(leader: Scheduler, node: Node) -> None:
    job = run(leader, node)
    Executor.objects.all().delete()
    broker.send_event(Wake(executor_ids=["n1"]))
    settle(leader)
    attempt = Attempt.objects.get()
    assert (attempt.reason, attempt.executor_name) == ("executor_lost", "n1")
    assert attempt.reason_text == "The executor n1 was forgotten."
    assert fresh(job).state == "PENDING"


# --- Time-outs -------------------------------------------------------------------------------------------------


def test_an_attempt_far_over_its_timeout_is_stopped_and_has_failed_by_it(leader: Scheduler, node: Node) -> None:
    job = run(leader, node, timeout_seconds=60, max_retries=0)
    assert node.receive() == []
    Attempt.objects.update(placed_at=timezone.now() - timedelta(minutes=10))
    leader.start_over()
    settle(leader)
    assert node.receive() == []
    Attempt.objects.update(running_since=timezone.now() - timedelta(minutes=7))
    leader.start_over()
    settle(leader)
    [stop] = node.receive()
    assert isinstance(stop, StopAttempt) and stop.why == "timeout"
    node.finished(job, "stopped", exit_code=137)
    settle(leader)
    assert (fresh(job).state, fresh(job).reason) == ("FAILED", "timeout")


# --- Failovers, crashes, stores that go away -------------------------------------------------------------------


def test_a_start_that_was_committed_and_not_sent_is_sent_by_the_next_leader(
    leader: Scheduler, node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()
    with monkeypatch.context() as patch:
        patch.setattr(commands, "send", crash)
        with pytest.raises(redis.ConnectionError):
            leader.run_pass()
    assert fresh(job).state == "STARTING"
    assert node.receive() == []
    settle(new_leader(clock))
    assert [command.job_id for command in node.receive() if isinstance(command, StartAttempt)] == [str(job.id)]


def test_a_pass_that_failed_after_its_commit_is_taken_up_by_the_same_leader(
    leader: Scheduler, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()
    with monkeypatch.context() as patch:
        patch.setattr(commands, "send", crash)
        with pytest.raises(redis.ConnectionError):
            leader.run_pass()
    leader.start_over()
    settle(leader)
    assert len(node.receive()) == 1
    assert fresh(job).attempt_number == 1


def crash(*args: Any, **more: Any) -> None:
    raise redis.ConnectionError("gone")


def test_events_that_were_read_and_not_acknowledged_are_applied_by_the_next_leader(
    leader: Scheduler, node: Node, clock: Clock, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = run(leader, node)
    node.finished(job)
    with monkeypatch.context() as patch:
        patch.setattr(leadership, "renew", database_away)
        with pytest.raises(OperationalError):
            leader.run_pass()
    assert fresh(job).state == "RUNNING"
    successor = new_leader(clock)
    settle(successor)
    assert fresh(job).state == "SUCCEEDED"
    assert [group["name"] for group in redis_client.xinfo_groups(Keys().events)] == [group_of(successor.term).encode()]
    assert redis_client.xpending(Keys().events, group_of(successor.term))["pending"] == 0
    assert redis_client.xlen(Keys().events) == 0


def database_away(*args: Any) -> None:
    raise OperationalError("database is away")


def test_a_leader_whose_lease_was_taken_writes_nothing(leader: Scheduler, node: Node, clock: Clock) -> None:
    job = run(leader, node)
    waiting = submit()
    node.finished(job)
    successor = new_leader(clock)
    with pytest.raises(LostLeadership):
        leader.run_pass()
    assert (fresh(job).state, fresh(waiting).state) == ("RUNNING", "PENDING")
    settle(successor)
    assert (fresh(job).state, fresh(waiting).state) == ("SUCCEEDED", "STARTING")


def test_a_leader_whose_lease_was_taken_takes_no_events_from_its_successor(
    leader: Scheduler, node: Node, clock: Clock
) -> None:
    job = run(leader, node)
    successor = new_leader(clock)
    settle(successor)
    node.finished(job)
    with pytest.raises(LostLeadership):
        leader.run_pass()
    settle(successor)
    assert fresh(job).state == "SUCCEEDED"


def test_after_redis_was_emptied_everything_outstanding_is_sent_again(
    leader: Scheduler, node: Node, redis_client: redis.Redis
) -> None:
    starting, aborting = submit(), run(leader, node)
    node.last_command = 0
    Executor.objects.update(passed_command=0)
    Attempt.objects.filter(job=aborting).update(state="RUNNING")
    services.abort(aborting.id)
    settle(leader)
    redis_client.flushall()
    settle(leader)
    node.held = []
    assert [(command.kind, command.seq) for command in node.receive()] == [("start", 1), ("stop", 3)]
    assert fresh(starting).state == "STARTING"
    assert redis_client.xinfo_groups(Keys().events)[0]["name"] == group_of(leader.term).encode()


def test_a_hello_behind_what_was_sent_gets_it_again(leader: Scheduler, node: Node, redis_client: redis.Redis) -> None:
    submit()
    settle(leader)
    redis_client.delete(Keys().commands("n1"))
    node.hello()
    settle(leader)
    assert [command.seq for command in node.receive()] == [1]


def test_unreadable_events_are_skipped_and_the_rest_applied(
    leader: Scheduler, node: Node, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    job = run(leader, node)
    bad = [
        b"not json",
        b'{"v":1,"kind":"never_heard_of"}',
        b'{"v":1,"kind":"heartbeat"}',
        encode(StopAttempt(seq=1, job_id="x", attempt=1, why="abort")),
    ]
    for message in bad:
        redis_client.xadd(Keys().events, {FIELD: message})
    redis_client.xadd(Keys().events, {b"other": b"field"})
    node.send(
        Heartbeat(executor_id="n1", last_command=1, held=[HeldAttempt(str(job.id), 1), HeldAttempt("no uuid", 1)])
    )
    node.finished(job)
    settle(leader)
    assert fresh(job).state == "SUCCEEDED"
    assert redis_client.xlen(Keys().events) == 0
    assert sum("skipped" in record.message for record in caplog.records) == 5


def test_an_event_that_cannot_be_applied_is_skipped_alone(
    leader: Scheduler, node: Node, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    job = run(leader, node)
    Node(redis_client, "n2").hello(cpu_millicores=-1)
    node.finished(job)
    Node(redis_client, "n3").hello()
    settle(leader)
    assert fresh(job).state == "SUCCEEDED"
    assert set(Executor.objects.values_list("id", flat=True)) == {"n1", "n3"}
    assert any("cannot be applied" in record.message and record.exc_info for record in caplog.records)
    assert redis_client.xlen(Keys().events) == 0


def test_text_from_a_node_is_cut_and_made_storable(leader: Scheduler, node: Node) -> None:
    job = submit()
    settle(leader)
    node.receive()
    node.progress(job, "x" * 1000)
    node.finished(job, "invalid_settings", message="bad\0 name", exit_code=None)
    settle(leader)
    assert fresh(job).reason_text == "bad name"


# --- Asking for a pass -----------------------------------------------------------------------------------------


@pytest.fixture
def pubsub(redis_client: redis.Redis) -> Iterator[Any]:
    with redis_client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe(Keys().changes_channel)
        subscription.get_message(timeout=1)
        yield subscription


def test_who_asks_for_a_pass_hears_what_was_placed_and_what_waits_and_why(
    leader: Scheduler, node: Node, redis_client: redis.Redis
) -> None:
    placed, waiting = submit(cpu_millicores=4000), submit()
    node.send(PassRequest(reply_to=Keys().reply("1")))
    settle(leader)
    answer = json.loads(redis_client.lpop(Keys().reply("1")) or "")
    assert answer == {
        "placed": [
            {
                "job_id": str(placed.id),
                "attempt": 1,
                "executor_id": "n1",
                "executor_name": "n1",
                "gpu_indices": [],
            }
        ],
        "waiting": [{"job_id": str(waiting.id), "reason": "It needs 1 core; 1 executor has that, but it is busy."}],
        "waiting_count": 1,
    }


def test_an_answer_does_not_outlive_who_asked(leader: Scheduler, node: Node, redis_client: redis.Redis) -> None:
    node.send(PassRequest(reply_to=Keys().reply("1")))
    settle(leader)
    assert 0 < redis_client.ttl(Keys().reply("1")) <= 60


def test_an_answer_goes_to_no_key_but_one_for_replies(leader: Scheduler, node: Node, redis_client: redis.Redis) -> None:
    node.send(PassRequest(reply_to="job_logs:1"))
    settle(leader)
    assert not redis_client.exists("job_logs:1")


def test_pages_are_told_which_rows_changed(leader: Scheduler, node: Node, pubsub: Any) -> None:
    job = submit()
    node.send(Wake(job_ids=[str(job.id)]))
    settle(leader)
    message = pubsub.get_message(timeout=2)
    assert json.loads(message["data"]) == {"jobs": [str(job.id)], "executors": ["n1"]}
