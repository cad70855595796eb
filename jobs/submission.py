"""What a person may ask for, checked: the API and the browser's form both come through here.

Names and units are the API's: cores and GB (1 GB = 1024³ bytes), fractions allowed. `JobSubmission.job_fields` turns
them into the columns of `Job`, in millicores and bytes.
"""

import difflib
import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from jobs.images import image_problem

GB = 1024**3
MIN_MEMORY_GB = 6 / 1024
"""Docker's own minimum, 6 MB."""
MAX_MEMORY_GB = 64 * 1024
MAX_ARGUMENT_BYTES = 128 * 1024 - 1
"""Linux starts no program with a longer single argument or environment entry."""
MAX_ERRORS = 20
JOINERS = {0x200C: None, 0x200D: None}
"""Invisible, but written within words in Persian and Indic scripts, and between the parts of emoji."""
MIN_PRIORITY, MAX_PRIORITY = -1000, 1000
MOST_IN_BATCH = 10_000


class InvalidSubmission(ValueError):
    """What is wrong with a submission: `fields` maps each field's name to sentences with a remedy.

    `body` stands for the submission as a whole.
    """

    def __init__(self, fields: dict[str, list[str]]) -> None:
        super().__init__(fields)
        self.fields = fields


# --- Values as people write them -------------------------------------------------------------------------------


