"""The submit form: the browser's way of writing what `jobs.submission` checks."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from django import forms

from executors.templatetags.display import gigabytes, shell
from jobs.masking import MASK, masked, secret_names
from jobs.models import Job
from jobs.submission import InvalidSubmission, JobSubmission, parse_submission

NUMBERS = {"cpu_cores", "memory_gb", "gpu_count", "timeout_seconds", "max_retries", "priority"}
NAMED_TEXTS = {"env": "NAME=value", "labels": "name=value"}
ADVANCED = ("env", "working_dir", "timeout_seconds", "max_retries", "at_most_once", "priority", "labels")


def _text(
    label: str | None = None, rows: int = 0, initial: str = "", help_text: str = "", suggestions: str = ""
) -> forms.CharField:
    """A field that takes anything: what is wrong with it, `jobs.submission` says. `suggestions`: a datalist's id."""
    attributes = {"spellcheck": "false", "autocomplete": "off", "autocapitalize": "off"}
    if suggestions:
        attributes["list"] = suggestions
    widget = forms.Textarea({**attributes, "rows": rows}) if rows else forms.TextInput(attributes)
    return forms.CharField(
        label=label, required=False, strip=not rows, widget=widget, initial=initial, help_text=help_text
    )


class JobForm(forms.Form):
    """Fields have the API's names, so that an error finds its place. What was typed stays text until it is checked."""

    docker_image = _text("Image", help_text="As for docker run, such as alpine:latest.", suggestions="known-images")
    command = _text(
        rows=3,
        help_text='A line, split as a shell would, or a list such as ["echo", "a b"]. Empty runs the image\'s own.',
    )
    name = _text(help_text="Optional; how you find it again.")
    cpu_cores = _text("CPU cores", initial="1", help_text="Fractions allowed.")
    memory_gb = _text("Memory in GB", initial="1", help_text="0.25 is 256 MB.")
    gpu_type = forms.CharField(label="GPU", required=False, widget=forms.Select, help_text="Never shared.")
    gpu_count = _text("How many", help_text="Empty: one, with a GPU.")
    env = _text(
        "Environment", rows=4, help_text="One NAME=value a line. Values of secret-looking names are hidden later."
    )
    working_dir = _text("Working directory", help_text="Absolute, in the container.")
    timeout_seconds = _text("Time-out in seconds", initial="3600", help_text="Stopped after that long.")
    max_retries = _text("Retries", initial="0", help_text="Tries after a failure of its own.")
    at_most_once = forms.BooleanField(
        label="Run at most once",
        required=False,
        help_text="If its executor is lost, it fails instead of running again. Needs 0 retries.",
    )
    priority = _text(initial="0", help_text="Higher goes first.")
    labels = _text("Executor labels", rows=2, help_text="Only executors with these: one name=value a line.")

    submission: JobSubmission
    """What was asked for, once `is_valid()` said so."""

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        source: Job | None = None,
        asked: Mapping[str, Any] | None = None,
        may_take_secrets: bool = False,
        gpu_models: Iterable[str] = (),
    ) -> None:
        """`source`: the job that is cloned; `may_take_secrets`: whether the values that the page hides come along;
        `asked`: a submission's fields, by the API's names, to fill the form with."""
        super().__init__(data, initial=initial_from(source) if source else as_typed(asked or {}))
        self.secrets = {name: source.env[name] for name in secret_names(source.env)} if source else {}
        self.may_take_secrets = may_take_secrets
        wanted = self["gpu_type"].value() or ""
        others = [model for model in (*gpu_models, wanted) if model not in ("", "any")]
        self.fields["gpu_type"].widget.choices = [
            ("", "None"),
            ("any", "Any model"),
            *((model, model) for model in dict.fromkeys(others)),
        ]

    def clean(self) -> dict[str, Any]:
        typed = super().clean() or {}
        raw: dict[str, Any] = {}
        for name, text in list(typed.items()):
            if isinstance(text, bool):
                raw[name] = text
            elif text.strip():
                raw[name] = self._value(name, text.replace("\r\n", "\n"))
        try:
            self.submission = parse_submission(raw)
        except InvalidSubmission as error:
            for name, sentences in error.fields.items():
                if name not in self.errors:
                    self.add_error(name if name in self.fields else None, [forms.ValidationError(s) for s in sentences])
        return typed

    def _value(self, name: str, text: str) -> Any:
        if name in NUMBERS:
            number = _number(text)
            if number is None:
                self.add_error(name, "Must be a number, such as 2 or 0.5.")
            return number
        if name in NAMED_TEXTS:
            return self._named_texts(name, text)
        return typed_command(text) if name == "command" else text

    def _named_texts(self, name: str, text: str) -> dict[str, str]:
        """One `NAME=value` a line; empty lines are skipped."""
        values: dict[str, str] = {}
        for number, line in enumerate(text.split("\n"), start=1):
            key, separator, value = line.partition("=")
            key = key.strip()
            if not line.strip():
                continue
            if not separator:
                self.add_error(name, f"Line {number} has no '=': write it as {NAMED_TEXTS[name]}.")
            elif key in values:
                self.add_error(name, f"Line {number} gives {key} a second time: keep one of them.")
            values[key] = self._revealed(key, value) if name == "env" else value
        return values

    def _revealed(self, name: str, value: str) -> str:
        """The value of a variable; where the page hid it and it was left so, the cloned job's own."""
        if value != MASK or name not in self.secrets:
            return value
        if not self.may_take_secrets:
            self.add_error("env", f"The value of {name} is hidden, as the job is not yours: write it again.")
        return str(self.secrets[name])

    @property
    def advanced_is_open(self) -> bool:
        """Whether the folded part must show: it holds an error, or something that is not its default."""
        if self.is_bound and any(name in self.errors for name in ADVANCED):
            return True
        return any((self[name].value() or "") != (self.fields[name].initial or "") for name in ADVANCED)


def _number(text: str) -> float | int | None:
    """The number that was typed, with a decimal point or comma; None where it is none."""
    try:
        number = json.loads(text.strip().replace(",", "."))
    except ValueError:
        return None
    return number if isinstance(number, int | float) and not isinstance(number, bool) else None


def typed_command(text: str) -> list[str] | str:
    """A JSON list of strings as what it says, as in a Dockerfile; all else is a line that is still to be split."""
    try:
        items = json.loads(text)
    except ValueError:
        return text
    return items if isinstance(items, list) and all(isinstance(item, str) for item in items) else text


def initial_from(job: Job) -> dict[str, str | bool]:
    """What the form shows for a clone of this job; what looks secret as MASK."""
    return {
        "docker_image": job.image,
        "command": shell(job.command),
        "name": job.name,
        "cpu_cores": f"{job.cpu_millicores / 1000:g}",
        "memory_gb": gigabytes(job.memory_bytes),
        "gpu_type": job.gpu_type,
        "gpu_count": str(job.gpu_count) if job.gpu_count else "",
        "env": _lines(masked(job.env)),
        "working_dir": job.working_dir,
        "timeout_seconds": str(job.timeout_seconds),
        "max_retries": str(job.max_retries),
        "at_most_once": job.at_most_once,
        "priority": str(job.priority),
        "labels": _lines(job.labels),
    }


def as_typed(asked: Mapping[str, Any]) -> dict[str, str]:
    """A submission's fields as one would type them into the form."""
    typed = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in asked.items()}
    if "command" in asked:
        typed["command"] = shell(asked["command"])
    for name in NAMED_TEXTS:
        if name in asked:
            typed[name] = _lines(asked[name])
    return typed


def _lines(values: dict[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in values.items())
