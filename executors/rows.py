"""Instances of models made the short way, where a pass makes thousands: Django's own way looks at each field by itself,
for defaults, relations and signals, which takes longer than reading the row does.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS
from django.db.models import JSONField, Model, QuerySet, TextField
from django.db.models.base import ModelState
from django.db.models.functions import Cast

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
    """The rows as instances that know these fields, named by attribute. They share what JSON they have in common, so
    that whoever changes it gives them another value."""
    for found in values(rows, names):
        yield made(rows.model, dict(zip(names, found, strict=True)))


def values(rows: QuerySet[M], names: Sequence[str]) -> Iterator[list[Any]]:
    """The same without the instances."""
    return _values(rows, [(rows.model, "", name) for name in names])


def read_with(rows: QuerySet[M], names: Sequence[str], relation: str, its_names: Sequence[str]) -> Iterator[M]:
    """The same, each with the row of another model that the foreign key `relation` leads to."""
    other: Any = rows.model._meta.get_field(relation).related_model
    columns = [(rows.model, "", name) for name in names] + [(other, f"{relation}__", name) for name in its_names]
    for found in _values(rows, columns):
        related = made(other, dict(zip(its_names, found[len(names) :], strict=True)))
        yield made(rows.model, dict(zip(names, found, strict=False)), {relation: related})


def _values(rows: QuerySet[M], columns: Sequence[tuple[type[Model], str, str]]) -> Iterator[list[Any]]:
    """The rows' values; a column is a model, the way to it and the field's name. JSON is read as text, and parsed once
    however many rows have it: most have the same, or none."""
    wanted: list[Any] = [way + name for _, way, name in columns]
    of_json = [
        place for place, (model, _, name) in enumerate(columns) if isinstance(model._meta.get_field(name), JSONField)
    ]
    for place in of_json:
        wanted[place] = Cast(wanted[place], TextField())
    parsed: dict[str | None, Any] = {None: None}
    for row in rows.values_list(*wanted):
        found = list(row)
        for place in of_json:
            text = found[place]
            if text not in parsed:
                parsed[text] = json.loads(text)
            found[place] = parsed[text]
        yield found
