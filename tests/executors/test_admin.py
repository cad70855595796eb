"""Executors in Django's admin: cordoned, drained, resumed, forgotten; the rest is the agent's to say."""

import pytest
import redis
from django.http import HttpResponse
from django.test import Client

from executors.models import Executor, ExecutorEvent
from jobs.lifecycle import State
from tests.rows import make_executor, make_job


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def act(client: Client, action: str, *executors: Executor) -> HttpResponse:
    form = {"action": action, "_selected_action": [executor.id for executor in executors]}
    return client.post("/admin/executors/executor/", form, follow=True)


def test_the_page_shows_events_and_changes_nothing(client: Client) -> None:
    node = make_executor()
    ExecutorEvent.objects.create(executor=node, kind="lost", at=node.last_heartbeat_at, text="No heartbeat.")
    address = f"/admin/executors/executor/{node.id}/change/"
    assert "No heartbeat." in client.get(address).content.decode()
    inline = {"events-TOTAL_FORMS": "0", "events-INITIAL_FORMS": "0"}
    client.post(address, {"name": "renamed", "state": "LOST", "schedulable": "", "cpu_millicores": "1", **inline})
    node.refresh_from_db()
    assert (node.schedulable, node.name, node.state, node.cpu_millicores) == (True, "node-1", "ONLINE", 8000)


def test_selected_executors_are_cordoned_drained_and_resumed(client: Client) -> None:
    nodes = [make_executor("a"), make_executor("b")]
    assert "2 cordoned." in act(client, "cordon", *nodes).content.decode()
    assert [node.duty(0) for node in Executor.objects.all()] == ["CORDONED", "CORDONED"]
    act(client, "drain", nodes[0])
    assert [node.duty(1) for node in Executor.objects.all()] == ["DRAINING", "CORDONED"]
    act(client, "resume", *nodes)
    assert all(node.schedulable for node in Executor.objects.all())


def test_only_an_executor_without_jobs_is_forgotten(client: Client) -> None:
    lost, busy = make_executor("lost", state="LOST"), make_executor("busy")
    make_job(State.RUNNING, busy)
    page = act(client, "forget", lost, busy).content.decode()
    assert "Busy cannot be forgotten" in page
    assert [executor.name for executor in Executor.objects.all()] == ["busy"]
    client.post("/admin/executors/executor/busy/delete/", {"post": "yes"})
    assert Executor.objects.count() == 1


def test_executors_are_found_by_name(client: Client) -> None:
    make_executor("alpha")
    make_executor("beta")
    page = client.get("/admin/executors/executor/?q=alph").content.decode()
    assert "alpha" in page
    assert "beta" not in page
