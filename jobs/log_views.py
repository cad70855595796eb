"""What the log on a job's page asks for: lines by their number, lines that match, all of it as a file.

Lines have absolute numbers from 0 on, as in `jobs.logs`.
"""

import dataclasses
import functools
import json
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET

from executors import broker
from executors.broker import RedisUnavailable
from jobs import log_search as searching
from jobs.archive import ArchiveUnavailable
from jobs.log_search import InvalidQuery, TooManySearches, parse_query
from jobs.logs import LogPage, read_log, read_log_async
from jobs.models import Job

LINES_AT_ONCE = 1000
BYTES_AT_ONCE = 900_000
"""As JSON: a page ends before the line that would go over it. Lines may be 64 KiB long, and a WebSocket message that
daphne sends may have 1 MiB at most."""
DOWNLOAD_LINES = 5000
GZIP_FORMAT = 16 + zlib.MAX_WBITS


class InvalidNumber(ValueError):
    """A parameter that is not a whole number, in words."""


View = Callable[[HttpRequest, uuid.UUID], HttpResponse]


def answering_in_json(view: View) -> View:
    """Adds what all of these have in common: the job must exist, and whatever goes wrong is said in `detail`."""

    @functools.wraps(view)
    def checked(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
        get_object_or_404(Job.objects.only("id"), id=job_id)
        try:
            return view(request, job_id)
        except (InvalidNumber, InvalidQuery) as error:
            return JsonResponse({"detail": str(error)}, status=422)
        except RedisUnavailable:
            detail = "Redis, which holds the log, does not answer; try again shortly."
            return JsonResponse({"detail": detail}, status=503)
        except (ArchiveUnavailable, TooManySearches) as error:
            return JsonResponse({"detail": str(error)}, status=503)

    return checked


@require_GET
@answering_in_json
def log_lines(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The lines from `?offset=` on, at most `?limit=`, as the socket sends them."""
    offset = _number(request.GET, "offset", 0)
    limit = min(LINES_AT_ONCE, max(1, _number(request.GET, "limit", LINES_AT_ONCE)))
    page = shortened(read_log(broker.client(), job_id, offset, limit))
    return HttpResponse(as_json(page), content_type="application/json")


@require_GET
@answering_in_json
def log_search(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The numbers of the lines from `?offset=` on that match `?q=`, as far as one slice comes; ask on at `next`."""
    found = searching.search(_reader(job_id), _query(request.GET), _number(request.GET, "offset", 0))
    return JsonResponse({"hits": found.hits, "next": found.next, "total": found.total})


@require_GET
@answering_in_json
def log_spans(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """Where the lines from `?offset=` on, at most `?limit=`, match `?q=`."""
    offset = _number(request.GET, "offset", 0)
    limit = min(LINES_AT_ONCE, max(1, _number(request.GET, "limit", LINES_AT_ONCE)))
    return JsonResponse({"spans": searching.spans(_reader(job_id), _query(request.GET), offset, limit)})


@require_GET
def log_download(request: HttpRequest, job_id: uuid.UUID) -> StreamingHttpResponse:
    """All lines that are kept, as a text file; `?format=gzip`: packed."""
    get_object_or_404(Job.objects.only("id"), id=job_id)
    packed = request.GET.get("format") == "gzip"
    return StreamingHttpResponse(
        _packed(_log_text(job_id)) if packed else _log_text(job_id),
        content_type="application/gzip" if packed else "text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="job-{job_id}.log{".gz" if packed else ""}"'},
    )


def as_json(page: LogPage) -> str:
    """A page for the browser. Where `cut` is not 0, the last line stands for that many which are missing; `tail` is
    what stdout and stderr have printed behind the last line, where they have."""
    body = {"first": page.first, "lines": page.lines, "total": page.total, "dropped": page.dropped}
    tail = {"tail": page.tails} if any(page.tails) else {}
    return _dumps({**body, "complete": page.complete, "cut": page.cut, **tail})


def shortened(page: LogPage) -> LogPage:
    """The page up to BYTES_AT_ONCE, but at least one line of it."""
    if 6 * sum(map(len, page.lines)) < BYTES_AT_ONCE:  # no character takes more bytes
        return page
    size = 0
    for count, line in enumerate(page.lines):
        size += len(_dumps(line).encode(errors="replace")) + 1
        if size > BYTES_AT_ONCE and count:
            return dataclasses.replace(page, lines=page.lines[:count], cut=0)
    return page


async def _log_text(job_id: uuid.UUID) -> AsyncIterator[str]:
    async with broker.async_client() as client:
        page = await read_log_async(client, job_id, 0, DOWNLOAD_LINES)
        if page.dropped:
            yield f"[{page.dropped} lines are gone from the front]\n"
        while page.lines:
            yield "\n".join(page.lines) + "\n"
            page = await read_log_async(client, job_id, page.next_offset, DOWNLOAD_LINES)


async def _packed(texts: AsyncIterator[str]) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(wbits=GZIP_FORMAT)
    async for text in texts:
        if piece := packer.compress(text.encode()):
            yield piece
    yield packer.flush()


def _reader(job_id: uuid.UUID) -> searching.Read:
    return functools.partial(read_log, broker.client(), job_id)


def _query(parameters: QueryDict) -> searching.Query:
    """`q`, and the flags `regex` and `case`. Raises InvalidQuery."""
    flags = {"is_regex": parameters.get("regex") == "1", "match_case": parameters.get("case") == "1"}
    return parse_query(parameters.get("q", ""), **flags)


def _number(parameters: QueryDict, name: str, default: int) -> int:
    """Raises InvalidNumber."""
    text = parameters.get(name) or str(default)
    if not text.isdecimal() or len(text) > 15:
        raise InvalidNumber(f"{name} must be a whole number that is not negative, not {text[:40]!r}.")
    return int(text)


def _dumps(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
