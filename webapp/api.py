"""The REST API, /api/v1/: what each app contributes, the cluster's totals, and how errors become answers."""

import json
from collections.abc import Iterable
from typing import Any

import redis
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI, Router, Schema
from ninja.errors import HttpError, ValidationError
from ninja.parser import Parser
from ninja.renderers import BaseRenderer
from pydantic import Field
from pydantic_core import to_json

from executors import api as executors_api
from executors.lately import Lately
from executors.models import Executor
from executors.services import ExecutorInUse, ExecutorNotFound, InvalidLabels
from jobs import api as jobs_api
from jobs.archive import ArchiveUnavailable
from jobs.idempotency import KeyUsedOtherwise
from jobs.lifecycle import FINAL, State
from jobs.models import Job, count_by_state
from jobs.services import JobIsFinal, JobNotFinal, JobNotFound, JobNotPending
from jobs.submission import InvalidSubmission, explain
from webapp import health
from webapp.api_docs import ApiDocs
from webapp.errors import error_response

DESCRIPTION = """
Submit containers as jobs, follow them, and look after the executors that run them.

CPU is in cores, memory in GB of 1024³ bytes; fractions are welcome. Times are UTC.

Every error has one shape: `{"error": {"code": "…", "message": "…", "fields": {"cpu_cores": ["…"]}}}`. 400: not JSON;
401: log in (a browser's session, or HTTP Basic); 404: no such job or executor; 409: the job has ended, or not
yet, or the idempotency key is another submission's; 413: over 1 MB, or a batch over 32 MB; 422: a field is wrong, and
`fields` says how; 503: Redis or the scheduler does not answer.
"""


class JsonParser(Parser):
    """JSON whatever the content type says, as `curl -d` sends none of its own, and 1 MB at most also when chunked."""

    def parse_body(self, request: HttpRequest) -> Any:
        if len(request.body) > (settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0):
            raise RequestDataTooBig
        return json.loads(request.body)


class JsonRenderer(BaseRenderer):
    """JSON by pydantic, several times as fast as Python's own: a list of a thousand is a megabyte of text."""

    media_type = "application/json"

    def render(self, request: HttpRequest, data: Any, *, response_status: int) -> bytes:
        return to_json(data)


api = NinjaAPI(
    title="Distributed Workload Runner",
    version="1",
    description=DESCRIPTION,
    parser=JsonParser(),
    renderer=JsonRenderer(),
    docs=ApiDocs(),
)
cluster = Router(tags=["Cluster"])


# --- The cluster as a whole --------------------------------------------------------------------------------------


MANY_JOBS = 100_000


def _count(states: Iterable[State]) -> dict[str, int]:
    return count_by_state(Job.objects.filter(state__in=list(states)))


_ended = Lately(lambda: _count(FINAL), 2, lambda counts: sum(counts.values()) > MANY_JOBS)
"""Of very many jobs those that ended are counted every two seconds at most."""


ROOM = ("cpu_millicores", "memory_bytes", "reserve_cpu_millicores", "reserve_memory_bytes", "gpus")
"""The fields of an executor that say what jobs may hold of it."""


class Stats(Schema):
    jobs: dict[State, int] = Field(description="How many jobs have each status.")
    executors: dict[Executor.State, int] = Field(description="How many executors have each state.")
    capacity: executors_api.Resources = Field(description="What jobs may hold of all ONLINE executors.")
    allocated: executors_api.Resources = Field(description="What live attempts hold of them.")
    free: executors_api.Resources


@cluster.get("/stats", response=Stats, summary="The cluster in numbers")
def stats(request: HttpRequest) -> dict[str, Any]:
    jobs = _count(state for state in State if state not in FINAL) | _ended.get()
    executors = Executor.objects.only("state", *ROOM).order_by().with_allocation()
    online = [executor for executor in executors if executor.state == Executor.State.ONLINE]
    capacity = (
        sum(executor.allocatable_cpu_millicores for executor in online),
        sum(executor.allocatable_memory_bytes for executor in online),
        sum(len(executor.gpus) for executor in online),
    )
    allocated = (
        sum(executor.allocated_cpu_millicores for executor in online),
        sum(executor.allocated_memory_bytes for executor in online),
        sum(executor.allocated_gpus for executor in online),
    )
    free = [max(0, has - held) for has, held in zip(capacity, allocated, strict=True)]
    return {
        "jobs": {state: jobs.get(state, 0) for state in State},
        "executors": {state: sum(item.state == state for item in executors) for state in Executor.State},
        "capacity": executors_api.resources(*capacity),
        "allocated": executors_api.resources(*allocated),
        "free": executors_api.resources(*free),
    }


