"""Ended containers are kept until their logs are archived, so that no log goes with Redis's memory."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import docker
import pytest
import redis
import redis.asyncio

from agent import kept
from agent.kept import Kept, Standing, standing
from agent.protocol import AttemptFinished, Heartbeat, Hello, Keys, StartAttempt
from agent.sandboxes import Starts
from tests.agent.harness import AgentProcess, wait_for

MakeAgent = Callable[..., AgentProcess]


# --- How a log stands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, Standing.LOST),
        ({"attempt": 1}, Standing.LOST),
        ({"attempt": 2, "complete": 0, "lines": 5}, Standing.LOST),
        ({"attempt": 2, "complete": 1, "lines": 5}, Standing.WAITING),
        ({"attempt": 2, "complete": 1, "lines": 5, "archived": 4}, Standing.WAITING),
        ({"attempt": 2, "complete": 1, "lines": 5, "archived": 5}, Standing.ARCHIVED),
        ({"attempt": 4, "complete": 0, "lines": 9, "begin:2": 2, "begin:4": 5, "archived": 4}, Standing.WAITING),
        ({"attempt": 4, "complete": 0, "lines": 9, "begin:2": 2, "begin:4": 5, "archived": 5}, Standing.ARCHIVED),
        # A later one began in an emptied Redis: nothing of this one can be put before it.
        ({"attempt": 4, "complete": 0, "lines": 9, "begin:4": 5, "archived": 0}, Standing.ARCHIVED),
    ],
)
def test_a_log_stands_as_redis_says(meta: dict[str, int], expected: Standing) -> None:
    assert standing({name.encode(): b"%d" % value for name, value in meta.items()}, 2) is expected


class KeptLogs:
    """`Kept` on a real Redis, looking so often that no test waits."""

    def __init__(self, url: str) -> None:
        async def patiently(call: Callable[[], Any]) -> Any:
            return await call()

        self.client = redis.asyncio.Redis.from_url(url)
        link: Any = SimpleNamespace(client=self.client, keys=Keys(), patiently=patiently)
        self.kept = Kept(link, Starts(1))
        self.looking = asyncio.create_task(self.kept.run())

    async def close(self) -> None:
        self.looking.cancel()
        await self.client.aclose()

    async def write(self, job_id: str, **meta: int) -> None:
        await self.client.hset(f"job_logs_meta:{job_id}", mapping={"attempt": 1, "complete": 1, "lines": 3, **meta})


@pytest.fixture
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LOOK_SECONDS", 0.01)


async def test_what_is_archived_is_told_apart_from_what_waits_and_from_what_is_lost(
    redis_server: str, redis_client: redis.Redis, short_looks: None
) -> None:
    logs = KeptLogs(redis_server)
    await logs.write("archived", archived=3)
    await logs.write("waiting")
    waiting = asyncio.create_task(logs.kept.archived(("waiting", 1)))
    assert await logs.kept.archived(("archived", 1))
    assert not await logs.kept.archived(("lost", 1))
    assert not waiting.done()
    await logs.write("waiting", archived=3)
    assert await waiting
    await logs.close()


async def test_a_log_that_nobody_archives_is_given_up_after_so_many_looks_however_often_it_is_lost(
    redis_server: str,
    redis_client: redis.Redis,
    short_looks: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(kept, "MOST_LOOKS", 5)
    logs = KeptLogs(redis_server)
    await logs.write("waiting")
    assert await logs.kept.archived(("waiting", 1))
    assert [await logs.kept.archived(("lost", 1)) for _ in range(5)] == [False] * 4 + [True]
    assert [record.args[:2] for record in caplog.records] == [("waiting", 1), ("lost", 1)]  # type: ignore[index]
    await logs.close()


async def test_of_too_many_the_oldest_is_given_up_and_all_are_where_the_disk_is_full(
    redis_server: str, redis_client: redis.Redis, short_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_KEPT", 2)
    logs = KeptLogs(redis_server)
    tasks = []
    for job_id in ("a", "b", "c"):
        await logs.write(job_id)
        tasks.append(asyncio.create_task(logs.kept.archived((job_id, 1))))
    assert await tasks[0]
    assert not (tasks[1].done() or tasks[2].done())
    logs.kept.give_up_all("Docker's disk is full")
    assert await asyncio.gather(*tasks) == [True] * 3
    await logs.close()


# --- An agent that keeps them ----------------------------------------------------------------------------------


def complete(agent: AgentProcess, start: StartAttempt) -> bool:
    return agent.log_meta(start).get("complete") == "1"


@pytest.mark.docker
def test_an_ended_container_is_kept_until_its_log_is_archived_and_takes_no_room(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    start = agent.run(test_image, ["echo", "hello"], cpu_millicores=4000)
    agent.finished(start)
    silent = agent.run(test_image, ["true"], cpu_millicores=4000)
    assert agent.finished(silent).reason == "completed"
    wait_for(lambda: [c.name for c in agent.containers(docker_client)] == [f"job-{start.job_id}-1"])
    assert agent.events(Hello)[-1].held == []
    wait_for(lambda: agent.cleared(docker_client))
    assert not list((agent.directory / "state" / "attempts").glob("*.json"))


@pytest.mark.docker
@pytest.mark.parametrize("killed", [False, True], ids=["agent stays", "agent killed"])
def test_5_a_log_that_redis_loses_before_it_is_archived_is_written_again(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient, killed: bool
) -> None:
    start = agent.run(test_image, ["sh", "-c", "seq 3000; echo err >&2; printf rest; exit 3"])
    first = agent.finished(start)
    before = agent.log_lines(start)
    if killed:
        agent.kill()
    agent.client.flushall()
    if killed:
        agent.start()
        assert agent.events(Hello)[0].held == []
    wait_for(lambda: complete(agent, start))
    assert agent.texts(start) == [*map(str, range(1, 3001)), "rest"]
    assert agent.texts(start, "stderr") == ["err"]
    assert len(agent.log_lines(start)) == len(before)
    wait_for(lambda: agent.cleared(docker_client))
    assert set(map(repr, agent.events(AttemptFinished, start))) <= {repr(first)}, "told again, it is the same"


@pytest.mark.docker
def test_5_what_an_earlier_attempt_printed_comes_first_in_an_emptied_redis(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    first = agent.run(test_image, ["sh", "-c", "echo a; echo b; exit 1"])
    agent.finished(first)
    second = agent.run(test_image, ["sh", "-c", "echo c; sleep 1.5; echo d"], job_id=first.job_id, attempt=2)
    wait_for(lambda: agent.texts(second) == ["a", "b", "c"])
    agent.client.flushall()
    agent.finished(second)
    assert agent.texts(second) == ["a", "b", "c", "d"]
    wait_for(lambda: agent.cleared(docker_client))
    assert agent.log_meta(second)["complete"] == "1"


@pytest.mark.docker
def test_1_into_an_emptied_redis_what_ended_comes_before_any_heartbeat(make_agent: MakeAgent, test_image: str) -> None:
    """A heartbeat alone would say that the attempt is gone, and its job would run again."""
    agent = make_agent(AGENT_SAMPLE_INTERVAL="60")
    start = agent.run(test_image, ["true"])
    agent.finished(start)
    wait_for(lambda: agent.client.exists(agent.keys.samples(agent.id)), what="the first sample")
    agent.client.flushall()
    wait_for(lambda: agent.events(Heartbeat))
    first = agent.all_events()[0]
    assert isinstance(first, AttemptFinished) and first.job_id == start.job_id
