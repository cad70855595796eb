"""The orders in which a list of jobs may be sorted, beside that of their submission."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.db.models import Expression, F, FloatField, Func, Value
from django.db.models.functions import Coalesce, Lower

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Seconds(Func):
    """A time as a number of seconds, which unlike a duration both databases can reckon with quickly."""

    output_field = FloatField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="(julianday(%(expressions)s) * 86400.0)", **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "EXTRACT(EPOCH FROM %(expressions)s)::double precision"
        return self.as_sql(compiler, connection, template=template, **extra)


def _took(now: datetime) -> Expression:
    """How long a job ran or has been running; less than nothing where it never did."""
    return Coalesce(Seconds(Coalesce("finished_at", Value(now))) - Seconds("started_at"), Value(-1.0))


SORTS: dict[str, Callable[[datetime], Expression | F]] = {
    "started": lambda now: Coalesce("started_at", Value(_EPOCH)),
    "took": _took,
    "priority": lambda now: Coalesce("priority", "priority"),  # hidden from indexes, as `_row_by_row` in listing.py
    "name": lambda now: Lower("name"),
}
