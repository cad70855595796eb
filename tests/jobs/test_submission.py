"""What may be submitted, and what is said where it may not."""

import math
from typing import Any

import docker
import pytest

from jobs.images import image_problem
from jobs.submission import GB, MAX_ARGUMENT_BYTES, InvalidSubmission, parse_submission

DIGEST = "sha256:" + "0123456789abcdef" * 4


def fields(**given: Any) -> dict[str, Any]:
    return parse_submission({"docker_image": "alpine", **given}).job_fields()


def problems(**given: Any) -> dict[str, list[str]]:
    with pytest.raises(InvalidSubmission) as caught:
        parse_submission({"docker_image": "alpine", **given})
    return caught.value.fields


def test_the_seeds_body_is_taken_verbatim() -> None:
    body = {
        "docker_image": "python:3.11",
        "command": ["python", "-c", "print(1)"],
        "cpu_cores": 2,
        "memory_gb": 4,
        "gpu_type": None,
    }
    job = parse_submission(body).job_fields()
    assert (job["image"], job["command"]) == ("python:3.11", ["python", "-c", "print(1)"])
    assert (job["cpu_millicores"], job["memory_bytes"]) == (2000, 4 * GB)
    assert (job["gpu_type"], job["gpu_count"]) == ("", 0)


def test_only_the_image_is_required_and_null_means_not_given() -> None:
    nothing = dict.fromkeys(["command", "cpu_cores", "env", "name", "gpu_count", "labels", "working_dir"])
    assert fields(**nothing) == fields()
    assert fields()["timeout_seconds"] == 3600


@pytest.mark.parametrize(
    ("cores", "millicores"),
    [(0.5, 500), (0.01, 10), (0.1, 100), (0.29, 290), (1.001, 1001), (1 / 3, 333), (1024, 1024000)],
)
def test_fractions_of_cores_are_exact_millicores(cores: float, millicores: int) -> None:
    assert fields(cpu_cores=cores)["cpu_millicores"] == millicores


