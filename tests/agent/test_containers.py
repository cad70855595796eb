"""What Docker is asked for, and what its answers mean."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from agent.containers import (
    CAPABILITIES,
    applied,
    container_settings,
    exec_failure,
    facts,
    init_missing,
    pull_failure,
    start_failure,
)
from agent.images import describe, note
from agent.protocol import Layer, StartAttempt
from jobs.lifecycle import EndReason
from tests.agent.harness import MB, AgentProcess, wait_for


def settings(image: str = "alpine", gpus: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    values = {
        "seq": 1,
        "job_id": str(uuid.uuid4()),
        "attempt": 3,
        "image": image,
        "command": ["sleep", "30"],
        "cpu_millicores": 500,
        "memory_bytes": 64 * MB,
        "timeout_seconds": 60,
        "job_name": "my job",
    } | fields
    return container_settings(StartAttempt(**values), executor_id="node-1", gpu_uuids=gpus or [], pids_limit=100)  # type: ignore[arg-type]


def test_an_empty_command_and_folder_leave_the_images_own() -> None:
    body = settings(command=[], working_dir="")
    assert "Cmd" not in body and "WorkingDir" not in body


def test_exact_gpus_are_asked_for_by_uuid() -> None:
    host = settings(gpus=["GPU-a", "GPU-b"])["HostConfig"]
    assert host["DeviceRequests"] == [
        {"Driver": "", "Count": 0, "DeviceIDs": ["GPU-a", "GPU-b"], "Capabilities": [["gpu"]]}
    ]
    assert "DeviceRequests" not in settings()["HostConfig"]


@pytest.fixture
def real(docker_client: docker.DockerClient, test_image: str) -> Iterator[Callable[..., Any]]:
    """Creates a container from our settings in the real engine."""
    made: list[str] = []

    def create(**fields: Any) -> dict[str, Any]:
        body = settings(test_image, **fields)
        made.append(docker_client.api.create_container_from_config(body, f"settings-{uuid.uuid4()}")["Id"])
        return docker_client.api.inspect_container(made[-1])

    yield create
    for container_id in made:
        docker_client.api.remove_container(container_id, force=True, v=True)


@pytest.mark.docker
def test_the_engine_takes_over_limits_and_restrictions(real: Callable[..., Any]) -> None:
    inspected = real(gpus=["GPU-a"])
    host = inspected["HostConfig"]
    assert (host["CpuPeriod"], host["CpuQuota"]) == (100_000, 50_000)
    assert host["Memory"] == host["MemorySwap"] == 64 * MB
    assert host["PidsLimit"] == 100
    assert host["CapDrop"] == ["ALL"] and host["CapAdd"] == CAPABILITIES
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Privileged"] is False and host["Init"] is True
    assert not host["Binds"] and inspected["Mounts"] == []
    assert host["LogConfig"]["Type"] == "json-file" and host["LogConfig"]["Config"]["max-size"]
    assert host["DeviceRequests"][0]["DeviceIDs"] == ["GPU-a"]
    labels = inspected["Config"]["Labels"]
    assert labels["workload-runner.executor"] == "node-1"
    assert labels["workload-runner.attempt"] == "3"
    assert labels["workload-runner.name"] == "my job"


@pytest.mark.docker
def test_no_process_has_more_than_the_listed_capabilities_or_children_left_unreaped(
    agent: AgentProcess, test_image: str
) -> None:
    script = """
        grep -E 'CapBnd|NoNewPrivs' /proc/self/status
        (sleep 0.1 &)
        sleep 0.5
        grep -l '^State:.Z' /proc/[0-9]*/status | wc -l
        cat /proc/1/comm"""
    start = agent.run(test_image, ["sh", "-c", script])
    agent.finished(start)
    privileges, bounding, zombies, first = sorted(agent.texts(start)[:2], reverse=True) + agent.texts(start)[2:]
    assert privileges.split() == ["NoNewPrivs:", "1"]
    assert int(bounding.split()[1], 16).bit_count() == len(CAPABILITIES)
    assert (zombies, first) == ("0", "docker-init")


@pytest.mark.docker
def test_a_busy_loop_is_held_to_its_share_of_a_core(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    start = agent.run(test_image, ["timeout", "4", "sh", "-c", "while :; do :; done"], cpu_millicores=500)
    container = docker_client.containers.get(agent.running(start).container_id)
    stats = [item for _, item in zip(range(3), container.stats(stream=True, decode=True), strict=False)]
    used = stats[2]["cpu_stats"]["cpu_usage"]["total_usage"] - stats[0]["cpu_stats"]["cpu_usage"]["total_usage"]
    assert 0 < used / 1e9 / 2 < 0.65


SMI = "0, GPU-aaaa, NVIDIA A100-SXM4-40GB, 40960\n1, GPU-bbbb, NVIDIA A100-SXM4-40GB, 40960\n"


@pytest.mark.docker
def test_a_gpu_belongs_to_one_attempt_and_is_asked_for_from_docker(
    make_agent: Callable[..., AgentProcess], test_image: str, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """The engine here has no GPU runtime, so it refuses the device request: the proof that it was made."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{SMI.encode('unicode_escape').decode()}'\n")
    (folder / "nvidia-smi").chmod(0o755)
    agent = make_agent(PATH=f"{folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    unknown = agent.finished(agent.run(test_image, ["true"], gpu_indices=[7]))
    assert (unknown.reason, unknown.message) == ("start_refused", "There is no GPU 7 on test.")
    asked = agent.finished(agent.run(test_image, ["true"], gpu_indices=[1]))
    assert asked.reason == "engine_error" and "could not select device driver" in asked.message
    wait_for(lambda: agent.cleared(docker_client), what="removal of the container that did not start")


# --- Docker's answers ------------------------------------------------------------------------------------------

PREFIX = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
)


