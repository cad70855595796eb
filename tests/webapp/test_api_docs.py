"""The API's documentation: everything of the schema is there, and its examples are what the API takes."""

import re
from typing import Any

import pytest
import redis
from django.test import Client

from webapp.api_docs import example, kind, prose, sections


@pytest.fixture
def client(local_client: Client, redis_client: redis.Redis) -> Client:
    return local_client


def test_every_operation_and_every_schema_has_its_place_and_every_link_leads_to_one(client: Client) -> None:
    schema = client.get("/api/v1/openapi.json").json()
    page = client.get("/api/v1/docs").content.decode()
    places = set(re.findall(r'<details class="panel api-item" id="([^"]+)"', page))
    operations = {node["operationId"] for methods in schema["paths"].values() for node in methods.values()}
    assert places == operations | set(schema["components"]["schemas"])
    links = set(re.findall(r'<a\b[^>]*\bhref="#([^"]+)"', page)) - {"main"}
    assert links and links <= places


def test_the_example_of_a_job_and_of_a_batch_is_accepted_as_it_stands(client: Client) -> None:
    taken = {
        operation.path: client.post(operation.path, operation.body, content_type="application/json").status_code
        for section in sections(client.get("/api/v1/openapi.json").json())
        for operation in section.operations
        if operation.method == "POST" and operation.path in ("/api/v1/jobs", "/api/v1/jobs/batch")
    }
    assert taken == {"/api/v1/jobs": 201, "/api/v1/jobs/batch": 201}


@pytest.mark.parametrize(
    ("node", "words", "schema"),
    [
        ({"type": "string"}, "string", ""),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer or null", ""),
        ({"$ref": "#/components/schemas/Job"}, "", "Job"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Job"}}, "list of", "Job"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "object of string", ""),
        ({"enum": ["a", "b"], "type": "string"}, '"a" or "b"', ""),
        ({}, "anything", ""),
    ],
)
def test_what_a_value_is_stands_there_in_words(node: dict[str, Any], words: str, schema: str) -> None:
    assert (kind(node).words, kind(node).schema) == (words, schema)


def test_an_example_has_what_is_required_and_no_more() -> None:
    node = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 3}, "m": {}}}
    assert example({}, node) == {"n": 3}


def test_a_description_is_text_whatever_it_says() -> None:
    assert prose("a `b`\nc\n\n<b>d</b>") == "<p>a <code>b</code> c</p>\n\n<p>&lt;b&gt;d&lt;/b&gt;</p>"
