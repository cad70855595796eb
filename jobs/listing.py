"""Finding jobs: the filters that a list may carry in its URL, and one page of it by cursor.

Pages go by a job's id instead of by number: page 1,000 costs what page 1 does, and rows that arrive meanwhile push
nothing on to the next page.

However many jobs there are, no list may cost more than a little. What one index answers is looked for among all jobs.
Everything else (words, labels, a second filter, another order) is looked for among the newest WINDOW jobs that the
one index leaves, or the next WINDOW before the cursor; the page says how far back that was, and leads on from there.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import User
from django.db.models import CharField, Field, IntegerField, Q, QuerySet, TextField
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from executors.models import Executor
from jobs.lifecycle import FINAL, State
from jobs.models import Job
from jobs.orders import SORTS

PAGE_SIZE = 50
WINDOW = 5_000
"""Jobs looked through for one page at most, where no index answers."""
COUNT_LIMIT = 10_000
"""Matches counted at most."""
LAST_ID = (1 << 128) - 1

_AGES = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


# --- What stands in the URL --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs, in which order; '' is any.

    `state` may be several with commas; `executor` is an id or a name, `owner` a user's name, `image` a whole reference
    or one without its tag, `label` 'name=value' or a name alone; `since` and `until` are times, such as
    2026-11-24T13:00, in UTC, or ages such as 24h or 7d; `text` holds words, each in name, image or command, or a job's
    id. `sort` is 'submitted' or a key of SORTS, with '-' in front for the largest first; '' is the newest first.
    """

    state: str = ""
    executor: str = ""
    owner: str = ""
    image: str = ""
    label: str = ""
    since: str = ""
    until: str = ""
    text: str = ""
    sort: str = ""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "JobFilter":
        """From a URL's query; what means nothing is left out rather than refused, as links get old."""
        given = {field.name: query.get(field.name, "").strip().replace("\0", "")[:512] for field in fields(cls)}
        sort = given["sort"]
        given["state"] = ",".join(name for name in given["state"].upper().split(",") if name in State.__members__)
        given["sort"] = sort if sort.removeprefix("-") in {"submitted", *SORTS} else ""
        for name in ("since", "until"):
            given[name] = given[name] if moment_of(given[name], timezone.now()) else ""
        return cls(**given)

    def query(self, **more: str) -> str:
        """The query string, '' or beginning with '?', that `from_query` reads back."""
        pairs = {field.name: getattr(self, field.name) for field in fields(self)} | more
        query = urlencode({name: value for name, value in pairs.items() if value})
        return f"?{query}" if query else ""

    def without(self, name: str) -> "JobFilter":
        return replace(self, **{name: ""})

    @property
    def narrowing(self) -> dict[str, str]:
        """The filters that are set, by name."""
        pairs = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "sort"}
        return {name: value for name, value in pairs.items() if value}

    def __bool__(self) -> bool:
        return bool(self.narrowing)


def moment_of(text: str, now: datetime) -> datetime | None:
    """The moment that '24h' (before now) or '2026-11-24T13:00' (UTC where nothing else is said) means; else None."""
    if age := re.fullmatch(r"(\d{1,5})([mhdw])", text):
        return now - timedelta(seconds=int(age[1]) * _AGES[age[2]])
    try:
        moment = parse_datetime(text if len(text) > 10 else f"{text}T00:00")
    except ValueError:
        return None
    if moment is None or not 1971 < moment.year < 5000:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


# --- From filters to rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Search:
    """A filter as the database is asked: what one index answers, and what must be looked at row by row (or None), both
    with ids from `low` to `high`."""

    indexed: QuerySet[Job]
    rest: QuerySet[Job] | None
    low: int
    high: int

    def within(self, low: int = 0, high: int = LAST_ID) -> QuerySet[Job]:
        """The matching jobs with ids from `low` to `high`."""
        return self._between(self.indexed if self.rest is None else self.rest, low, high)

    def edge(self, order: str, low: int = 0, high: int = LAST_ID) -> uuid.UUID | None:
        """The id of the last job of the window, in this order from `low` or `high` on; None where it holds all."""
        ids = self._between(self.indexed, low, high).order_by(order).values_list("id", flat=True)
        return ids[WINDOW - 1 : WINDOW].first()

    def _between(self, jobs: QuerySet[Job], low: int, high: int) -> QuerySet[Job]:
        # One bound a side: given two, SQLite begins at either.
        low, high = max(low, self.low), min(high, self.high)
        jobs = jobs.filter(id__gte=uuid.UUID(int=low)) if low > 0 else jobs
        return jobs.filter(id__lte=uuid.UUID(int=high)) if high < LAST_ID else jobs


