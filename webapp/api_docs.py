"""The API's documentation as a page of our own, from the same schema that programs read: /api/v1/docs.

Pure but for the page itself: the schema's dictionaries become what the template shows.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.html import escape, format_html, linebreaks
from django.utils.safestring import SafeString, mark_safe
from ninja import NinjaAPI
from ninja.openapi.docs import DocsBase

Node = dict[str, Any]

LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "{} characters at least",
    "maxLength": "{} characters at most",
    "minItems": "{} at least",
    "maxItems": "{} at most",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value is: words, and the name of the schema that they lead to, or ''."""

    words: str
    schema: str = ""

    @property
    def html(self) -> SafeString:
        link = format_html('<a href="#{}">{}</a>', self.schema, shown(self.schema)) if self.schema else ""
        return format_html("{}{}{}", self.words, " " if self.words and link else "", link)


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a property of a schema. `place` is 'path', 'query' or 'header' for a parameter."""

    name: str
    kind: Kind
    required: bool
    description: SafeString
    default: str = ""
    limits: str = ""
    place: str = ""
    several: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address. `body` is an example in JSON, '' where none is taken."""

    id: str
    method: str
    path: str
    summary: str
    description: SafeString
    parameters: list[Field]
    body: str
    body_kind: Kind | None
    answers: list[Answer]


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class Schema:
    """A named object and its fields, or the values of an enumeration."""

    id: str
    name: str
    description: SafeString
    fields: list[Field]
    values: list[str]


class ApiDocs(DocsBase):
    """What ninja shows at /docs instead of a page of its own."""

    def render_page(self, request: HttpRequest, api: NinjaAPI, **kwargs: Any) -> HttpResponse:
        schema: Node = json.loads(json.dumps(api.get_openapi_schema(), default=str))
        context = {
            "title": schema["info"]["title"],
            "description": prose(schema["info"]["description"]),
            "sections": sections(schema),
            "schemas": schemas(schema),
            "schema_address": self.get_openapi_url(api, kwargs),
        }
        return render(request, "webapp/api_docs.html", context)


def sections(schema: Node) -> list[Section]:
    """The operations by their tag, both in the order of the schema."""
    found: dict[str, Section] = {}
    for path, methods in schema["paths"].items():
        for method, node in methods.items():
            for tag in node["tags"]:
                found.setdefault(tag, Section(tag, [])).operations.append(_operation(schema, path, method, node))
    return list(found.values())


def _operation(schema: Node, path: str, method: str, node: Node) -> Operation:
    body = node.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    return Operation(
        id=node["operationId"],
        method=method.upper(),
        path=path,
        summary=node["summary"],
        description=prose(node.get("description", "")),
        parameters=[
            _field(item["name"], item["schema"], item["required"], place=item["in"]) for item in node["parameters"]
        ],
        body=json.dumps(example(schema, body), indent=2, ensure_ascii=False) if body else "",
        body_kind=kind(body) if body else None,
        answers=list(_answers(node["responses"])),
    )


def _answers(responses: Node) -> Iterator[Answer]:
    for status, node in responses.items():
        content = node.get("content", {}).get("application/json")
        yield Answer(str(status), kind(content["schema"]) if content else None)


def schemas(schema: Node) -> list[Schema]:
    """The named schemas, by name."""
    return [
        Schema(
            id=name,
            name=shown(name),
            description=prose(node.get("description", "")),
            fields=[
                _field(field, item, field in node.get("required", []))
                for field, item in node.get("properties", {}).items()
            ],
            values=[str(value) for value in node.get("enum", [])],
        )
        for name, node in sorted(schema["components"]["schemas"].items(), key=lambda item: shown(item[0]))
    ]


def _field(name: str, node: Node, required: bool, place: str = "") -> Field:
    default = json.dumps(node["default"], ensure_ascii=False) if "default" in node else ""
    limits = [words.format(option[key]) for option in _options(node) for key, words in LIMITS.items() if key in option]
    several = node.get("type") == "array"
    return Field(
        name, kind(node), required, prose(node.get("description", "")), default, ", ".join(limits), place, several
    )


def _options(node: Node) -> list[Node]:
    """The alternatives that a schema allows, itself where it has none."""
    return list(node.get("anyOf", [node]))


def kind(node: Node) -> Kind:
    """What a value of the schema is, in words: 'list of', 'text or null', …"""
    kinds = [_plain(option) for option in _options(node)]
    return Kind(" or ".join(item.words for item in kinds), next((item.schema for item in kinds if item.schema), ""))


def _plain(node: Node) -> Kind:
    if "$ref" in node:
        return Kind("", node["$ref"].rsplit("/", 1)[1])
    if "enum" in node:
        return Kind(" or ".join(json.dumps(value) for value in node["enum"]))
    if node.get("type") == "array":
        inner = kind(node.get("items", {}))
        return Kind(f"list of {inner.words}".strip(), inner.schema)
    if isinstance(node.get("additionalProperties"), dict):
        inner = kind(node["additionalProperties"])
        return Kind(f"object of {inner.words}".strip(), inner.schema)
    return Kind(str(node.get("type", "anything")))


def example(schema: Node, node: Node) -> Any:
    """A value that the schema takes: its own example, or the least that is required."""
    node = _options(node)[0]
    if "$ref" in node:
        return example(schema, schema["components"]["schemas"][node["$ref"].rsplit("/", 1)[1]])
    for key in ("example", "default"):
        if key in node:
            return node[key]
    if "enum" in node:
        return node["enum"][0]
    match node.get("type"):
        case "object":
            return {name: example(schema, node["properties"][name]) for name in node.get("required", [])}
        case "array":
            return [example(schema, node["items"])]
        case "integer" | "number":
            return node.get("minimum", 0)
        case "boolean":
            return False
        case "string":
            return "…"
    return None


def shown(name: str) -> str:
    """A schema's name as people read it: of classes of the same name with their modules."""
    return name.replace("__", ".")


def prose(text: str) -> SafeString:
    """Sentences as paragraphs, and what stands between backticks as code."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text.strip()))
    joined = re.sub(r"(?<!\n)\n(?!\n)", " ", marked)
    return mark_safe(linebreaks(joined)) if joined else SafeString()  # noqa: S308 - escaped above
