"""Long answers of the API."""

from typing import Any

from django.http import HttpResponse
from pydantic_core import to_json


def long_list(data: dict[str, Any]) -> HttpResponse:
    """`data` as JSON just as it stands: to have a thousand objects checked against the schema that they were made for
    takes longer than to make them. Tests hold the answers against it."""
    return HttpResponse(to_json(data), content_type="application/json; charset=utf-8")
