"""A submission as people would type it elsewhere: for curl, and in Python. Pure."""

import json
import pprint
from typing import Any

from jobs.submission import JobSubmission


def body_of(submission: JobSubmission) -> dict[str, Any]:
    """The JSON that asks for the same; what is the default is left out, but the resources are always said."""
    said = submission.model_dump(exclude_defaults=True)
    if not submission.gpu_type and not submission.gpu_count:
        said.pop("gpu_count", None)
    always = {"cpu_cores": submission.cpu_cores, "memory_gb": submission.memory_gb}
    order = ["docker_image", "command", "cpu_cores", "memory_gb"]
    said = {**said, **{name: _short(value) for name, value in always.items()}}
    return {name: said[name] for name in sorted(said, key=lambda name: order.index(name) if name in order else 9)}


def _short(number: float) -> float | int:
    return int(number) if float(number).is_integer() else number


def as_curl(body: dict[str, Any], address: str) -> str:
    """A line for a POSIX shell."""
    text = json.dumps(body, ensure_ascii=False, indent=2).replace("'", "'\\''")
    return f"curl {address} \\\n  -H 'Content-Type: application/json' \\\n  -d '{text}'"


def as_python(body: dict[str, Any], address: str) -> str:
    text = pprint.pformat(body, sort_dicts=False, width=88)
    return (
        "import requests\n\n"
        f"job = {text}\n"
        f"answer = requests.post({address!r}, json=job)\n"
        "answer.raise_for_status()\n"
        'print(answer.json()["job_id"])'
    )