@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        (400, PREFIX + 'exec: "nosuch": executable file not found in $PATH: unknown', "command_not_found"),
        (400, PREFIX + 'exec: "/no/such": stat /no/such: no such file or directory: unknown', "command_not_found"),
        (400, PREFIX + 'exec: "/etc/passwd": permission denied: unknown', "command_not_executable"),
        (400, PREFIX + 'exec: "/run.sh": exec format error: unknown', "command_not_executable"),
        (400, "Minimum memory limit allowed is 6MB", "invalid_settings"),
        (500, 'could not select device driver "" with capabilities: [[gpu]]', "engine_error"),
        (500, "no space left on device", "engine_error"),
    ],
)
def test_a_refused_start_has_a_reason_and_dockers_words(status: int, said: str, reason: str) -> None:
    failure = start_failure(status, said)
    assert failure.reason == reason and said in failure.message
    assert EndReason(reason)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("manifest for alpine:nosuch not found: manifest unknown: manifest unknown", "image_not_found"),
        (
            "pull access denied for foo, repository does not exist or may require 'docker login': denied",
            "image_access_denied",
        ),
        ("unauthorized: authentication required", "image_access_denied"),
        ("no matching manifest for linux/amd64 in the manifest list entries", "image_not_found"),
        ("dial tcp: lookup registry.example: no such host", "image_pull_failed"),
        ("net/http: request canceled (Client.Timeout exceeded)", "image_pull_failed"),
        ("invalid reference format", "invalid_settings"),
    ],
)
def test_a_refused_pull_has_a_reason_and_dockers_words(said: str, reason: str) -> None:
    failure = pull_failure("foo", said)
    assert failure.reason == reason and said in failure.message
    assert EndReason(reason)


def test_a_missing_init_is_told_from_a_missing_command() -> None:
    assert init_missing('exec: "docker-init": executable file not found in $PATH')
    assert not init_missing('exec: "python": executable file not found in $PATH')


def test_only_the_init_itself_can_say_that_a_command_is_missing() -> None:
    said = b"[FATAL tini (7)] exec nosuch failed: No such file or directory"
    failure = exec_failure(127, said, said)
    assert failure and failure.reason == "command_not_found"
    assert exec_failure(1, said, said) is None
    assert exec_failure(127, b"", b"sh: nosuch: not found") is None


