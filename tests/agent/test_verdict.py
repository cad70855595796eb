"""Why an attempt ended, from what Docker and the agent know."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent.containers import Facts
from agent.protocol import StartAttempt, StopAttempt
from agent.verdict import (
    ENGINE_REMEMBERS,
    STOP_SENTENCES,
    Circumstances,
    ended_by_predecessor,
    judge,
    stop_reason,
    unseen,
)

BEGIN = datetime(2026, 11, 24, 13, tzinfo=UTC)
START = StartAttempt(
    seq=1,
    job_id="j",
    attempt=1,
    image="i",
    command=[],
    cpu_millicores=500,
    memory_bytes=256 * 1024**2,
    timeout_seconds=60,
)
TINI = b"[FATAL tini (7)] exec nope failed: No such file or directory"


def exited(code: int | None, seconds: float = 1) -> Facts:
    return Facts("c", "exited", code, False, BEGIN, BEGIN + timedelta(seconds=seconds), "")


def stop(why: str) -> StopAttempt:
    return StopAttempt(seq=2, job_id="j", attempt=1, why=why)


@pytest.mark.parametrize(
    ("code", "around", "reason"),
    [
        (0, Circumstances(), "completed"),
        (0, Circumstances(oom=True), "completed"),
        (3, Circumstances(), "exit_nonzero"),
        (137, Circumstances(oom=True), "oom_killed"),
        (3, Circumstances(oom=True), "oom_killed"),
        (137, Circumstances(kernel_killed=True), "oom_killed"),
        (143, Circumstances(kernel_killed=True), "exit_nonzero"),
        (3, Circumstances(kernel_killed=True), "exit_nonzero"),
        (137, Circumstances(kernel_killed=True, killed_by_other=True), "container_gone"),
        (137, Circumstances(kernel_killed=True, engine_restarted=True), "engine_error"),
        (137, Circumstances(kernel_killed=True, ended_by="stopped"), "stopped"),
        (127, Circumstances(last_stderr=TINI), "command_not_found"),
        (127, Circumstances(), "exit_nonzero"),
        (137, Circumstances(), "exit_nonzero"),
        (137, Circumstances(killed_by_other=True), "container_gone"),
        (3, Circumstances(killed_by_other=True), "exit_nonzero"),
        (143, Circumstances(engine_restarted=True), "engine_error"),
        (255, Circumstances(engine_restarted=True), "engine_error"),
        (255, Circumstances(), "exit_nonzero"),
        (3, Circumstances(engine_restarted=True), "exit_nonzero"),
        (137, Circumstances(ended_by="stopped", oom=True), "stopped"),
        (0, Circumstances(ended_by="timeout"), "timeout"),
    ],
)
def test_the_end_of_a_container_has_one_reason(code: int, around: Circumstances, reason: str) -> None:
    verdict = judge(START, exited(code), around)
    assert verdict.reason == reason
    assert verdict.message.endswith((".", ")"))


def test_a_container_that_is_no_more_is_gone_unless_the_agent_stopped_it() -> None:
    gone = replace(exited(None), status="gone")
    assert judge(START, gone, Circumstances()).reason == "container_gone"
    assert judge(START, gone, Circumstances(ended_by="superseded")).message == STOP_SENTENCES["superseded"]


def test_the_memory_asked_for_and_the_exit_code_are_named() -> None:
    assert "0.25 GB" in judge(START, exited(137), Circumstances(oom=True)).message
    assert "code 42" in judge(START, exited(42), Circumstances()).message


@pytest.mark.parametrize(
    ("command", "reason"),
    [(None, "timeout"), (stop("timeout"), "timeout"), (stop("superseded"), "superseded"), (stop("abort"), "stopped")],
)
def test_a_stop_has_the_reason_of_its_command(command: StopAttempt | None, reason: str) -> None:
    assert stop_reason(command) == reason


@pytest.mark.parametrize(
    ("command", "container", "reason"),
    [
        (None, exited(137, seconds=61), "timeout"),
        (None, exited(137, seconds=59), ""),
        (None, exited(1, seconds=61), ""),
        (stop("abort"), exited(143), "stopped"),
        (stop("abort"), exited(0), ""),
        (None, replace(exited(137), started_at=None), ""),
    ],
)
def test_what_the_agent_before_did_is_told_by_exit_code_and_time(
    command: StopAttempt | None, container: Facts, reason: str
) -> None:
    assert ended_by_predecessor(START, command, container) == reason


OTHERS = [("other", "start"), ("", "pull"), ("other", "die")]


@pytest.mark.parametrize(
    ("remembered", "by_other", "restarted"),
    [
        (["start", "die"], False, False),  # by itself
        (["start", "kill", "die"], True, False),  # by hand
        (["kill", "die", "stop"], False, True),  # by an engine that found it at its start, after a crash
        ([], False, True),  # by an engine or a node that went down
    ],
)
def test_whose_doing_an_end_was_that_no_agent_saw(remembered: list[str], by_other: bool, restarted: bool) -> None:
    assert unseen("c", OTHERS + [("c", action) for action in remembered]) == (by_other, restarted)


def test_an_end_that_the_engine_may_have_forgotten_is_nobodys_doing() -> None:
    assert unseen("c", [("other", "start")] * ENGINE_REMEMBERS) == (False, False)
