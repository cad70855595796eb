"""What containers use: from the kernel's files or the engine's answer, the same numbers."""

import time
from asyncio import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from agent.agent import Agent
from agent.attempt import Attempt
from agent.protocol import StartAttempt, Use
from agent.state import Record
from agent.usage import CGROUPS, Peaks, Reading, from_stats, read_cgroup

MB = 1024**2
IO_V1 = "blkio__throttle__io_service_bytes"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_cgroup_v2_is_read_without_the_cache_that_can_be_dropped(tmp_path: Path) -> None:
    write(
        tmp_path / "system.slice" / "docker-abc.scope",
        memory__current="5000\n",
        memory__peak="9000\n",
        memory__stat="anon 3000\ninactive_file 1500\n",
        cpu__stat="usage_usec 2500000\nuser_usec 1\n",
        cgroup__procs="",
        io__stat="8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=5 wbytes=0 rios=1 wios=0\n",
    )
    assert read_cgroup("abc", tmp_path) == Reading(2.5, 3500, 9000, read_bytes=15, written_bytes=20)


def test_cgroup_v1_is_read_too_and_what_is_gone_is_none(tmp_path: Path) -> None:
    write(
        tmp_path / "memory" / "docker" / "abc",
        memory__usage_in_bytes="5000\n",
        memory__max_usage_in_bytes="6000\n",
        memory__stat="cache 1\ntotal_inactive_file 1000\n",
        cgroup__procs="",
    )
    write(tmp_path / "cpuacct" / "docker" / "abc", cpuacct__usage="1500000000\n")
    write(tmp_path / "blkio" / "docker" / "abc", **{IO_V1: "8:0 Read 7\n8:0 Write 9\n8:0 Total 16\nTotal 16\n"})
    assert read_cgroup("abc", tmp_path) == Reading(1.5, 4000, 6000, read_bytes=7, written_bytes=9)
    (tmp_path / "cpuacct" / "docker" / "abc" / "cpuacct.usage").unlink()
    assert read_cgroup("abc", tmp_path) is None
    assert read_cgroup("other", tmp_path) is None


def test_a_container_is_looked_at_only_once_its_command_was_started() -> None:
    size = {"cpu_millicores": 1000, "memory_bytes": MB, "timeout_seconds": 60}
    start = StartAttempt(seq=1, job_id="j", attempt=1, image="i", command=[], **size)
    node: Any = SimpleNamespace(engine=SimpleNamespace(generation=0))
    attempt = Attempt(node, Record(start, container_id="abc"), lambda *_: Future(), fresh=False)
    agent = Agent.__new__(Agent)
    agent._held = {("j", 1): attempt}
    assert agent._running_now() == []
    attempt._told_running = True
    assert [running.container_id for running in agent._running_now()] == ["abc"]


def test_peaks_are_the_highest_of_what_comes_and_goes_and_the_last_of_what_grows() -> None:
    peaks = Peaks()
    assert peaks.use() is None
    peaks.take(Reading(1.0, 5, 9, 100, 0), None, 1000, (20.0, 500))
    peaks.take(Reading(3.4, 4, 9, 300, 0), 990, 1000, (90.4, 400))
    peaks.take(Reading(3.6, 4, 9, 300, 0), 100, 1000, None)
    assert peaks.use() == Use(
        samples=2, held_back=1, cpu_millicores=990, memory_bytes=9, cpu_seconds=4, received_bytes=300,
        gpu_percent=90, gpu_memory_bytes=500,
    )  # fmt: skip


def test_the_kernel_and_the_engine_say_the_same_of_a_container(
    docker_client: docker.DockerClient, test_image: str
) -> None:
    script = "head -c 40000000 /dev/zero | tail & while :; do :; done"
    container = docker_client.containers.run(test_image, ["sh", "-c", script], detach=True, mem_limit="128m")
    try:
        deadline = time.monotonic() + 20
        while True:
            by_engine = from_stats(docker_client.api.stats(container.id, stream=False, one_shot=True))
            by_kernel = read_cgroup(str(container.id))
            if by_engine and by_engine.cpu_seconds > 0.5 and by_engine.peak_memory_bytes > 30 * MB:
                break
            assert time.monotonic() < deadline
        if by_kernel is None:
            pytest.skip(f"THE CGROUP FILES OF CONTAINERS ARE NOT UNDER {CGROUPS}, so only the engine was asked")
        assert by_kernel.cpu_seconds == pytest.approx(by_engine.cpu_seconds, abs=0.5)
        assert by_kernel.peak_memory_bytes == pytest.approx(by_engine.peak_memory_bytes, abs=20 * MB)
        assert (by_kernel.received_bytes is None) is False
        assert (by_kernel.read_bytes is None) is False
    finally:
        container.remove(force=True)


def test_what_a_container_wrote_is_counted_whatever_its_cgroup_says_also_by_processes_that_ended(
    docker_client: docker.DockerClient, test_image: str
) -> None:
    script = "dd if=/dev/zero of=/big bs=1M count=8 conv=fsync; echo written; sleep 60"
    container = docker_client.containers.run(test_image, ["sh", "-c", script], detach=True)
    try:
        assert any(b"written" in line for line in container.logs(stream=True, follow=True))
        reading = read_cgroup(str(container.id))
        if reading is None:
            pytest.skip(f"THE CGROUP FILES OF CONTAINERS ARE NOT UNDER {CGROUPS}, so nothing was counted")
        assert reading.written_bytes is not None
        assert 8 * MB <= reading.written_bytes < 10 * MB
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("said", [None, {}, {"memory_stats": None}, {"memory_stats": {}}])
def test_an_engine_that_says_nothing_of_a_container_that_just_ended_gives_no_reading(
    said: dict[str, Any] | None,
) -> None:
    assert from_stats(said) is None
