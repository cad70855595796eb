"""Instances of models made the short way, where a pass makes thousands: Django's own way looks at each field by itself,
for defaults, relations and signals, which takes longer than reading the row does.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model, QuerySet
from django.db.models.base import ModelState

M = TypeVar("M", bound=Model)


def made(cls: type[M], values: Mapping[str, Any], related: Mapping[str, Model] | None = None) -> M:
    """An instance with these values, by attribute (`job_id`, not `job`), and `related` ones at hand. It counts as one
    that was read, and reads what it lacks when asked for it."""
    instance = cls.__new__(cls)
    state = ModelState()
    state.db, state.adding = DEFAULT_DB_ALIAS, False
    if related:
        state.fields_cache.update(related)
    instance.__dict__.update(values, _state=state)
    return instance


def read(rows: QuerySet[M], names: Sequence[str]) -> Iterator[M]:
    """The rows as instances that know these fields, named by attribute."""
    for values in rows.values_list(*names):
        yield made(rows.model, dict(zip(names, values, strict=True)))


def read_with(rows: QuerySet[M], names: Sequence[str], relation: str, its_names: Sequence[str]) -> Iterator[M]:
    """The same, each with the row of another model that the foreign key `relation` leads to."""
    other: Any = rows.model._meta.get_field(relation).related_model
    for values in rows.values_list(*names, *(f"{relation}__{name}" for name in its_names)):
        related = made(other, dict(zip(its_names, values[len(names) :], strict=True)))
        yield made(rows.model, dict(zip(names, values, strict=False)), {relation: related})
