"""Warm network sandboxes: a job in one is as isolated as without, and none is left over, shared or used again."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker
import pytest

from agent import sandbox_image
from agent.containers import SANDBOX_MEMORY
from agent.engine import Engine
from agent.protocol import AttemptFinished, AttemptRunning, Hello, StartAttempt
from agent.sandboxes import Sandboxes, Starts
from agent.state import State
from script.sample_image import import_busybox
from tests.agent.harness import MB, AgentProcess, wait_for
from tests.faults import private_engine
from tests.faults.private_engine import PrivateEngine

pytestmark = pytest.mark.docker
MakeAgent = Callable[..., AgentProcess]


def sandboxes(agent: AgentProcess, engine: docker.DockerClient) -> list[Any]:
    return [c for c in agent.containers(engine) if "workload-runner.sandbox" in c.labels]


def warm(agent: AgentProcess, engine: docker.DockerClient, number: int = 1) -> list[str]:
    """The ids of the running sandboxes, when there are so many, and the agent had a second to hear of the last."""

    def look() -> list[str]:
        heard = datetime.now(UTC) - timedelta(seconds=1)
        return [
            c.id
            for c in sandboxes(agent, engine)
            if c.status == "running" and datetime.fromisoformat(c.attrs["State"]["StartedAt"]) < heard
        ]

    wait_for(lambda: len(look()) == number, what=f"{number} warm sandboxes")
    return look()


def joined(agent: AgentProcess, start: StartAttempt, engine: docker.DockerClient) -> str:
    """The id of the sandbox whose network the attempt has, or ''. It runs, or its log keeps its container."""
    told = wait_for(lambda: agent.events(AttemptRunning, start) or agent.events(AttemptFinished, start), what="a start")
    container = engine.containers.get(told[0].container_id)
    mode: str = container.attrs["HostConfig"]["NetworkMode"]
    return mode.partition("container:")[2]


@pytest.fixture
def agent(make_agent: MakeAgent) -> AgentProcess:
    return make_agent(AGENT_SANDBOX_POOL="1")


LOOK = """
    hostname; cat /etc/resolv.conf; ip -o addr | grep -v ' lo ' | wc -l; ip route | grep -c default
    grep -c $(hostname) /etc/hosts; test $HOSTNAME = $(hostname) && echo same
    ip -o -4 addr show dev eth0 | tr -s ' ' | cut -d ' ' -f 4; cat /proc/net/dev | wc -l; sleep 2
