"""A pasted `docker run` line becomes the fields of a submission, and what a job cannot have is said."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.docker_run import NotDockerRun, memory_bytes, parse_docker_run


def fields(line: str) -> dict[str, object]:
    return parse_docker_run(line).fields


def notes(line: str) -> str:
    return "\n".join(parse_docker_run(line).notes)


def test_a_line_with_everything_that_a_job_can_have_is_read_whole() -> None:
    line = """$ sudo docker run --rm -it --name=train -e A=1 --env 'B=x y' -eC=3 \\
        -w /data --cpus=2.5 -m 512m --gpus 2 registry:5000/team/app:1.0 python -m app --env prod -it"""
    assert fields(line) == {
        "docker_image": "registry:5000/team/app:1.0",
        "command": ["python", "-m", "app", "--env", "prod", "-it"],
        "name": "train",
        "env": {"A": "1", "B": "x y", "C": "3"},
        "working_dir": "/data",
        "cpu_cores": 2.5,
        "memory_gb": 0.5,
        "gpu_type": "any",
        "gpu_count": 2,
    }
    assert notes(line) == ""


@pytest.mark.parametrize(
    "start", ["docker run", "docker container run", "podman run", "/usr/bin/docker run", "# docker run"]
)
def test_a_line_may_begin_as_people_write_it(start: str) -> None:
    assert fields(f"{start} alpine") == {"docker_image": "alpine"}


@pytest.mark.parametrize(
    ("text", "size"),
    [("512m", 512 * 1024**2), ("1.5g", 3 * 1024**3 // 2), ("2GiB", 2 * 1024**3), ("64MB", 64 * 1024**2), ("100", 100)],
)
def test_sizes_are_docker_s(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize(
    ("option", "count"), [("all", 1), ("3", 3), ("count=2", 2), ("device=0,2", 2), ("'\"device=1,2,3\"'", 3)]
)
def test_gpus_are_counted(option: str, count: int) -> None:
    line = f"docker run --gpus {option} app"
    assert (fields(line)["gpu_type"], fields(line)["gpu_count"]) == ("any", count)


def test_an_entrypoint_begins_the_command_and_that_is_said() -> None:
    line = "docker run --entrypoint /bin/sh app -c 'echo hi'"
    assert fields(line)["command"] == ["/bin/sh", "-c", "echo hi"]
    assert "--entrypoint" in notes(line)


def test_what_a_job_cannot_have_is_left_out_and_said() -> None:
    line = "docker run -v /a:/b -v /c:/d -p 80:80 --privileged --network=host -dit app serve"
    assert fields(line) == {"docker_image": "app", "command": ["serve"]}
    for option in ("--volume", "--publish", "--privileged", "--network"):
        assert notes(line).count(f"{option} was left out") == 1
    assert "--detach" not in notes(line)


def test_a_variable_from_the_own_shell_is_to_be_filled_in() -> None:
    assert fields("docker run -e TOKEN app")["env"] == {"TOKEN": ""}
    assert "TOKEN" in notes("docker run -e TOKEN app")


def test_a_restart_policy_becomes_retries() -> None:
    assert fields("docker run --restart on-failure:5 app")["max_retries"] == 5
    assert "left out" in notes("docker run --restart always app")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "begin with: docker run"),
        ("ls -l", "begin with: docker run"),
        ("docker build .", "begin with: docker run"),
        ("docker run", "names no image"),
        ("docker run -e", "-e has no value"),
        ("docker run --name", "--name has no value"),
        ("docker run --nonsense app", "--nonsense is no option"),
        ("docker run -Z app", "-Z is no option"),
        ("docker run 'app", "cannot be split"),
        ("docker run --cpus many app", "--cpus must be a number"),
        ("docker run -m lots app", "--memory must be a size"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_remedy(line: str, sentence: str) -> None:
    with pytest.raises(NotDockerRun, match=sentence):
        parse_docker_run(line)


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    for line in (text, f"docker run {text}"):
        with suppress(NotDockerRun):
            parse_docker_run(line)
