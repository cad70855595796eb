"""The submit form: what people type becomes a submission, or stays with a sentence beside it."""

from typing import Any

import pytest

from jobs.forms import JobForm
from jobs.masking import MASK
from jobs.models import Job
from tests.rows import make_job


def typed(**fields: str) -> dict[str, str]:
    return {"docker_image": "alpine:latest", "cpu_cores": "1", "memory_gb": "1", **fields}


def errors(form: JobForm) -> dict[str, list[str]]:
    assert not form.is_valid()
    return {name: list(sentences) for name, sentences in form.errors.items()}


@pytest.mark.parametrize(
    ("typed_as", "command"),
    [
        ('["echo", "a b", "it\'s"]', ["echo", "a b", "it's"]),
        ('[\n  "sh",\n  "-c",\n  "ls"\n]', ["sh", "-c", "ls"]),
        ("[ -f /etc/passwd ]", ["[", "-f", "/etc/passwd", "]"]),
        ("echo 1", ["echo", "1"]),
        ("7", ["7"]),
    ],
)
def test_a_command_is_a_line_or_a_list(typed_as: str, command: list[str]) -> None:
    form = JobForm(typed(command=typed_as))
    assert form.is_valid(), form.errors
    assert form.submission.command == command


def test_what_is_typed_becomes_the_submission_that_the_api_would_make() -> None:
    form = JobForm(
        typed(
            command="sh -c 'echo a b'",
            name="mine",
            cpu_cores="0.5",
            memory_gb="0.25",
            gpu_type="any",
            gpu_count="2",
            env="A=1\r\n\r\nB=x=y \r\n",
            working_dir="/tmp",
            timeout_seconds="60",
            max_retries="2",
            priority="-5",
            labels="zone=a",
        )
    )
    assert form.is_valid(), form.errors
    fields = form.submission.job_fields()
    assert fields["command"] == ["sh", "-c", "echo a b"]
    assert (fields["cpu_millicores"], fields["memory_bytes"]) == (500, 256 * 1024**2)
    assert (fields["gpu_type"], fields["gpu_count"]) == ("any", 2)
    assert fields["env"] == {"A": "1", "B": "x=y "}
    assert (fields["timeout_seconds"], fields["max_retries"], fields["priority"]) == (60, 2, -5)
    assert fields["labels"] == {"zone": "a"}


@pytest.mark.django_db
def test_at_most_once_is_a_box_to_tick_and_agrees_with_the_retries() -> None:
    form = JobForm(typed(at_most_once="on"))
    assert form.is_valid() and form.advanced_is_open
    assert form.submission.job_fields()["at_most_once"] is True
    unticked = JobForm(typed(timeout_seconds="3600", max_retries="0", priority="0"))
    assert unticked.is_valid() and not unticked.advanced_is_open
    assert unticked.submission.job_fields()["at_most_once"] is False
    assert errors(JobForm(typed(at_most_once="on", max_retries="2"))) == {
        "at_most_once": ["Forbids what max_retries asks for: leave out one of the two."]
    }
    clone = JobForm(source=make_job(at_most_once=True))
    assert "checked" in str(clone["at_most_once"]) and clone.advanced_is_open


def test_fields_left_empty_take_the_defaults_of_the_api() -> None:
    form = JobForm({"docker_image": "alpine"})
    assert form.is_valid(), form.errors
    assert form.submission.job_fields()["timeout_seconds"] == 3600