@pytest.mark.parametrize(
    ("exit_code", "first"),
    [
        (1, b"[FATAL tini (7)] exec /entry failed: Exec format error"),
        (1, b"exec /entry: exec format error"),
        (2, b"/entry: line 1: \x7fELF\x02\x01: not found"),
        (2, b"/entry: 1: \x7fELF\x02\x01: not found"),
        (126, b"/entry: /entry: cannot execute binary file"),
    ],
    ids=["init", "no init", "busybox", "dash", "bash"],
)
def test_a_program_for_another_processor_is_no_command_that_failed(exit_code: int, first: bytes) -> None:
    last = first if b"ELF" not in first else b"/entry: line 2: syntax error"
    failure = exec_failure(exit_code, first, last)
    assert failure and failure.reason == "command_not_executable"
    assert "'/entry'" in failure.message and "another kind of processor" in failure.message
    assert exec_failure(0, first, last) is None
    assert exec_failure(126, b"", b"sh: line 1: ./entry: cannot execute binary file: Exec format error") is None


def test_times_are_kept_to_the_microsecond_and_never_means_none() -> None:
    inspected = {
        "Id": "c",
        "State": {
            "Status": "exited",
            "ExitCode": 3,
            "OOMKilled": False,
            "StartedAt": "2026-11-24T13:42:48.123456789Z",
            "FinishedAt": "2026-11-24T14:42:48.5+01:00",
        },
    }
    known = facts(inspected)
    assert known.started_at and known.started_at.isoformat() == "2026-11-24T13:42:48.123456+00:00"
    assert known.finished_at and known.finished_at.isoformat() == "2026-11-24T13:42:48.500000+00:00"
    state = {**inspected["State"], "Status": "running", "FinishedAt": "0001-01-01T00:00:00Z"}  # type: ignore[dict-item]
    assert facts({"Id": "c", "State": state}).finished_at is None


def test_what_docker_applied_is_told_without_values_of_variables_and_in_bounds() -> None:
    inspected = {
        "Image": "sha256:abc",
        "Config": {"Cmd": ["x" * 5000] * 50, "Env": ["TOKEN=hunter2"], "Entrypoint": None, "Labels": {"a": "b"}},
        "HostConfig": {"Memory": 5, "CapAdd": ["CHOWN"], "Privileged": False, "Dns": []},
    }
    told = applied(inspected)
    assert told["HostConfig"] == {"Memory": 5, "CapAdd": ["CHOWN"], "Privileged": False}
    assert (told["Image"], told["Config"]["Env"], told["Config"]["Labels"]) == ("sha256:abc", ["TOKEN"], {"a": "b"})
    assert told["Config"]["Cmd"][-1] == "… 20 more"
    assert len(json.dumps(told)) < 12_000


def test_a_pull_is_told_in_words() -> None:
    layers: dict[str, Layer] = {}

    def say(status: str, layer: str, current: int = 0, total: int = 0) -> str:
        detail = {"current": current, "total": total} if total else {}
        assert note(layers, {"status": status, "id": layer, "progressDetail": detail})
        return describe("alpine", layers.values())

    assert not note(layers, {"status": "Pulling from library/alpine", "id": "3.20"})
    assert say("Pulling fs layer", "a") == "pulling alpine"
    assert say("Already exists", "c") == "pulling alpine"
    assert say("Downloading", "a", 1_000_000, 4_000_000) == "pulling alpine: 25 % of 4.0 MB"
    assert say("Downloading", "b", 2_000_000, 2_000_000) == "pulling alpine: 50 % of 6.0 MB"
    assert say("Download complete", "a") == "pulling alpine: 100 % of 6.0 MB"
    assert say("Extracting", "a", 1, 4_000_000) == "unpacking alpine"
    assert say("Pull complete", "a") == "pulling alpine: 100 % of 6.0 MB"
    assert [layers[name] for name in "ac"] == [Layer("a", "done", 4_000_000, 4_000_000), Layer("c", "done")]
