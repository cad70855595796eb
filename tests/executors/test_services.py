"""Cordon, drain, resume, label, forget; and the events that tell of them."""

from datetime import timedelta

import pytest
import redis
from django.utils import timezone

from agent.protocol import Hello
from executors import events, registry, services
from executors.broker import keys
from executors.models import Executor, ExecutorEvent
from jobs.lifecycle import State
from jobs.models import Attempt
from jobs.reasons import never_fits
from jobs.snapshot import view_of
from tests.rows import make_executor, make_job

pytestmark = pytest.mark.usefixtures("db", "redis_client")


def kinds(executor: Executor) -> list[str]:
    return [event.kind for event in executor.events.order_by("id")]


def again(executor: Executor) -> Executor:
    executor.refresh_from_db()
    return executor


def test_a_cordoned_executor_is_closed_until_it_is_resumed() -> None:
    node = make_executor()
    services.cordon(node.id, "ada")
    services.cordon(node.id, "ada")
    assert again(node).duty(3) == "CORDONED"
    assert view_of(node).closed
    services.resume(node.id, "ada")
    assert again(node).duty(3) == ""
    assert kinds(node) == ["cordoned", "resumed"]
    assert node.events.first().by == "ada"


def test_a_drain_waits_for_running_jobs_and_says_when_the_last_is_gone() -> None:
    node = make_executor()
    job = make_job(State.RUNNING, node)
    services.drain(node.id)
    assert (again(node).drain_jobs, node.duty(1), node.duty(0)) == (1, "DRAINING", "DRAINED")
    assert events.note_drained(timezone.now()) == []
    Attempt.objects.filter(job=job).update(state=State.SUCCEEDED, finished_at=timezone.now())
    assert events.note_drained(timezone.now()) == [node.id]
    assert events.note_drained(timezone.now()) == []
    assert kinds(node) == ["draining", "drained"]


def test_an_idle_executor_is_drained_at_once_and_can_be_drained_again_later() -> None:
    node = make_executor()
    services.drain(node.id)
    assert events.note_drained(timezone.now()) == []
    services.resume(node.id)
    make_job(State.RUNNING, node)
    services.drain(node.id)
    assert events.note_drained(timezone.now()) == []
    assert kinds(node) == ["draining", "drained", "resumed", "draining"]


def test_cordoning_a_draining_executor_ends_the_drain_and_keeps_it_closed() -> None:
    node = make_executor()
    make_job(State.RUNNING, node)
    services.drain(node.id)
    services.cordon(node.id)
    assert again(node).duty(1) == "CORDONED"


def test_operators_labels_win_over_the_agents_and_count_for_placement() -> None:
    node = make_executor(labels={"zone": "eu", "disk": "ssd"})
    services.change_labels(node.id, {"zone": "us", "rack": "7"})
    assert again(node).placement_labels == {"zone": "us", "disk": "ssd", "rack": "7"}
    assert never_fits(make_job(labels={"zone": "us", "rack": "7"})) == ""
    assert "zone=eu" in never_fits(make_job(labels={"zone": "eu"}))
    services.change_labels(node.id, {"zone": None})
    assert again(node).placement_labels == {"zone": "eu", "disk": "ssd", "rack": "7"}
    assert again(node).labels == {"zone": "eu", "disk": "ssd"}


def test_labels_that_cannot_be_are_refused_by_name_and_nothing_is_changed() -> None:
    node = make_executor()
    with pytest.raises(services.InvalidLabels) as caught:
        services.change_labels(node.id, {"two words": "x", "ok": "1", "long": "x" * 300, "lines": "a\nb"})
    assert sorted(caught.value.fields) == ["lines", "long", "two words"]
    assert again(node).operator_labels == {}
    with pytest.raises(services.InvalidLabels, match="at most 50"):
        services.change_labels(node.id, {f"n{number}": "" for number in range(51)})


def test_an_executor_on_which_jobs_run_is_not_forgotten() -> None:
    node = make_executor()
    make_job(State.RUNNING, node)
    with pytest.raises(services.ExecutorInUse, match="1 job still counts as running there"):
        services.forget(node.id)
    assert Executor.objects.count() == 1


def test_a_forgotten_executor_leaves_no_key_and_its_jobs_keep_its_name(redis_client: redis.Redis) -> None:
    node = make_executor(state="LOST")
    job = make_job(State.SUCCEEDED, node)
    services.cordon(node.id)
    redis_client.xadd(keys().samples(node.id), {"t": 1})
    redis_client.xadd(keys().commands(node.id), {"m": "x"})
    redis_client.set(keys().images(node.id), "[]")
    services.forget(node.id)
    assert not [key for key in redis_client.scan_iter() if b"executor:" in key]
    assert ExecutorEvent.objects.count() == 0
    attempt = job.attempts.get()
    assert (attempt.executor, attempt.executor_name) == (None, "node-1")


def test_an_agent_of_a_forgotten_executor_is_registered_anew() -> None:
    node = make_executor(last_command=7, passed_command=7)
    services.forget(node.id)
    hello = Hello(
        executor_id=node.id, name="node-1", address="", cpu_millicores=1000, memory_bytes=10**9, last_command=7
    )
    registry.record([hello], (), timezone.now())
    back = Executor.objects.get()
    assert (back.state, back.last_command, kinds(back)) == ("ONLINE", 7, ["joined"])


@pytest.mark.parametrize("action", [services.cordon, services.drain, services.resume, services.forget])
@pytest.mark.parametrize("executor_id", ["nobody", "nul\0"])
def test_an_unknown_executor_is_named(action: object, executor_id: str) -> None:
    with pytest.raises(services.ExecutorNotFound, match="There is no executor"):
        action(executor_id)  # type: ignore[operator]


def test_events_are_pruned_by_age_and_by_number() -> None:
    now, node, quiet = timezone.now(), make_executor(), make_executor("quiet")
    many = [ExecutorEvent(executor=node, kind="lost", at=now, text=str(n)) for n in range(events.KEPT_EACH + 5)]
    ExecutorEvent.objects.bulk_create([*many, ExecutorEvent(executor=quiet, kind="lost", at=now)])
    ExecutorEvent.objects.create(executor=quiet, kind="joined", at=now - timedelta(days=events.KEPT_DAYS + 1))
    events.prune(now)
    texts = [event.text for event in node.events.order_by("id")]
    assert (len(texts), texts[0], texts[-1]) == (events.KEPT_EACH, "5", str(events.KEPT_EACH + 4))
    assert kinds(quiet) == ["lost"]