"""


def test_a_job_in_a_sandbox_sees_what_one_with_a_fresh_network_sees(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    (sandbox,) = warm(agent, docker_client)
    inside = agent.run(test_image, ["sh", "-c", LOOK])
    assert joined(agent, inside, docker_client) == sandbox
    beside = docker_client.containers.run(test_image, ["sh", "-c", LOOK], detach=True)
    try:
        beside.wait()
        fresh = beside.logs().decode().splitlines()
    finally:
        beside.remove(force=True)
    assert agent.finished(inside).reason == "completed"
    ours = agent.texts(inside)
    assert (ours[0], fresh[0]) == (sandbox[:12], beside.id[:12]), "a host name of its own"
    address, other = ours[-2], fresh[-2]
    assert address != other and address.partition("/")[2] == other.partition("/")[2]
    assert ours[1:-2] + ours[-1:] == fresh[1:-2] + fresh[-1:]


def test_each_job_has_a_sandbox_alone_which_goes_with_it(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    used = []
    for _ in range(2):
        (sandbox,) = warm(agent, docker_client)
        start = agent.run(test_image, ["sleep", "30"])
        used.append(joined(agent, start, docker_client))
        assert used[-1] == sandbox
        agent.stop(start)
        agent.finished(start)
        wait_for(lambda sandbox=sandbox: sandbox not in [c.id for c in sandboxes(agent, docker_client)])
    assert len(set(used)) == 2
    assert agent.terminate() == 0
    wait_for(lambda: agent.cleared(docker_client))
    names = docker_client.images.list(name=sandbox_image.REPOSITORY)
    assert len(names) == 1 and names[0].attrs["Size"] < 1000


def test_jobs_that_find_no_sandbox_have_a_network_of_their_own(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    warm(agent, docker_client)
    starts = [agent.run(test_image, ["sleep", "30"]) for _ in range(3)]
    found = [joined(agent, start, docker_client) for start in starts]
    assert len([sandbox for sandbox in found if sandbox]) == 1
    assert len(warm(agent, docker_client, 2)) == 2, "one in use and one in its place"


def test_a_dead_sandbox_is_replaced_and_a_job_that_was_to_join_one_starts_without(
    make_agent: MakeAgent, test_image: str, docker_client: docker.DockerClient
) -> None:
    agent = make_agent(AGENT_SANDBOX_POOL="1", CRASH_POINT="container-created:SIGSTOP")
    (sandbox,) = warm(agent, docker_client)
    docker_client.containers.get(sandbox).kill()
    wait_for(lambda: warm(agent, docker_client) != [sandbox], what="another sandbox")
    (sandbox,) = warm(agent, docker_client)
    start = agent.run(test_image, ["sleep", "0.2"])
    wait_for(lambda: [c for c in agent.containers(docker_client) if c.status == "created"], what="its container")
    docker_client.containers.get(sandbox).remove(force=True)
    assert agent.process
    agent.process.send_signal(signal.SIGCONT)
    assert agent.finished(start).reason == "completed"
    assert "gets a network of its own" in agent.log
    wait_for(lambda: [c.id for c in agent.containers(docker_client)] == warm(agent, docker_client))


@pytest.mark.parametrize("moment", ["sandbox-created", "container-created", "container-started", "end-reported"])
def test_an_agent_that_was_killed_leaves_no_sandbox_but_that_of_a_job_that_goes_on(
    make_agent: MakeAgent, test_image: str, docker_client: docker.DockerClient, moment: str
) -> None:
    agent = make_agent(AGENT_SANDBOX_POOL="1")
    (sandbox,) = warm(agent, docker_client)
    agent.kill()
    agent.environment["CRASH_POINT"] = moment
    if moment == "sandbox-created":
        agent.launch().wait(20)
    else:
        agent.start()
        wait_for(lambda: warm(agent, docker_client) != [sandbox])
    start = agent.run(
        test_image, ["sh", "-c", "ip -o -4 addr show dev eth0 | wc -l; sleep 1; ip -o -4 addr show dev eth0 | wc -l"]
    )
    assert agent.process
    agent.process.wait(20)
    del agent.environment["CRASH_POINT"]
    agent.start()
    assert agent.finished(start).reason == "completed"
    assert agent.texts(start) == ["1", "1"], "it had its network to the end"
    agent.archive()
    wait_for(lambda: [c.id for c in agent.containers(docker_client)] == warm(agent, docker_client))


@pytest.mark.parametrize("option", ["", "--live-restore"], ids=["containers die with it", "containers live on"])
def test_an_engine_that_was_killed_leaves_no_dead_sandbox_to_join(
    make_agent: MakeAgent, docker_client: docker.DockerClient, option: str
) -> None:
    if os.geteuid() != 0 or not private_engine.available():
        pytest.skip("A DOCKERD OF ITS OWN NEEDS ROOT AND dockerd, so its end is not tested here")
    with (
        tempfile.TemporaryDirectory(prefix="engine-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        PrivateEngine(Path(folder), *filter(None, [option])) as engine,
    ):
        image = "workload-runner-test:latest"
        import_busybox(engine.client, image)
        agent = make_agent(AGENT_SANDBOX_POOL="1", DOCKER_HOST=engine.host)
        (first,) = warm(agent, engine.client)
        under_way = agent.run(image, ["sh", "-c", "sleep 4; echo done"])
        assert joined(agent, under_way, engine.client) == first
        warm(agent, engine.client, 2)
        engine.end(signal.SIGKILL)
        engine.start()
        finished = agent.finished(under_way)
        assert finished.reason == ("completed" if option else "engine_error")
        start = agent.run(image, ["echo", "late"])
        assert agent.finished(start).reason == "completed"
        assert agent.texts(start) == ["late"]
        agent.archive()
        wait_for(lambda: [c.id for c in agent.containers(engine.client)] == warm(agent, engine.client))
        assert agent.terminate() == 0
        wait_for(lambda: agent.cleared(engine.client))


def test_a_pull_does_not_keep_a_sandbox_from_others(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    (sandbox,) = warm(agent, docker_client)
    assert agent.finished(agent.run("127.0.0.1:1/no/such-image:1", ["true"])).reason == "image_pull_failed"
    start = agent.run(test_image, ["sleep", "30"])
    assert joined(agent, start, docker_client) == sandbox


class Pool:
    """Sandboxes without an agent, with a state folder and an engine of their own."""

    def __init__(self, folder: Path, docker_client: docker.DockerClient, size: int) -> None:
        self._docker, self._engine = docker_client, Engine()
        self._state = State(folder, "pool")
        self.sandboxes = Sandboxes(self._engine, self._state, size, Starts(1))

    async def __aenter__(self) -> "Pool":
        await self._engine.connect()
        self._running = asyncio.create_task(self.sandboxes.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.sandboxes.close(10)
        assert not self._ids(all=True)
        self._engine.close()
        self._state.close()

    def _ids(self, **options: Any) -> set[str]:
        filters = {"label": f"workload-runner.executor={self._state.executor_id}"}
        return {found["Id"] for found in self._docker.api.containers(filters=filters, **options)}

    async def idle(self, number: int, *, but: set[str] | None = None) -> set[str]:
        """The ids of those that run and are not about to be removed, when they are so many, and others than these."""
        for _ in range(500):
            found = {sandbox_id for sandbox_id in self._ids() if self.sandboxes.keeps(sandbox_id, "not being made")}
            if len(found) == number and found != but:
                return found
            await asyncio.sleep(0.05)
        pytest.fail(f"there were not {number} within 25 s")

    async def take(self) -> str:
        for _ in range(1000):
            if taken := self.sandboxes.take(again=True):
                return taken
            await asyncio.sleep(0.02)
        pytest.fail("there was no sandbox within 20 s")


async def test_a_sandbox_is_for_one_alone_and_none_that_was_made_before_the_nodes_dns_changed_is_given_out(
    docker_client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dns = tmp_path / "resolv.conf"
    dns.write_text("nameserver 192.0.2.1")
    monkeypatch.setattr("agent.sandboxes.DNS_FILES", (dns,))
    async with Pool(tmp_path, docker_client, 1) as pool:
        first = await pool.take()
        assert pool.sandboxes.take() == ""
        pool.sandboxes.give_back(first)
        assert pool.sandboxes.take() == first
        pool.sandboxes.give_back(first)
        dns.write_text("nameserver 192.0.2.2")
        assert pool.sandboxes.take() == ""
        second = await pool.take()
        assert second != first
        dns.write_text("nameserver 192.0.2.3")
        pool.sandboxes.give_back(second)
        third = await pool.take()
        assert third not in (first, second), "given back, and too old by then"
        pool.sandboxes.discard(third)


async def test_the_oldest_idle_one_is_replaced_now_and_then_and_all_where_the_engine_gives_other_dns_settings(
    docker_client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for an agent in a container, which does not see those of the node."""
    monkeypatch.setattr("agent.sandboxes.DNS_FILES", ())
    monkeypatch.setattr("agent.sandboxes.LOOK_SECONDS", 2)
    given, really = b"", Engine.file_in

    async def file_in(engine: Engine, container_id: str, path: str) -> bytes:
        return await really(engine, container_id, path) + given

    monkeypatch.setattr(Engine, "file_in", file_in)
    async with Pool(tmp_path, docker_client, 2) as pool:
        before = await pool.idle(2)
        after = await pool.idle(2, but=before)
        assert len(before & after) == 1
        given = b"nameserver 192.0.2.2\n"
        assert not after & await pool.idle(2, but=after)


