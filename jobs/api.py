"""Jobs over REST: submit, list, look at, abort, retry, change many, read the log, run a scheduling pass."""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from ninja import Header, Query, Router
from ninja.errors import HttpError
from pydantic import BeforeValidator

from agent.protocol import PassRequest
from executors import broker
from executors.answers import long_list
from executors.broker import RedisUnavailable, keys
from jobs import services
from jobs.archive import ArchiveUnavailable
from jobs.lifecycle import State
from jobs.listing import PAGE_SIZE, as_job_id, find, matching_ids, moment_of
from jobs.logs import PAGE_LINES, LogPage, follow_log, read_log, read_log_async
from jobs.models import Job
from jobs.reasons import never_fits, why_waiting
from jobs.schemas import (
    TAIL_LINES,
    BatchAccepted,
    BulkRequest,
    BulkResult,
    JobAccepted,
    JobChange,
    JobDetail,
    JobList,
    JobMatch,
    JobSummary,
    PassResult,
    as_filter,
    attempt_summary,
    happened,
    summary,
)
from jobs.services import JobNotFound
from jobs.submission import MOST_IN_BATCH, InvalidSubmission, JobSubmission, parse_batch
from jobs.timeline import happenings

logger = logging.getLogger(__name__)
router = Router(tags=["Jobs"])

PASS_WAIT_SECONDS = 4
"""How long POST /schedule waits for the scheduler; below the client's own time-out of 5 s."""


BATCH_BYTES = 32 * 1024**2
SHAPES_CHECKED = 20
"""Of a batch, for which is said that no executor could fit them."""


class NoScheduler(RuntimeError):
    """No scheduler answered a request for a pass."""


class BatchTooLarge(ValueError):
    """The body of a batch is larger than BATCH_BYTES."""


# --- Submit, list, look, abort -----------------------------------------------------------------------------------


IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        description="Of your choice, such as a UUID. The same submission repeated under it within a day makes no "
        "second job and answers with the first; another submission under it is refused with 409.",
    ),
]


@router.post("/jobs", response={201: JobAccepted}, summary="Submit a job")
def submit_job(
    request: HttpRequest, response: HttpResponse, submission: JobSubmission, idempotency_key: IdempotencyKey = ""
) -> dict[str, Any]:
    """Accepts a job: once this answers 201 it is never lost, and it reaches a final status.

    A command given as one string is split as a shell would; the answer shows the list.
    """
    if idempotency_key:
        accepted = services.submit_all([submission], request.user, idempotency_key)
        job = _job(str(accepted.ids[0]))
    else:
        job = services.submit(submission, request.user)
    response["Location"] = f"/api/v1/jobs/{job.id}"
    return {**summary(job), "warning": _warning(job)}


def _warning(job: Job) -> str | None:
    return never_fits(job) or (services.NOT_TOLD if broker.is_away() else None)


_BATCH_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["jobs"],
                "properties": {
                    "jobs": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": MOST_IN_BATCH,
                        "items": {"$ref": "#/components/schemas/JobSubmission"},
                    }
                },
            }
        }
    },
}


@router.post(
    "/jobs/batch",
    response={201: BatchAccepted},
    summary="Submit many jobs, all or none",
    openapi_extra={"requestBody": _BATCH_BODY},
)
def submit_batch(request: HttpRequest, response: HttpResponse, idempotency_key: IdempotencyKey = "") -> dict[str, Any]:
    """Up to 10,000 jobs, each as for `POST /jobs`, in 32 MB at most. Where one is wrong none is accepted, and `fields`
    names what is wrong as `jobs[17].docker_image`, counted from 0.

    Send an Idempotency-Key, so that you can repeat the request when no answer came.
    """
    accepted = services.submit_all(parse_batch(_read_json(request)), request.user, idempotency_key)
    return {"job_ids": accepted.ids, "repeated": not accepted.new, "warnings": _batch_warnings(accepted.new)}