@pytest.mark.parametrize(
    ("gb", "size"), [(0.5, GB // 2), (6 / 1024, 6 * 1024**2), (0.1, 107374182), (65536, 64 * 1024**4)]
)
def test_a_gb_is_1024_cubed_bytes(gb: float, size: int) -> None:
    assert fields(memory_gb=gb)["memory_bytes"] == size


@pytest.mark.parametrize(
    "value", [0, -1, 0.009, 1025, math.nan, math.inf, -math.inf, True, "2", "", [1], {}, 10**400, -(10**400)]
)
def test_absurd_resources_are_refused_by_name(value: object) -> None:
    assert list(problems(cpu_cores=value)) == ["cpu_cores"]
    assert list(problems(memory_gb=65537 if value == 1025 else 0.005 if value == 0.009 else value)) == ["memory_gb"]


@pytest.mark.parametrize("name", ["نامه\u200cها", "क्\u200dष", "👩\u200d🔬 run"])
def test_a_name_is_taken_in_any_script(name: str) -> None:
    assert fields(name=name)["name"] == name


@pytest.mark.parametrize("name", ["two\nlines", "re\u202eversed", "bell\a"])
def test_a_name_that_would_not_show_as_it_is_is_refused(name: str) -> None:
    assert problems(name=name) == {"name": ["Must be a single line of printable characters."]}


def test_a_refusal_says_what_would_be_accepted() -> None:
    assert problems(cpu_cores=0) == {"cpu_cores": ["Must be at least 0.01. 1 is one core, 0.5 half of one."]}
    assert "6 MB" in problems(memory_gb=0.001)["memory_gb"][0]
    assert "without quotes" in problems(cpu_cores="2")["cpu_cores"][0]


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert set(problems(docker_image="", cpu_cores=0, memory_gb="x", colour=1)) == {
        "docker_image",
        "cpu_cores",
        "memory_gb",
        "colour",
    }


@pytest.mark.parametrize("body", [[], "x", 5, None])
def test_what_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        parse_submission(body)
    assert list(caught.value.fields) == ["body"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("image", "docker_image"),
        ("memory", "memory_gb"),
        ("cpus", "cpu_cores"),
        ("Command", "command"),
        ("timeout", "timeout_seconds"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest_known_one(typed: str, meant: str) -> None:
    assert problems(**{typed: "x"}) == {typed: [f"There is no such field. Did you mean {meant!r}?"]}


def test_a_field_like_no_other_is_answered_with_those_there_are() -> None:
    assert "docker_image, command, cpu_cores" in problems(xyzzy=1)["xyzzy"][0]


# --- The command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("echo hi", ["echo", "hi"]),
        ("sh -c 'echo \"a b\"'", ["sh", "-c", 'echo "a b"']),
        ("  ", []),
        ("", []),
        ([], []),
        (["echo", ""], ["echo", ""]),
        (["échø", "🙂"], ["échø", "🙂"]),
    ],
)
def test_a_command_is_a_list_or_is_split_as_a_shell_would(command: object, argv: list[str]) -> None:
    assert fields(command=command)["command"] == argv


def test_an_unbalanced_quote_is_explained() -> None:
    (sentence,) = problems(command="echo 'hi")["command"]
    assert "no closing quotation" in sentence
    assert "Close the quote" in sentence


def test_each_item_that_is_no_string_is_pointed_at() -> None:
    assert problems(command=["sleep", 5, True, None])["command"] == [
        'Item 2 must be a string: write "5", not 5.',
        'Item 3 must be a string: write "true", not true.',
        "Item 4 must be a string: leave it out or write an empty one, not null.",
    ]


@pytest.mark.parametrize(
    "command", [{"a": 1}, 5, ["a\0b"], "a\0b", ["\ud800"], ["", "x"], ["x" * (MAX_ARGUMENT_BYTES + 1)]]
)
def test_commands_that_linux_could_not_run_are_refused(command: object) -> None:
    assert list(problems(command=command)) == ["command"]


# --- Environment, labels, the rest -----------------------------------------------------------------------------


def test_numbers_in_the_environment_are_taken_as_their_text() -> None:
    assert fields(env={"A": 1, "B": 1.5, "C": "x"})["env"] == {"A": "1", "B": "1.5", "C": "x"}
    assert fields(labels={"zone": 3})["labels"] == {"zone": "3"}


@pytest.mark.parametrize(
    "env",
    [
        {"": "x"},
        {"A=B": "x"},
        {"A": True},
        {"A": None},
        {"A": ["x"]},
        {"A": "x\0"},
        {"A\0": "x"},
        {"A": "\udc00"},
        ["A=B"],
        "A=B",
    ],
)
def test_environments_that_mean_nothing_are_refused(env: object) -> None:
    assert list(problems(env=env)) == ["env"]


def test_the_name_of_a_wrong_variable_is_said_but_not_its_value() -> None:
    (sentence,) = problems(env={"DB_PASSWORD": "hunter2\0"})["env"]
    assert "DB_PASSWORD" in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("working_dir", "tmp"),
        ("working_dir", "/tmp\0"),
        ("working_dir", "/" + "x" * 1024),
        ("name", "x" * 201),
        ("name", "two\nlines"),
        ("name", "\x1b[31mred"),
        ("name", 5),
        ("timeout_seconds", 0),
        ("timeout_seconds", 30 * 24 * 3600 + 1),
        ("timeout_seconds", 1.5),
        ("max_retries", -1),
        ("max_retries", 101),
        ("at_most_once", "yes"),
        ("at_most_once", 1),
        ("priority", 1001),
        ("priority", -1001),
        ("labels", {"a": {}}),
        ("labels", {"": "x"}),
        ("gpu_count", -1),
        ("gpu_count", 65),
        ("gpu_type", "x" * 101),
        ("gpu_type", 5),
        ("gpu_type", "a\0"),
    ],
)
def test_each_field_has_its_bounds(field: str, value: object) -> None:
    assert list(problems(**{field: value})) == [field]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"gpu_type": None}, ("", 0)),
        ({"gpu_type": ""}, ("", 0)),
        ({"gpu_type": "any"}, ("any", 1)),
        ({"gpu_type": "A100", "gpu_count": 2}, ("A100", 2)),
        ({"gpu_count": 2}, ("any", 2)),
        ({"gpu_count": 0}, ("", 0)),
    ],
)
def test_gpus_are_asked_for_by_type_count_or_both(given: dict[str, Any], stored: tuple[str, int]) -> None:
    job = fields(**given)
    assert (job["gpu_type"], job["gpu_count"]) == stored