def test_a_decimal_comma_is_a_decimal_point() -> None:
    form = JobForm(typed(memory_gb="0,5"))
    assert form.is_valid(), form.errors
    assert form.submission.memory_gb == 0.5


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("docker_image", "", "required"),
        ("docker_image", "Not An Image", ""),
        ("command", "echo 'open", "quote"),
        ("cpu_cores", "many", "number"),
        ("cpu_cores", "0", "at least"),
        ("cpu_cores", "NaN", "finite"),
        ("cpu_cores", "1e999", "finite"),
        ("cpu_cores", "[1]", "number"),
        ("memory_gb", "-1", "at least"),
        ("gpu_count", "1.5", "whole"),
        ("timeout_seconds", "1 h", "number"),
        ("working_dir", "tmp", "absolute"),
        ("env", "NOVALUE", "Line 1 has no '='"),
        ("env", "A=1\nA=2", "Line 2 gives A a second time"),
        ("env", "=x", "name"),
        ("labels", "gpu", "Line 1 has no '='"),
        ("env", "A=\0", "NUL"),
        ("name", "a\nb", "single line"),
    ],
)
def test_what_is_wrong_is_said_beside_the_field(field: str, text: str, words: str) -> None:
    found = errors(JobForm(typed(**{field: text})))
    assert list(found) == [field]
    assert words.lower() in " ".join(found[field]).lower()


def test_several_faults_are_told_at_once() -> None:
    found = errors(JobForm(typed(docker_image="", cpu_cores="0", env="X")))
    assert set(found) == {"docker_image", "cpu_cores", "env"}


def test_the_folded_part_opens_when_it_holds_an_error_or_something_typed() -> None:
    assert not JobForm(typed(timeout_seconds="3600", max_retries="0", priority="0")).advanced_is_open
    assert JobForm(typed(priority="7")).advanced_is_open
    form = JobForm(typed(working_dir="x"))
    form.is_valid()
    assert form.advanced_is_open


def cloned(job: Job, changes: dict[str, str] | None = None, **options: Any) -> JobForm:
    """The form of a clone, sent as the browser would send it back."""
    shown = JobForm(source=job)
    sent = {name: shown[name].value() or "" for name in shown.fields} | (changes or {})
    return JobForm(sent, source=job, **options)


@pytest.mark.django_db
def test_a_clone_sent_as_it_stands_asks_for_the_same() -> None:
    job = make_job(
        command=["sh", "-c", "echo 'a  b' \"$X\"\n", ""],
        name="n",
        cpu_cores=0.125,
        memory_gb=1.7,
        gpu_type="A100",
        gpu_count=3,
        env={"A": "1"},
        working_dir="/w",
        timeout_seconds=5,
        max_retries=1,
        priority=2,
        labels={"z": "q"},
    )
    form = cloned(job)
    assert form.is_valid(), form.errors
    fields = form.submission.job_fields()
    assert {name: getattr(job, name) for name in fields} == fields


@pytest.mark.django_db
def test_a_secret_never_goes_to_the_browser_and_its_owner_takes_it_over() -> None:
    job = make_job(env={"API_KEY": "hunter2", "A": "1"})
    assert "hunter2" not in str(JobForm(source=job))
    form = cloned(job, may_take_secrets=True)
    assert form.is_valid(), form.errors
    assert form.submission.env == {"API_KEY": "hunter2", "A": "1"}


@pytest.mark.django_db
def test_somebody_else_must_write_the_secret_again() -> None:
    job = make_job(env={"API_KEY": "hunter2"})
    found = errors(cloned(job))
    assert "API_KEY is hidden" in found["env"][0]
    form = cloned(job, {"env": "API_KEY=own"})
    assert form.is_valid(), form.errors
    assert form.submission.env == {"API_KEY": "own"}


@pytest.mark.django_db
def test_a_hidden_value_moved_to_another_name_reveals_nothing() -> None:
    job = make_job(env={"API_KEY": "hunter2"})
    form = cloned(job, {"env": f"SHOWN={MASK}"}, may_take_secrets=True)
    assert form.is_valid(), form.errors
    assert form.submission.env == {"SHOWN": MASK}


def test_a_submissions_fields_are_shown_as_one_would_type_them() -> None:
    asked = {"docker_image": "app", "command": ["sh", "-c", "echo a"], "env": {"A": "1", "B": "2"}, "cpu_cores": 2.5}
    form = JobForm(asked=asked)
    assert form["command"].value() == "sh -c 'echo a'"
    assert form["env"].value() == "A=1\nB=2"
    assert form["cpu_cores"].value() == "2.5"
    assert form["memory_gb"].value() == "1"
    assert form.advanced_is_open