def _read_json(request: HttpRequest) -> Any:
    """The body of a batch, which may be larger than others. Raises BatchTooLarge and, as ninja does, HttpError."""
    body = request.read(BATCH_BYTES + 1)
    if len(body) > BATCH_BYTES:
        raise BatchTooLarge(f"A batch may be {BATCH_BYTES // 1024**2} MB at most: send it in parts.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "The body is not JSON.") from error


def _batch_warnings(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    by_shape: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        by_shape.setdefault(job.shape, []).append(index)
    shapes = list(by_shape.values())[:SHAPES_CHECKED]
    warnings = [
        {"jobs": len(indices), "first": indices[0], "message": message}
        for indices in shapes
        if (message := never_fits(jobs[indices[0]]))
    ]
    if jobs and broker.is_away():
        warnings.append({"jobs": len(jobs), "first": 0, "message": services.NOT_TOLD})
    return warnings


@router.get("/jobs", response=JobList, summary="List jobs, newest first")
def list_jobs(
    request: HttpRequest,
    status: Annotated[list[Annotated[State, BeforeValidator(str.upper)]], Query(description="May be repeated.")] = [],  # noqa: B006
    executor: Annotated[str, Query(description="The id or name of where the current attempt runs or ran.")] = "",
    owner: Annotated[str, Query(description="The name of the user who submitted it.")] = "",
    image: Annotated[str, Query(description="A whole reference, or one without a tag for any of its tags.")] = "",
    label: Annotated[str, Query(description="name=value, or a name alone, among the labels it needs.")] = "",
    since: Annotated[str, Query(description="Submitted at 2026-11-24T13:00 (UTC) or later; or an age: 24h, 7d.")] = "",
    until: Annotated[str, Query(description="Submitted before; as `since`.")] = "",
    q: Annotated[str, Query(description="Words, each in name, image or command, or a job's id.", max_length=200)] = "",
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the answer before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = PAGE_SIZE,
) -> HttpResponse:
    _check_moments(since=since, until=until)
    match = JobMatch.model_construct(
        status=",".join(status), executor=executor, owner=owner, image=image, label=label, since=since, until=until, q=q
    )
    page = find(as_filter(match), before=str(cursor or ""), size=limit, jobs=_listed())
    return long_list({"jobs": [summary(job) for job in page.jobs], "next_cursor": page.older or None})


def _listed() -> QuerySet[Job]:
    """Jobs with no more of their owner and executor than a list shows: of a thousand, the rest takes long to read."""
    own = [field.name for field in Job._meta.concrete_fields]
    return Job.objects.select_related("owner", "executor").only(*own, "owner__username", "executor__name")


def _check_moments(**moments: str) -> None:
    """Raises InvalidSubmission for a time that cannot be read: left out, it would select more than was meant."""
    wrong = [name for name, text in moments.items() if text and moment_of(text, timezone.now()) is None]
    if wrong:
        sentence = "Must be a time such as 2026-11-24T13:00 (UTC), or an age such as 30m, 24h or 7d."
        raise InvalidSubmission({name: [sentence] for name in wrong})


@router.post("/jobs/bulk", response=BulkResult, summary="Abort, retry or re-prioritise many jobs")
def change_jobs(request: HttpRequest, body: BulkRequest) -> dict[str, Any]:
    """Each job is changed as by itself; one that cannot be is refused and stops none of the others."""
    if body.match:
        _check_moments(since=body.match.since, until=body.match.until)
    ids = body.job_ids if body.match is None else matching_ids(as_filter(body.match))
    outcome = services.change_many(
        body.action, list(dict.fromkeys(ids or [])), body.priority, request.user.get_username()
    )
    refused = [{"job_id": job_id, "message": sentence} for job_id, sentence in outcome.refused.items()]
    return {"done": [job.id for job in outcome.done], "refused": refused}


@router.get("/jobs/{job_id}", response=JobDetail, summary="Look at a job")
def get_job(request: HttpRequest, job_id: str) -> dict[str, Any]:
    """The job with its attempts, why it waits, and the end of its log."""
    job = _job(job_id)
    attempts = list(job.attempts.select_related("container_settings").order_by("number"))
    happened_to_it = happenings(job, attempts, list(job.events.all()), services.retried_by(job))
    try:
        log = read_log(broker.client(), job.id, limit=TAIL_LINES)
    except (*RedisUnavailable, ArchiveUnavailable) as error:
        logger.warning("The log of job %s is not in the answer: %s", job.id, error)
        log = None
    return {
        **summary(job),
        "waiting_reason": why_waiting(job) or None,
        "attempts": [attempt_summary(attempt) for attempt in attempts],
        "events": [happened(item) for item in happened_to_it],
        "logs": log.lines if log else None,
        "logs_total": log.total if log else None,
    }


@router.post("/jobs/{job_id}/abort", response=JobSummary, summary="Abort a job")
def abort_job(request: HttpRequest, job_id: str) -> dict[str, Any]:
    """At once when PENDING; else the container is stopped, and the status becomes ABORTED when it is gone.

    Asking again changes nothing. 409 for a job that has ended.
    """
    return summary(services.abort(known_id(job_id), request.user.get_username()))


@router.post("/jobs/{job_id}/retry", response={201: JobAccepted}, summary="Retry a job that has ended")
def retry_job(request: HttpRequest, response: HttpResponse, job_id: str) -> dict[str, Any]:
    """A new job that asks for the same; its `retry_of` names this one, whose end stays as it is. 409 for a job that
    has not ended."""
    job = services.retry(known_id(job_id), request.user.get_username())
    response["Location"] = f"/api/v1/jobs/{job.id}"
    return {**summary(job), "warning": _warning(job)}


@router.patch("/jobs/{job_id}", response=JobSummary, summary="Change a job's priority")
def change_job(request: HttpRequest, job_id: str, body: JobChange) -> dict[str, Any]:
    """409 for a job that is not PENDING any more."""
    return summary(services.set_priority(known_id(job_id), body.priority, request.user.get_username()))


@router.delete("/jobs/{job_id}", response=JobSummary, summary="Abort a job (the same as POST …/abort)")
def delete_job(request: HttpRequest, job_id: str) -> dict[str, Any]:
    return abort_job(request, job_id)


def _job(job_id: str) -> Job:
    job = Job.objects.select_related("owner", "executor").filter(id=known_id(job_id)).first()
    if job is None:
        raise no_such_job(job_id)
    return job


def known_id(text: str) -> UUID:
    """Raises JobNotFound for what is no job's id at all."""
    job_id = as_job_id(text)
    if job_id is None:
        raise no_such_job(text)
    return job_id


def no_such_job(job_id: object) -> JobNotFound:
    return JobNotFound(f"There is no job {str(job_id)[:100]}.")


# --- The log -----------------------------------------------------------------------------------------------------

Stream = Literal["stdout", "stderr"]


@router.get("/jobs/{job_id}/logs", summary="Read or follow a job's log as text")
async def get_logs(
    request: HttpRequest,
    job_id: str,
    offset: Annotated[int | None, Query(ge=0, description="First line; without it, the last `limit` lines.")] = None,
    limit: Annotated[int, Query(ge=1, le=100_000)] = PAGE_LINES,
    stream: Annotated[Stream | None, Query(description="Only lines of this stream.")] = None,
    follow: Annotated[bool, Query(description="From `offset` (default 0) on, until the job ends.")] = False,
    download: Annotated[bool, Query(description="From `offset` (default 0) to what is there now, as a file.")] = False,
) -> HttpResponseBase:
    """Lines `<time> <stdout|stderr> <text>`. Offsets count all lines that the job ever wrote.

    Headers: X-Log-Offset of the first line here, X-Next-Offset to read on from, X-Log-Total written so far,
    X-Log-Dropped gone from the front. Where a log grew over its limit and its middle was cut, one line says how much
    is missing and stands for all of it; X-Next-Offset is then beyond it.
    """
    known = known_id(job_id)
    if not await Job.objects.filter(id=known).aexists():
        raise no_such_job(job_id)
    if (follow or download) and offset is None:
        offset = 0
    async with broker.async_client() as client:
        page = await read_log_async(client, known, offset, limit)
    headers = {
        "X-Log-Offset": str(page.first),
        "X-Log-Total": str(page.total),
        "X-Log-Dropped": str(page.dropped),
        "Cache-Control": "no-store",
    }
    text_type = "text/plain; charset=utf-8"
    if not follow and not download:
        headers["X-Next-Offset"] = str(page.next_offset)
        return HttpResponse(as_text(page, stream), content_type=text_type, headers=headers)
    if download:
        headers["Content-Disposition"] = f'attachment; filename="job-{known}.log"'
    rest = _followed(known, page) if follow else _up_to(known, page)
    headers["X-Accel-Buffering"] = "no"
    return StreamingHttpResponse((as_text(p, stream) async for p in rest), content_type=text_type, headers=headers)


def as_text(page: LogPage, stream: Stream | None) -> str:
    """The page's lines, each with its line end; only those of `stream` where one is named."""
    note = len(page.lines) - 1 if page.cut else None
    return "".join(
        f"{line}\n"
        for number, line in enumerate(page.lines)
        if stream is None or number == note or line.split(" ", 2)[1:2] == [stream]
    )


async def _up_to(job_id: UUID, page: LogPage) -> AsyncIterator[LogPage]:
    """`page` and those after it, up to what was written when it was read."""
    end = page.total
    yield page
    async with broker.async_client() as client:
        while page.next_offset < end and page.lines:
            page = await read_log_async(client, job_id, page.next_offset)
            yield page


async def _followed(job_id: UUID, page: LogPage) -> AsyncIterator[LogPage]:
    """`page` and all after it, until the job has ended. While Redis is away the reader waits; nothing is skipped."""
    yield page
    offset = page.next_offset
    while True:
        try:
            async with broker.async_client() as client:
                async for page in follow_log(client, job_id, offset):
                    offset = page.next_offset
                    yield page
            return
        except (*RedisUnavailable, ArchiveUnavailable) as error:
            logger.warning("Following the log of job %s waits: %s", job_id, error)
            await asyncio.sleep(1)


# --- A pass ------------------------------------------------------------------------------------------------------


@router.post("/schedule", response=PassResult, tags=["Cluster"], summary="Run a scheduling pass now")
def schedule(request: HttpRequest) -> dict[str, Any]:
    """Never needed, since the scheduler is woken by every submission: for scripts that want to see what a pass does.

    Answers what it placed, and what still waits and why. 503 where no scheduler answers.
    """
    reply_to = keys().reply(secrets.token_hex(16))
    sent = broker.send_event(PassRequest(reply_to=reply_to))
    answer = broker.client().blpop([reply_to], timeout=PASS_WAIT_SECONDS) if sent else None
    if answer is None:
        remedy = "start one with: python manage.py runscheduler" if sent else "Redis does not answer"
        raise NoScheduler(f"No scheduler answered within {PASS_WAIT_SECONDS} s: {remedy}; /health says more.")
    result: dict[str, Any] = json.loads(answer[1])
    return result
