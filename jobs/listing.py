"""Finding jobs: the filters that a list may carry in its URL, and one page of it by cursor.

Pages go by the id (time-ordered, so newest first) instead of by number: page 1,000 costs what page 1 does, and rows
that arrive meanwhile push nothing on to the next page.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import urlencode

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from jobs.lifecycle import State
from jobs.models import Job

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs: by state, by executor id, by words in name, image, command or id. '' is any."""

    state: str = ""
    executor: str = ""
    text: str = ""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "JobFilter":
        """From a URL's query; what is not a state is left out rather than refused, as links get old."""
        state = query.get("state", "").strip().upper()
        return cls(
            state=state if state in State.__members__ else "",
            executor=query.get("executor", "").strip().replace("\0", ""),
            text=query.get("text", "").strip().replace("\0", "")[:200],
        )

    def query(self, **more: str) -> str:
        """The query string, '' or beginning with '?', that `from_query` reads back."""
        pairs = {field.name: getattr(self, field.name) for field in fields(self)} | more
        query = urlencode({name: value for name, value in pairs.items() if value})
        return f"?{query}" if query else ""

    def __bool__(self) -> bool:
        return bool(self.state or self.executor or self.text)

    def apply(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        if self.state:
            jobs = jobs.filter(state=self.state)
        if self.executor:
            jobs = jobs.filter(executor_id=self.executor)
        if self.text:
            jobs = jobs.alias(command_text=Cast("command", TextField()))
        for word in self.text.split():
            jobs = jobs.filter(_matches(word))
        return jobs


def _matches(word: str) -> Q:
    """Jobs with the word in their name, image or command, or with this id."""
    # SQLite keeps JSON with its escapes, PostgreSQL without: é is looked for as both.
    escaped = json.dumps(word)[1:-1]
    matches = Q(name__icontains=word) | Q(image__icontains=word)
    matches |= Q(command_text__icontains=word) | Q(command_text__icontains=escaped)
    if job_id := as_job_id(word):
        matches |= Q(id=job_id)
    return matches


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first. `older` and `newer` are the cursors of the neighbouring pages, '' where there is none."""

    jobs: list[Job]
    older: str
    newer: str


def page_of(jobs: QuerySet[Job], before: str = "", after: str = "", size: int = PAGE_SIZE) -> JobPage:
    """The newest jobs, or those just older than the job `before`, or those just newer than the job `after`.

    A cursor that is no job id is treated as none.
    """
    jobs = jobs.select_related("executor")
    older_than, newer_than = as_job_id(before), as_job_id(after)
    if newer_than and not older_than:
        rows = list(jobs.filter(id__gt=newer_than).order_by("id")[: size + 1])
        more_newer, rows = len(rows) > size, rows[:size][::-1]
        if len(rows) < size and not more_newer:  # the newest page, which is always full where it can be
            return page_of(jobs, size=size)
        return JobPage(rows, older=str(rows[-1].id), newer=str(rows[0].id) if more_newer else "")
    if older_than:
        jobs = jobs.filter(id__lt=older_than)
    rows = list(jobs.order_by("-id")[: size + 1])
    more_older, rows = len(rows) > size, rows[:size]
    newer = str(rows[0].id) if older_than and rows else ""
    return JobPage(rows, older=str(rows[-1].id) if more_older else "", newer=newer)


def as_job_id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