def _shown(value: object) -> str:
    """A value as JSON, shortened, for a sentence about it."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def _text_problem(text: str) -> str:
    if "\0" in text:
        return "must not contain a NUL byte"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "must be valid text, without half of a surrogate pair"
    return ""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"Must be text in quotes, not {_shown(value)}.")
    if problem := _text_problem(value):
        raise ValueError(f"{problem[0].upper()}{problem[1:]}.")
    return value


def _line(value: object) -> str:
    """Text without line breaks and other control characters, stripped."""
    text = _text(value).strip()
    if not text.translate(JOINERS).isprintable():
        raise ValueError("Must be a single line of printable characters.")
    return text


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"Must be a number without quotes, such as 0.5 or 2, not {_shown(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("Must be a finite number, such as 0.5 or 2.")
    return number


def _whole_number(value: object) -> int:
    number = _number(value)
    if not number.is_integer():
        raise ValueError(f"Must be a whole number, not {_shown(value)}.")
    return int(number)


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"Must be true or false, not {_shown(value)}.")
    return value


def _argv(value: object) -> list[str]:
    """A command as a list of strings; a plain string is split as a shell would split it."""
    if isinstance(value, str):
        _text(value)
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise ValueError(
                f"Cannot be split as a shell would: {str(error).lower()}. Close the quote, or give a list of strings."
            ) from None
    if not isinstance(value, list | tuple):
        raise ValueError(f'Must be a list of strings, such as ["echo", "hi"], or one string, not {_shown(value)}.')
    problems = []
    for position, item in enumerate(value, start=1):
        if not isinstance(item, str):
            problems.append(f"Item {position} must be a string: {_remedy(item)}, not {_shown(item)}.")
        elif problem := _text_problem(item):
            problems.append(f"Item {position} {problem}.")
        elif len(item.encode()) > MAX_ARGUMENT_BYTES:
            problems.append(f"Item {position} is longer than the {MAX_ARGUMENT_BYTES} bytes that Linux allows.")
    if value and value[0] == "":
        problems.append("Item 1, the program to run, must not be empty.")
    _refuse(problems)
    return list(value)


def _remedy(item: object) -> str:
    """What to write instead of a JSON value that is not a string."""
    if item is None:
        return "leave it out or write an empty one"
    return f'write "{json.dumps(item)}"' if isinstance(item, bool | int | float) else "write text in quotes"


def _named_texts(value: object) -> dict[str, str]:
    """A mapping of names to strings; numbers are taken as their text, for people who leave out the quotes."""
    if not isinstance(value, Mapping):
        raise ValueError(f'Must be an object of names and strings, such as {{"NAME": "value"}}, not {_shown(value)}.')
    problems, texts = [], {}
    for name, item in value.items():
        if not isinstance(name, str) or not name:
            problems.append("A name must not be empty.")
        elif problem := _text_problem(name):
            problems.append(f"The name {_shown(name)} {problem}.")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            texts[name] = json.dumps(item)
        elif not isinstance(item, str):
            problems.append(f"{_shown(name)} must be a string: {_remedy(item)}, not {_shown(item)}.")
        elif problem := _text_problem(item):
            problems.append(f"{_shown(name)} {problem}.")
        else:
            texts[name] = item
    _refuse(problems)
    return texts


def _environment(value: object) -> dict[str, str]:
    env = _named_texts(value)
    problems = [f"The name {_shown(name)} must not contain '='." for name in env if "=" in name]
    problems += [
        f"{_shown(name)} is longer than the {MAX_ARGUMENT_BYTES} bytes that Linux allows, name and value together."
        for name, text in env.items()
        if len(f"{name}={text}".encode()) > MAX_ARGUMENT_BYTES
    ]
    _refuse(problems)
    return env


def _image(value: object) -> str:
    image = _text(value)
    if problem := image_problem(image):
        raise ValueError(problem)
    return image


def _absolute_path(value: object) -> str:
    path = _text(value)
    if path and not path.startswith("/"):
        raise ValueError(f"Must be an absolute path in the container: write {_shown('/' + path)}, not {_shown(path)}.")
    return path


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ValueError("\n".join(problems[:MAX_ERRORS]))


# --- The submission --------------------------------------------------------------------------------------------

_TEXTS_SCHEMA = WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}})


class JobSubmission(BaseModel):
    """A job as a person asks for it. Only `docker_image` is required; `null` means not given."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "docker_image": "alpine:latest",
                "command": ["echo", "hello"],
                "cpu_cores": 0.5,
                "memory_gb": 0.25,
                "gpu_type": None,
            }
        },
    )

    docker_image: Annotated[str, BeforeValidator(_image)] = Field(description="[registry/]name[:tag][@digest]")
    command: Annotated[
        list[str],
        BeforeValidator(_argv),
        WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}),
    ] = Field(
        default=[], description="List of strings, or one string to be split as a shell would; empty: the image's."
    )
    cpu_cores: Annotated[float, BeforeValidator(_number)] = Field(
        default=1, ge=0.01, le=1024, description="Fractions allowed, to the thousandth of a core."
    )
    memory_gb: Annotated[float, BeforeValidator(_number)] = Field(
        default=1, ge=MIN_MEMORY_GB, le=MAX_MEMORY_GB, description="1 GB is 1024³ bytes. Docker's minimum is 6 MB."
    )
    gpu_type: Annotated[str, Field(max_length=100), BeforeValidator(_line)] | None = Field(
        default=None, description="null for none, 'any', or part of a model's name such as 'A100'."
    )
    gpu_count: Annotated[int, Field(ge=0, le=64), BeforeValidator(_whole_number)] | None = Field(
        default=None,
        validate_default=True,
        description="Default 1 with a gpu_type, else 0. A count without a gpu_type means 'any'.",
    )
    name: Annotated[str, BeforeValidator(_line)] = Field(default="", max_length=200)
    env: Annotated[dict[str, str], BeforeValidator(_environment), _TEXTS_SCHEMA] = Field(
        default={}, description="Environment variables. Numbers are taken as their text."
    )
    working_dir: Annotated[str, BeforeValidator(_absolute_path)] = Field(
        default="", max_length=1024, description="Absolute path in the container; empty: the image's own."
    )
    timeout_seconds: Annotated[int, BeforeValidator(_whole_number)] = Field(default=3600, ge=1, le=30 * 24 * 3600)
    max_retries: Annotated[int, BeforeValidator(_whole_number)] = Field(
        default=0, ge=0, le=100, description="Further tries after the job's own failure: exit code, memory, time-out."
    )
    at_most_once: Annotated[bool, BeforeValidator(_yes_or_no)] = Field(
        default=False,
        description="Where the platform fails and the job may have run, it fails too instead of running again.",
    )
    priority: Annotated[int, BeforeValidator(_whole_number)] = Field(
        default=0, ge=MIN_PRIORITY, le=MAX_PRIORITY, description="Higher goes first."
    )
    labels: Annotated[dict[str, str], BeforeValidator(_named_texts), _TEXTS_SCHEMA] = Field(
        default={}, description="Labels that an executor must have to run this job."
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, raw: Any) -> Any:
        return {name: value for name, value in raw.items() if value is not None} if isinstance(raw, Mapping) else raw

    @field_validator("gpu_count")
    @classmethod
    def _gpu_count_agrees_with_type(cls, count: int | None, info: ValidationInfo) -> int:
        wants_gpu = bool(info.data.get("gpu_type"))
        if count == 0 and wants_gpu:
            raise ValueError("Is 0 although gpu_type asks for a GPU: leave out gpu_type, or ask for 1 or more.")
        return count if count is not None else int(wants_gpu)

    @field_validator("at_most_once")
    @classmethod
    def _at_most_once_leaves_no_retries(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("max_retries"):
            raise ValueError("Forbids what max_retries asks for: leave out one of the two.")
        return value

    def job_fields(self) -> dict[str, Any]:
        """The columns of `Job` in its own units: millicores, bytes, gpu_type '' for none. 0.5 cores are 500."""
        gpu_count = self.gpu_count or 0
        needs: dict[str, Any] = {
            "cpu_millicores": round(Decimal(str(self.cpu_cores)) * 1000),
            "memory_bytes": round(Decimal(str(self.memory_gb)) * GB),
            "gpu_type": (self.gpu_type or "any") if gpu_count else "",
            "gpu_count": gpu_count,
            "labels": self.labels,
        }
        return {
            **needs,
            "shape": shape(needs),
            "image": self.docker_image,
            "command": self.command,
            "name": self.name,
            "env": self.env,
            "working_dir": self.working_dir,
            "timeout_seconds": self.timeout_seconds,
            "max_retries": self.max_retries,
            "at_most_once": self.at_most_once,
            "priority": self.priority,
        }


def shape(needs: Mapping[str, Any]) -> str:
    """Digest of all that placement compares: jobs of one shape fit on the same executors."""
    return hashlib.blake2b(json.dumps(needs, sort_keys=True).encode(), digest_size=16).hexdigest()


def parse_submission(raw: Mapping[str, Any]) -> JobSubmission:
    """The submission that `raw` describes, by the API's names. Raises InvalidSubmission."""
    try:
        return JobSubmission.model_validate(raw)
    except ValidationError as error:
        raise InvalidSubmission(explain(error.errors(include_url=False))) from error


_BATCH = TypeAdapter(list[JobSubmission])


def parse_batch(raw: object) -> list[JobSubmission]:
    """The submissions of a batch, `{"jobs": […]}` or the list alone.

    Raises InvalidSubmission, which names a field as `jobs[17].docker_image` (counted from 0).
    """
    bodies = raw.get("jobs") if isinstance(raw, Mapping) else raw
    if isinstance(raw, Mapping) and (unknown := sorted(raw.keys() - {"jobs"})):
        raise InvalidSubmission({str(name): ["There is no such field. The only one is jobs."] for name in unknown})
    if not isinstance(bodies, list) or not bodies:
        raise InvalidSubmission({"jobs": ["Must be a list of at least one job, each as for POST /jobs."]})
    if len(bodies) > MOST_IN_BATCH:
        sentence = f"Holds {len(bodies):,} jobs, and {MOST_IN_BATCH:,} are the most: send the others in another batch."
        raise InvalidSubmission({"jobs": [sentence]})
    try:
        return _BATCH.validate_python(bodies)
    except ValidationError as error:
        raise InvalidSubmission(_explain_batch(error)) from error


def _explain_batch(error: ValidationError) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for item in error.errors(include_url=False)[:MAX_ERRORS]:
        place = f"jobs[{item['loc'][0]}]"
        for name, sentences in explain([{**item, "loc": item["loc"][1:]}]).items():
            known = fields.setdefault(place if name == "body" else f"{place}.{name}", [])
            known += [sentence for sentence in sentences if sentence not in known]
    if error.error_count() > MAX_ERRORS:
        fields["jobs"] = [f"Only the first {MAX_ERRORS} of {error.error_count():,} mistakes are listed."]
    return fields


# --- What is wrong, in words -----------------------------------------------------------------------------------

_HINTS = {
    "cpu_cores": "1 is one core, 0.5 half of one.",
    "memory_gb": "1 is 1024³ bytes; Docker's minimum is 6 MB, 0.006.",
    "timeout_seconds": "An hour is 3600; 30 days are the most.",
}


def explain(errors: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Pydantic's errors as sentences with a remedy, by field; `body` where none is named."""
    fields: dict[str, list[str]] = {}
    for error in list(errors)[:MAX_ERRORS]:
        name = str(error["loc"][0]) if error["loc"] else "body"
        sentences = fields.setdefault(name, [])
        sentences += [text for text in _sentence(name, error).split("\n") if text not in sentences]
    return fields


def _sentence(name: str, error: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(name)
    texts = {
        "missing": "Is required.",
        "greater_than_equal": f"Must be at least {context.get('ge', 0):.6g}.",
        "less_than_equal": f"Must be at most {context.get('le', 0):g}.",
        "string_too_long": f"Must be at most {context.get('max_length')} characters long.",
        "model_type": "Must be a JSON object of fields and values.",
        "enum": f"Must be {context.get('expected')}.",
        "literal_error": f"Must be {context.get('expected')}.",
        "int_parsing": "Must be a whole number.",
        "bool_parsing": "Must be true or false.",
        "uuid_parsing": "Must be an id as the API gives it.",
    }
    text = texts.get(kind) or str(context.get("error") or f"{error['msg']}.")
    return f"{text} {_HINTS[name]}" if name in _HINTS and kind != "missing" else text


def _unknown_field(name: str) -> str:
    known = list(JobSubmission.model_fields)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]!r}?" if near else f"The fields are {', '.join(known)}."
    return f"There is no such field. {remedy}"
