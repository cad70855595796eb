"""Executors in Django's admin: closed to new jobs and opened again; the rest is the agent's to say."""

import pytest
import redis
from django.test import Client

from executors.models import Executor
from tests.rows import make_executor


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def test_an_executor_is_closed_to_new_jobs_and_nothing_else_is_written(client: Client) -> None:
    node = make_executor()
    address = f"/admin/executors/executor/{node.id}/change/"
    assert client.get(address).status_code == 200
    assert client.post(address, {"name": "renamed", "state": "LOST", "cpu_millicores": "1"}).status_code == 302
    node.refresh_from_db()
    assert (node.schedulable, node.name, node.state, node.cpu_millicores) == (False, "node-1", "ONLINE", 8000)


def test_only_a_lost_executor_can_be_forgotten(client: Client) -> None:
    for name, state in (("lost", "LOST"), ("here", "ONLINE")):
        make_executor(name, state=state)
        client.post(f"/admin/executors/executor/{name}/delete/", {"post": "yes"})
    assert [executor.name for executor in Executor.objects.all()] == ["here"]


def test_executors_are_found_by_name(client: Client) -> None:
    make_executor("alpha")
    make_executor("beta")
    page = client.get("/admin/executors/executor/?q=alph").content.decode()
    assert "alpha" in page
    assert "beta" not in page