api.add_router("", jobs_api.router)
api.add_router("", executors_api.router)
api.add_router("", cluster)
api.add_router("", health.router)


# --- Errors ------------------------------------------------------------------------------------------------------


@api.exception_handler(ValidationError)
def invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    """Fields by the names that the asker used: `cpu_cores`, not `body.submission.cpu_cores`."""
    for item in error.errors:
        item["loc"] = item["loc"][2:] if item["loc"][0] == "body" else item["loc"][1:]
    fields = explain(error.errors)
    return error_response(422, f"Not accepted because of: {', '.join(fields)}.", "invalid", fields)


@api.exception_handler(HttpError)
def unreadable(request: HttpRequest, error: HttpError) -> HttpResponse:
    """What ninja itself refuses; its cause says what is wrong with a body."""
    cause = error.__cause__
    if isinstance(cause, RequestDataTooBig):
        return error_response(413)
    if isinstance(cause, json.JSONDecodeError):
        where = f"line {cause.lineno}, column {cause.colno}"
        return error_response(400, f"The body is not JSON: {cause.msg} at {where}.", "malformed_json")
    if isinstance(cause, UnicodeDecodeError | RecursionError):
        return error_response(400, "The body is not JSON in UTF-8, or is nested too deeply.", "malformed_json")
    return error_response(error.status_code, str(error))


@api.exception_handler(RequestDataTooBig)
def too_large(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    return error_response(413)


@api.exception_handler(JobNotFound)
def job_not_found(request: HttpRequest, error: JobNotFound) -> HttpResponse:
    return error_response(404, str(error), "job_not_found")


@api.exception_handler(ExecutorNotFound)
def executor_not_found(request: HttpRequest, error: ExecutorNotFound) -> HttpResponse:
    return error_response(404, str(error), "executor_not_found")


@api.exception_handler(ExecutorInUse)
def executor_in_use(request: HttpRequest, error: ExecutorInUse) -> HttpResponse:
    return error_response(409, str(error), "executor_in_use")


@api.exception_handler(InvalidLabels)
def invalid_labels(request: HttpRequest, error: InvalidLabels) -> HttpResponse:
    return error_response(422, f"Not accepted because of: {', '.join(error.fields)}.", "invalid", error.fields)


@api.exception_handler(JobIsFinal)
def job_is_final(request: HttpRequest, error: JobIsFinal) -> HttpResponse:
    return error_response(409, str(error), "job_is_final")


@api.exception_handler(JobNotFinal)
def job_not_final(request: HttpRequest, error: JobNotFinal) -> HttpResponse:
    return error_response(409, str(error), "job_not_final")


@api.exception_handler(JobNotPending)
def job_not_pending(request: HttpRequest, error: JobNotPending) -> HttpResponse:
    return error_response(409, str(error), "job_not_pending")


@api.exception_handler(InvalidSubmission)
def invalid_value(request: HttpRequest, error: InvalidSubmission) -> HttpResponse:
    return error_response(422, f"Not accepted because of: {', '.join(error.fields)}.", "invalid", error.fields)


@api.exception_handler(KeyUsedOtherwise)
def key_used_otherwise(request: HttpRequest, error: KeyUsedOtherwise) -> HttpResponse:
    return error_response(409, str(error), "idempotency_key_used")


@api.exception_handler(jobs_api.BatchTooLarge)
def batch_too_large(request: HttpRequest, error: jobs_api.BatchTooLarge) -> HttpResponse:
    return error_response(413, str(error))


@api.exception_handler(jobs_api.NoScheduler)
def no_scheduler(request: HttpRequest, error: jobs_api.NoScheduler) -> HttpResponse:
    return error_response(503, str(error), "no_scheduler")


@api.exception_handler(ArchiveUnavailable)
def archive_unavailable(request: HttpRequest, error: ArchiveUnavailable) -> HttpResponse:
    return error_response(503, f"{error}. Try again shortly.", "archive_unavailable")


@api.exception_handler(redis.ConnectionError)
@api.exception_handler(redis.TimeoutError)
def redis_unavailable(request: HttpRequest, error: redis.RedisError) -> HttpResponse:
    return error_response(503, "Redis does not answer; try again shortly. /health says more.", "redis_unavailable")
