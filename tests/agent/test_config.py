"""Settings, and what an agent keeps on disk."""

from pathlib import Path

import pytest

from agent.config import GB, BadSetting, load
from agent.containers import SANDBOX_MEMORY
from agent.protocol import StartAttempt, StopAttempt
from agent.state import Record, State


def test_the_defaults_are_the_seeds() -> None:
    config = load([], {})
    assert config.redis_url == "redis://localhost:6379/0"
    assert (config.heartbeat_interval, config.poll_interval) == (30, 10)
    assert config.cpu_millicores >= 1000 and config.memory_bytes > 0


def test_environment_and_command_line_are_read_and_the_command_line_wins() -> None:
    environ = {
        "AGENT_LABELS": "zone=eu, disk=ssd",
        "AGENT_NAME": "a",
        "AGENT_MEMORY_GB": "1.5",
        "REDIS_PASSWORD": "p@/",
    }
    config = load(["--name", "b", "--cpu-cores", "2.5"], environ)
    assert (config.name, config.cpu_millicores, config.memory_bytes) == ("b", 2500, int(1.5 * GB))
    assert config.labels == {"zone": "eu", "disk": "ssd"}
    assert config.redis_url == "redis://:p%40%2F@localhost:6379/0"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AGENT_CPU_CORES", "two"),
        ("AGENT_CPU_CORES", "-1"),
        ("AGENT_CPU_CORES", "nan"),
        ("AGENT_MEMORY_GB", "0"),
        ("AGENT_MEMORY_GB", "inf"),
        ("AGENT_RESERVE_CPU", "100000"),
        ("AGENT_RESERVE_MEMORY_GB", "100000"),
        ("AGENT_START_CONCURRENCY", "1.5"),
        ("AGENT_START_CONCURRENCY", "0"),
        ("AGENT_LABELS", "zone"),
        ("AGENT_LABELS", "zone=eu,zone=us"),
        ("AGENT_PULL_TIMEOUT", "0"),
        ("AGENT_REGISTRY_AUTH_FILE", "/no/such/file"),
        ("AGENT_REGISTRY_AUTH_FILE", "/etc/passwd"),
        ("HEARTBEAT_INTERVAL", "0"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_PORT", "99999"),
        ("REDIS_DB", "x"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(variable: str, value: str) -> None:
    with pytest.raises(BadSetting, match=variable):
        load([], {variable: value})


def test_sandboxes_take_a_small_share_of_the_memory_where_nothing_else_is_said() -> None:
    small, large = (load([], {"AGENT_MEMORY_GB": memory}) for memory in ("1", "1000"))
    assert (small.sandbox_pool, small.reserve_memory_bytes) == (6, 6 * SANDBOX_MEMORY)
    assert (large.sandbox_pool, large.reserve_memory_bytes) == (200, 200 * SANDBOX_MEMORY)


START = StartAttempt(
    seq=7, job_id="j", attempt=2, image="i", command=["c"], cpu_millicores=1, memory_bytes=1, timeout_seconds=1
)


def test_the_id_stays_and_two_folders_have_two(tmp_path: Path) -> None:
    first, other = State(tmp_path / "a", "Node 1!"), State(tmp_path / "b", "Node 1!")
    assert first.executor_id.startswith("node-1-") and first.executor_id != other.executor_id
    first.close()
    assert State(tmp_path / "a", "renamed").executor_id == first.executor_id


def test_two_agents_never_share_a_folder(tmp_path: Path) -> None:
    state = State(tmp_path, "n")
    with pytest.raises(BadSetting, match="AGENT_STATE_DIR"):
        State(tmp_path, "n")
    state.close()
    State(tmp_path, "n").close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match="AGENT_STATE_DIR"):
        State(tmp_path / "file" / "state", "n")


def test_accepted_attempts_and_the_last_command_are_remembered(tmp_path: Path) -> None:
    state = State(tmp_path, "n")
    record = Record(START, "cid", StopAttempt(seq=8, job_id="j", attempt=2, why="abort"))
    state.save(record)
    state.close()
    again = State(tmp_path, "n")
    assert (again.records(), again.last_command) == ([record], 7)
    again.passed(9)
    again.forget(START)
    again.close()
    last = State(tmp_path, "n")
    assert (last.records(), last.last_command) == ([], 9)
    last.close()


def test_a_damaged_record_is_set_aside(tmp_path: Path) -> None:
    state = State(tmp_path, "n")
    (tmp_path / "attempts" / "x-1.json").write_text("{")
    assert state.records() == []
    assert (tmp_path / "attempts" / "x-1.unreadable").exists()
    state.close()
