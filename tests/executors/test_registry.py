from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from agent.protocol import Gpu, Heartbeat, Hello
from executors import registry
from executors.models import Executor

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def hello(**more: Any) -> Hello:
    said = {"name": "node", "address": "10.0.0.1", "cpu_millicores": 4000, "memory_bytes": 8, "last_command": 0, **more}
    return Hello(executor_id="n1", **said)


def heartbeat(last_command: int = 0, problem: str = "", executor_id: str = "n1") -> Heartbeat:
    return Heartbeat(executor_id=executor_id, last_command=last_command, problem=problem)


def test_a_hello_registers_the_node_with_all_it_says() -> None:
    gpu = Gpu(0, "GPU-0", "Tesla T4", 16)
    report = registry.record([hello(gpus=[gpu], labels={"zone": "eu"}, reserve_cpu_millicores=500)], (), NOW)
    row = Executor.objects.get()
    assert (row.id, row.name, row.address, row.state) == ("n1", "node", "10.0.0.1", "ONLINE")
    assert (row.allocatable_cpu_millicores, row.memory_bytes, row.labels) == (3500, 8, {"zone": "eu"})
    assert row.gpus == [{"index": 0, "uuid": "GPU-0", "model": "Tesla T4", "memory_bytes": 16}]
    assert row.last_heartbeat_at == NOW
    assert report.lines == ["executor node (n1) joined"]


def test_a_second_hello_describes_the_node_anew_and_keeps_what_an_operator_set() -> None:
    registry.record([hello()], (), NOW)
    Executor.objects.update(schedulable=False)
    report = registry.record([hello(cpu_millicores=2000, name="renamed")], (), NOW)
    row = Executor.objects.get()
    assert (row.cpu_millicores, row.name, row.schedulable) == (2000, "renamed", False)
    assert report.lines == []


def test_a_heartbeat_names_a_problem_and_its_end() -> None:
    registry.record([hello()], (), NOW)
    report = registry.record([heartbeat(problem="Docker does not answer.")], (), NOW)
    row = Executor.objects.get()
    assert (row.state, row.problem) == ("UNHEALTHY", "Docker does not answer.")
    assert report.lines == ["executor node (n1) unhealthy: Docker does not answer."]
    assert registry.record([heartbeat(problem="Docker does not answer.")], (), NOW).lines == []
    assert registry.record([heartbeat()], (), NOW).lines == ["executor node (n1) is well again"]
    assert Executor.objects.get().problem == ""


def test_a_lost_executor_comes_back_with_a_heartbeat() -> None:
    registry.record([hello()], (), NOW)
    assert "lost: No heartbeat since" in registry.lose(Executor.objects.all(), NOW)[0]
    assert Executor.objects.get().state == "LOST"
    later = NOW + timedelta(minutes=5)
    assert registry.record([heartbeat()], (), later).lines == ["executor node (n1) is back"]
    row = Executor.objects.get()
    assert (row.state, row.problem, row.last_heartbeat_at) == ("ONLINE", "", later)


def test_an_executor_that_holds_superseded_attempts_gets_no_jobs_meanwhile() -> None:
    registry.record([hello()], (), NOW)
    registry.record([heartbeat()], {"n1"}, NOW)
    assert Executor.objects.get().state == "UNHEALTHY"
    registry.record([heartbeat()], (), NOW)
    assert Executor.objects.get().state == "ONLINE"


def test_what_an_agent_has_passed_never_goes_back() -> None:
    registry.record([hello(last_command=7)], (), NOW)
    registry.record([hello(last_command=0)], (), NOW)
    assert Executor.objects.get().passed_command == 7


def test_an_agent_ahead_of_the_database_raises_its_counter() -> None:
    registry.record([hello(last_command=7)], (), NOW)
    assert Executor.objects.get().last_command == 7


def test_a_heartbeat_of_a_node_that_never_said_hello_registers_nothing() -> None:
    report = registry.record([heartbeat(executor_id="unknown")], (), NOW)
    assert report.strangers == {"unknown"}
    assert not Executor.objects.exists()