def test_a_gpu_type_with_a_count_of_none_contradicts_itself() -> None:
    assert list(problems(gpu_type="A100", gpu_count=0)) == ["gpu_count"]


def test_jobs_with_the_same_needs_have_the_same_shape() -> None:
    assert fields(name="a", command="x")["shape"] == fields(name="b", priority=3)["shape"]
    assert fields(labels={"a": "1", "b": "2"})["shape"] == fields(labels={"b": "2", "a": "1"})["shape"]
    different = [{}, {"cpu_cores": 2}, {"memory_gb": 2}, {"gpu_type": "any"}, {"gpu_count": 2}, {"labels": {"a": "1"}}]
    assert len({fields(**needs)["shape"] for needs in different}) == len(different)


# --- Images ----------------------------------------------------------------------------------------------------

TAKEN = [
    "alpine",
    "alpine:latest",
    "alpine:3.20",
    "library/alpine",
    "a__b/c-d.e_f",
    "a---b",
    "localhost/team/app:1",
    "localhost:5000/app",
    "Registry.Example.com/app",
    "127.0.0.1:5000/a/b/c:tag",
    "[::1]:5000/app",
    "x:" + "t" * 128,
    f"alpine@{DIGEST}",
    f"alpine:3.20@{DIGEST}",
    "sha256:" + "a" * 64,
]
REFUSED = [
    "",
    "Alpine",
    "team/App:1",
    "alpine:",
    "alpine:-x",
    "alpine:a b",
    " alpine",
    "-alpine",
    "alpine-",
    "a..b",
    "a___b",
    "a//b",
    "/a",
    "a/",
    ":tag",
    "alpine:" + "t" * 129,
    "https://alpine",
    "alpine@sha256:abc",
    "alpine@md5:" + "0" * 32,
    f"alpine@{DIGEST.upper()}",
    "exa$mple.com/app",
    "alpine:é",
    "x" * 256,
    "a" * 64,
]


@pytest.mark.parametrize("reference", TAKEN)
def test_image_references_docker_takes_are_taken(reference: str) -> None:
    assert image_problem(reference) == ""


@pytest.mark.parametrize("reference", REFUSED)
def test_image_references_docker_refuses_are_refused_with_a_reason(reference: str) -> None:
    assert image_problem(reference)
    assert list(problems(docker_image=reference)) == ["docker_image"]


def test_what_is_wrong_with_an_image_is_said_in_words() -> None:
    assert image_problem("team/App") == "Must not have upper-case letters in the name: 'App'; write 'app'."
    assert "white space" in image_problem("alpine latest")
    assert "scheme" in image_problem("https://example.com/app")
    assert "tag" in image_problem("alpine:")


AGREED = [case for case in TAKEN + REFUSED if case not in ("", "a" * 64, "[::1]:5000/app")]
REFUSALS = ("invalid reference", "invalid checksum", "unsupported digest", "repository name must not")


@pytest.mark.docker
@pytest.mark.parametrize("reference", AGREED)
def test_the_engine_agrees_about_what_is_an_image_reference(docker_client: docker.DockerClient, reference: str) -> None:
    """Left out are a bare image id, which the engine runs but refuses to pull, and IPv6, which only newer ones know."""
    api = docker_client.api
    answer = api._post(api._url("/containers/create"), json={"Image": reference}).json()
    if container := answer.get("Id"):
        api.remove_container(container)
    complaint = answer.get("message", "")
    refused = any(words in complaint for words in REFUSALS)
    assert refused == bool(image_problem(reference)), complaint