def _search(job_filter: JobFilter, jobs: QuerySet[Job]) -> _Search:
    now, low, high = timezone.now(), 0, LAST_ID
    if since := moment_of(job_filter.since, now):
        low = first_id(since).int
    if until := moment_of(job_filter.until, now):
        high = first_id(until).int - 1
    executors = _executor_ids(job_filter.executor) if job_filter.executor else []
    exact = _exact(job_filter, executors)
    jobs = jobs.filter(**dict(exact[:1]))
    rest = jobs
    for column, value in exact[1:]:
        rest = _row_by_row(rest, column).filter(**{f"plain_{column}": value})
    if len(executors) > 1:
        rest = _row_by_row(rest, "executor_id").filter(Q(plain_executor_id__in=executors))
    if "," in job_filter.state:
        rest = _row_by_row(rest, "state").filter(Q(plain_state__in=job_filter.state.split(",")))
    if job_filter.image and not _is_whole(job_filter.image):
        whole, tagged, digest = (job_filter.image + end for end in ("", ":", "@"))
        named = Q(plain_image=whole) | Q(plain_image__startswith=tagged) | Q(plain_image__startswith=digest)
        rest = _row_by_row(rest, "image").filter(named)
    if job_filter.label:
        rest = _with_label(rest, job_filter.label)
    if job_filter.text:
        rest = rest.alias(command_text=Cast("command", TextField()))
        for word in job_filter.text.split():
            rest = rest.filter(_matches(word))
    return _Search(jobs, None if rest is jobs else rest, low, high)


def _exact(job_filter: JobFilter, executors: list[str]) -> list[tuple[str, Any]]:
    """The conditions that have an index, the one that is likely to leave the fewest jobs first."""
    conditions: list[tuple[str, Any]] = []
    state = [("state", job_filter.state)] if job_filter.state in State.__members__ else []
    if job_filter.state not in FINAL:
        conditions += state
    if job_filter.executor and len(executors) < 2:
        conditions.append(("executor_id", executors[0] if executors else job_filter.executor))
    if job_filter.owner:
        owner = User.objects.filter(username=job_filter.owner).values_list("id", flat=True).first()
        conditions.append(("owner_id", owner or 0))
    if job_filter.image and _is_whole(job_filter.image):
        conditions.append(("image", job_filter.image))
    if job_filter.state in FINAL:
        conditions += state
    return conditions


def _executor_ids(text: str) -> list[str]:
    """Of the executors with this id or name: of a name there are several where a node joined anew."""
    known = Executor.objects.filter(Q(id=text) | Q(name=text))
    return list(known.order_by().values_list("id", flat=True)[:100])


def _row_by_row(jobs: QuerySet[Job], column: str) -> QuerySet[Job]:
    """With the column as `plain_…` too, which no index has.

    Given an index, a planner may prefer it to the window, and read all the jobs of an owner to find the one that waits.
    """
    output: Field[Any, Any] = IntegerField() if column == "owner_id" else CharField()
    return jobs.alias(**{f"plain_{column}": Coalesce(column, column, output_field=output)})


def _is_whole(image: str) -> bool:
    """Whether an image's name says which tag or digest."""
    return ":" in image.rpartition("/")[2] or "@" in image


def _with_label(jobs: QuerySet[Job], label: str) -> QuerySet[Job]:
    name, has_value, value = label.partition("=")
    if not has_value:
        return jobs.filter(labels__has_key=name)
    return jobs.alias(label_value=Cast(KeyTextTransform(name, "labels"), TextField())).filter(label_value=value)


def _matches(word: str) -> Q:
    """Jobs with the word in their name, image or command, or with this id."""
    # SQLite keeps JSON with its escapes, PostgreSQL without: é is looked for as both.
    escaped = json.dumps(word)[1:-1]
    matches = Q(name__icontains=word) | Q(image__icontains=word) | Q(command_text__icontains=word)
    if escaped != word:
        matches |= Q(command_text__icontains=escaped)
    if job_id := as_job_id(word):
        matches |= Q(id=job_id)
    return matches


def first_id(moment: datetime) -> uuid.UUID:
    """The least id that a job submitted at `moment` can have: a UUIDv7 begins with 48 bits of milliseconds."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


# --- Pages -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs. `older` and `newer` are the cursors of the next and the previous page, '' where there is none.

    `searched_to`: the last job of the window where it ended before the jobs did, so that there may be more behind.
    `sorted_to`: the last of the jobs among which a list in another order was sorted, where those were not all.
    """

    jobs: list[Job]
    older: str = ""
    newer: str = ""
    searched_to: uuid.UUID | None = None
    sorted_to: uuid.UUID | None = None

    @property
    def searched_since(self) -> datetime | None:
        """When the oldest job that was looked at was submitted, where that was not the oldest of all."""
        job_id = self.searched_to or self.sorted_to
        return datetime.fromtimestamp((job_id.int >> 80) / 1000, UTC) if job_id else None