async def test_the_engine_tells_which_dns_settings_it_gave(docker_client: docker.DockerClient, test_image: str) -> None:
    container = docker_client.containers.run(test_image, ["sleep", "30"], detach=True, dns=["192.0.2.7"])
    engine = Engine()
    try:
        assert await engine.file_in(container.id, "/etc/resolv.conf") == b"nameserver 192.0.2.7\n"
    finally:
        engine.close()
        container.remove(force=True)


async def test_as_many_are_kept_as_came_at_once_also_by_the_next_agent_and_few_when_that_is_long_ago(
    docker_client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sandboxes.PACE_SECONDS", 0)
    async with Pool(tmp_path, docker_client, 4) as pool:
        await pool.idle(2)
        taken = [pool.sandboxes.take() for _ in range(5)]
        assert [bool(sandbox_id) for sandbox_id in taken] == [True, True, False, False, False]
        pool.sandboxes.take(again=True)
        for sandbox_id in taken[:2]:
            pool.sandboxes.discard(sandbox_id)
        await pool.idle(4)
        assert (tmp_path / "bursts").read_text().endswith(", 5]]"), "at once: an agent may be killed"
    async with Pool(tmp_path, docker_client, 3) as pool:
        await pool.idle(3)
        await asyncio.sleep(0.5)
        await pool.idle(3)
        monkeypatch.setattr("agent.bursts.REMEMBERED_SECONDS", -1)
        pool.sandboxes.give_back(await pool.take())
        await pool.idle(2)
        await asyncio.sleep(0.5)
        await pool.idle(2)


async def test_a_gap_within_a_burst_is_no_rest() -> None:
    starts = Starts(1)
    resting = asyncio.create_task(starts.rest(0.05))
    await asyncio.sleep(0)
    async with starts.slot():
        pass
    assert not await resting
    assert await starts.rest(0.05)


def test_sandboxes_count_in_the_reserve(make_agent: MakeAgent) -> None:
    assert make_agent(AGENT_SANDBOX_POOL="2").events(Hello)[-1].reserve_memory_bytes == 2 * SANDBOX_MEMORY
    more = make_agent(AGENT_SANDBOX_POOL="2", AGENT_RESERVE_MEMORY_GB="1").events(Hello)[-1]
    assert more.reserve_memory_bytes == 1024 * MB


LISTEN = "nc -l -p 80 & while ! grep -q :0050 /proc/net/tcp*; do sleep 0.1; done; "


def test_an_image_that_exposes_ports_runs_in_a_sandbox(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    (sandbox,) = warm(agent, docker_client)
    made = docker_client.containers.create(test_image, ["true"])
    image = made.commit(changes="EXPOSE 80/tcp")
    made.remove()
    try:
        start = agent.run(image.id, ["sh", "-c", LISTEN + "echo hi | nc $(hostname) 80; wait"])
        assert joined(agent, start, docker_client) == sandbox
        assert agent.finished(start).reason == "completed"
        assert agent.texts(start) == ["hi"]
        agent.archive()
        wait_for(lambda: image.id not in [c.image.id for c in agent.containers(docker_client)])
    finally:
        docker_client.images.remove(image.id, force=True)
