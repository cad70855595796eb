"""Jobs that behave badly: each ends for a reason in words, and the node stays well."""

import io
import shutil
import socket
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import docker
import psutil
import pytest

from agent.protocol import AttemptFinished
from tests.agent.harness import MB, AgentProcess, wait_for

pytestmark = pytest.mark.docker
MakeAgent = Callable[..., AgentProcess]


def processes_with(mark: str) -> list[psutil.Process]:
    """Processes of this machine, in containers or not, that have `mark` among their arguments."""
    return [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or [])]


def add_file(image: str, path: str, content: bytes, mode: int, engine: docker.DockerClient) -> str:
    """A new image: that one with a file more. The caller removes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = len(content), mode
        tar.addfile(entry, io.BytesIO(content))
    container = engine.containers.create(image, ["true"])
    try:
        container.put_archive("/", buffer.getvalue())
        return str(container.commit(changes=f'ENTRYPOINT ["/{path}"]').id)
    finally:
        container.remove()


def program_for_arm() -> bytes:
    """A real program, but for the one number that says which processor it is for."""
    program = bytearray(Path(shutil.which("busybox") or sys.executable).read_bytes()[:100_000])
    program[18:20] = b"\xb7\0"
    return bytes(program)


def test_a_job_that_prints_nothing_has_an_empty_and_complete_log(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["true"])
    assert agent.finished(start).reason == "completed"
    assert agent.log_lines(start) == []
    assert agent.log_meta(start)["complete"] == "1"


def test_binary_output_is_kept_as_text_that_shows_where_it_was_none(agent: AgentProcess, test_image: str) -> None:
    script = r"printf 'a\000b\377\376c\r\n\033[31mred\n'; head -c 200000 /dev/urandom; printf '\nend'"
    start = agent.run(test_image, ["sh", "-c", script])
    assert agent.finished(start).reason == "completed"
    texts = agent.texts(start)
    assert texts[:2] == [
        "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}c\r",
        "\x1b[31mred",
    ]
    assert texts[-1] == "end"
    assert all("\0" not in text for text in texts)


def test_a_line_of_100_mb_without_an_end_costs_the_agent_little_memory(agent: AgentProcess, test_image: str) -> None:
    agent.finished(agent.run(test_image, ["true"]))
    assert agent.process
    process = psutil.Process(agent.process.pid)
    before = most = process.memory_info().rss
    script = "dd if=/dev/zero bs=1000000 count=100 2>/dev/null | tr '\\0' x"
    start = agent.run(test_image, ["sh", "-c", script], timeout_seconds=300)
    deadline = time.monotonic() + 120
    while not agent.events(AttemptFinished, start):
        most = max(most, process.memory_info().rss)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert agent.finished(start).reason == "completed"
    assert most - before < 60 * MB
    sizes = [len(text) for text in agent.texts(start)]
    assert max(sizes) == 64 * 1024
    assert sum(sizes) == 100_000_000 or int(agent.log_meta(start)["dropped"]) > 0
    assert agent.finished(agent.run(test_image, ["true"])).reason == "completed"


def test_children_that_outlive_the_command_end_with_it(agent: AgentProcess, test_image: str) -> None:
    mark = "7351.25"
    start = agent.run(test_image, ["sh", "-c", f"setsid sleep {mark} & (sleep {mark} &); sleep 0.5; echo done"])
    wait_for(lambda: len(processes_with(mark)) == 2)
    assert agent.finished(start, seconds=10).reason == "completed"
    assert agent.texts(start) == ["done"]
    assert processes_with(mark) == []


def test_a_stopped_job_that_ignores_sigterm_takes_its_children_with_it(agent: AgentProcess, test_image: str) -> None:
    mark = "7352.25"
    script = f"trap '' TERM; for i in 1 2 3; do setsid sleep {mark} & done; while :; do sleep 1; done"
    start = agent.run(test_image, ["sh", "-c", script])
    wait_for(lambda: len(processes_with(mark)) == 3)
    agent.stop(start, grace_seconds=1)
    assert agent.finished(start, seconds=6).reason == "stopped"
    assert processes_with(mark) == []


def test_a_job_over_its_time_that_ignores_sigterm_is_killed(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], timeout_seconds=1)
    finished = agent.finished(start, seconds=20)
    assert (finished.reason, finished.exit_code) == ("timeout", 137)


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"#!/bin/sh\necho hi\n", 0o644, "command_not_executable"),
        (b"#!/no/such/shell\n", 0o755, "command_not_found"),
        (program_for_arm(), 0o755, "command_not_executable"),
    ],
    ids=["not executable", "missing interpreter", "another processor's"],
)
def test_an_entrypoint_that_cannot_be_executed_is_named(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient, content: bytes, mode: int, reason: str
) -> None:
    image = add_file(test_image, "entry", content, mode, docker_client)
    try:
        finished = agent.finished(agent.run(image, []))
        assert finished.reason == reason
        assert "/entry" in finished.message
        wait_for(lambda: agent.cleared(docker_client))
    finally:
        docker_client.images.remove(image, force=True)


def test_a_fork_bomb_meets_its_limit_and_the_node_goes_on(make_agent: MakeAgent, test_image: str) -> None:
    agent = make_agent(AGENT_PIDS_LIMIT="50")
    start = agent.run(test_image, ["sh", "-c", "b() { b | b & }; b; sleep 1; while :; do b; done"], timeout_seconds=3)
    assert agent.finished(agent.run(test_image, ["echo", "well"])).reason == "completed"
    assert agent.finished(start, seconds=30).reason in ("timeout", "exit_nonzero")


def test_a_terminated_agent_does_not_wait_for_a_pull_that_hangs(agent: AgentProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        agent.run(f"127.0.0.1:{silent.getsockname()[1]}/silent:1", ["true"])
        silent.accept()
        begin = time.monotonic()
        assert agent.terminate() == 0
        assert time.monotonic() - begin < 8
