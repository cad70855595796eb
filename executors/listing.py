"""Finding executors: the filters that their list may carry in its URL, and one page of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from urllib.parse import urlencode

from django.db.models import Count, Q, TextField
from django.db.models.functions import Cast

from executors.models import Executor, ExecutorQuerySet

PAGE_SIZE = 50
KINDS = {
    "ONLINE": Q(state=Executor.State.ONLINE, schedulable=True),
    "CLOSED": Q(state=Executor.State.ONLINE, schedulable=False),
    "UNHEALTHY": Q(state=Executor.State.UNHEALTHY),
    "LOST": Q(state=Executor.State.LOST),
}
"""What the list can be narrowed to; each executor is of exactly one kind."""


@dataclass(frozen=True, slots=True)
class ExecutorFilter:
    """Which executors: of one of KINDS, with all these words in name, address, id, GPUs or labels. '' is any."""

    state: str = ""
    text: str = ""
    page: int = 1

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "ExecutorFilter":
        """From a URL's query; what is not known is left out rather than refused, as links get old."""
        state, page = query.get("state", "").upper(), query.get("page", "1")
        return cls(
            state=state if state in KINDS else "",
            text=query.get("text", "").strip().replace("\0", "")[:200],
            page=min(max(1, int(page)), 100_000) if page.isascii() and page.isdecimal() and len(page) < 9 else 1,
        )

    def query(self, **changes: str | int) -> str:
        """The query string, '' or beginning with '?', that `from_query` reads back."""
        changed = replace(self, **changes)  # type: ignore[arg-type]
        pairs = {field.name: getattr(changed, field.name) for field in fields(self)}
        query = urlencode({name: value for name, value in pairs.items() if value and value != 1})
        return f"?{query}" if query else ""

    def apply(self, executors: ExecutorQuerySet) -> ExecutorQuerySet:
        if self.state:
            executors = executors.filter(KINDS[self.state])
        if self.text:
            executors = executors.alias(
                own=Cast("labels", TextField()),
                operators=Cast("operator_labels", TextField()),
                devices=Cast("gpus", TextField()),
            )
        for word in self.text.split():
            executors = executors.filter(_matches(word))
        return executors


def _matches(word: str) -> Q:
    found = Q(name__icontains=word) | Q(address__icontains=word) | Q(id=word) | Q(devices__icontains=word)
    for column in ("own", "operators"):
        name, equals, value = word.partition("=")
        if equals:  # zone=eu, as JSON has it
            found |= Q(**{f"{column}__icontains": f'"{name}": "{value}'})
        else:
            found |= Q(**{f"{column}__icontains": word})
    return found


def counts() -> dict[str, int]:
    """How many executors there are of each kind."""
    aggregates = {kind: Count("id", filter=condition) for kind, condition in KINDS.items()}
    return dict(Executor.objects.aggregate(**aggregates))