def find(
    job_filter: JobFilter, before: str = "", after: str = "", size: int = PAGE_SIZE, jobs: QuerySet[Job] | None = None
) -> JobPage:
    """The first page of the list, or the one behind the job `before`, or the one in front of the job `after`.

    A cursor that is no job id is treated as none. `jobs`: among which, with what is to be loaded besides.
    """
    base = (Job.objects.all() if jobs is None else jobs).select_related("executor")
    search = _search(job_filter, base)
    behind, in_front = as_job_id(before), as_job_id(after)
    if job_filter.sort.removeprefix("-") not in ("", "submitted"):
        return _sorted_page(search, job_filter.sort, behind, None if behind else in_front, size)
    newest_first = job_filter.sort != "submitted"
    if in_front and not behind:
        page = _page_in_front(search, newest_first, in_front, size)
        # The first page is always full where it can be.
        return page if page.newer or len(page.jobs) >= size else find(job_filter, size=size, jobs=jobs)
    return _page_behind(search, newest_first, behind, size)


def _page_behind(search: _Search, newest_first: bool, behind: uuid.UUID | None, size: int) -> JobPage:
    rows, more, edge = _walk(search, newest_first, behind, size)
    newer = str(rows[0].id) if behind and rows else str(behind or "")
    if more:
        return JobPage(rows, older=str(rows[-1].id), newer=newer)
    return JobPage(rows, older=str(edge or ""), newer=newer, searched_to=edge)


def _page_in_front(search: _Search, newest_first: bool, in_front: uuid.UUID, size: int) -> JobPage:
    rows, more, edge = _walk(search, not newest_first, in_front, size)
    rows.reverse()
    older = str(rows[-1].id) if rows else str(in_front)
    return JobPage(rows, older=older, newer=str(rows[0].id) if more else str(edge or ""))


def _walk(
    search: _Search, downward: bool, begin: uuid.UUID | None, size: int
) -> tuple[list[Job], bool, uuid.UUID | None]:
    """The next jobs from the cursor on, whether more of them were found, and where the window ended before the jobs."""
    order = "-id" if downward else "id"
    low = begin.int + 1 if begin and not downward else 0
    high = begin.int - 1 if begin and downward else LAST_ID
    edge = search.edge(order, low, high) if search.rest is not None else None
    if edge and downward:
        low = edge.int
    elif edge:
        high = edge.int
    rows = list(search.within(low, high).order_by(order)[: size + 1])
    return rows[:size], len(rows) > size, edge


def _sorted_page(
    search: _Search, sort: str, behind: uuid.UUID | None, in_front: uuid.UUID | None, size: int
) -> JobPage:
    """A page of the newest WINDOW jobs in another order; jobs that are equal in it go by their ids."""
    floor = search.edge("-id")
    descending, name = sort.startswith("-"), sort.removeprefix("-")
    keyed = search.within(floor.int if floor else 0).annotate(sort_key=SORTS[name](timezone.now()))
    cursor = behind or in_front
    edge: Any = keyed.filter(id=cursor).first() if cursor else None
    forward = in_front is None or edge is None
    downward = descending == forward
    if edge is not None:
        way = "lt" if downward else "gt"
        equal = Q(sort_key=edge.sort_key, **{f"id__{way}": edge.id})
        keyed = keyed.filter(Q(**{f"sort_key__{way}": edge.sort_key}) | equal)
    sign = "-" if downward else ""
    rows: list[Job] = [*keyed.order_by(f"{sign}sort_key", f"{sign}id")[: size + 1]]
    more, rows = len(rows) > size, rows[:size]
    if not forward:
        rows.reverse()
    has_older, has_newer = (more, edge is not None) if forward else (True, more)
    return JobPage(
        rows,
        older=str(rows[-1].id) if rows and has_older else "",
        newer=str(rows[0].id) if rows and has_newer else "",
        sorted_to=floor,
    )


# --- Counting, and all of them -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    """How many jobs match. `more`: at least one more, as nobody counted further or looked further back."""

    jobs: int
    more: bool


def count(job_filter: JobFilter) -> Count:
    """Counts up to COUNT_LIMIT matches, in the newest WINDOW jobs where no index answers."""
    search = _search(job_filter, Job.objects.all())
    floor = search.edge("-id") if search.rest is not None else None
    found = search.within(floor.int if floor else 0).order_by("-id").values("id")[: COUNT_LIMIT + 1].count()
    return Count(min(found, COUNT_LIMIT), found > COUNT_LIMIT or floor is not None)


def matching_ids(job_filter: JobFilter) -> list[uuid.UUID]:
    """The newest COUNT_LIMIT matches, as `count` counts them."""
    search = _search(job_filter, Job.objects.all())
    floor = search.edge("-id") if search.rest is not None else None
    return list(search.within(floor.int if floor else 0).order_by("-id").values_list("id", flat=True)[:COUNT_LIMIT])


def as_job_id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
