"""Many rows changed by one prepared statement: measured faster than Django's `bulk_update` on both databases."""

from collections.abc import Sequence
from typing import Any

from django.db import connection
from django.db.models import Field, Model


def update_rows(rows: Sequence[Model], fields: Sequence[str]) -> None:
    """Write these fields of these rows, all of one model, inside the caller's transaction."""
    if not rows:
        return
    model = rows[0]
    changed = [_field(model, name) for name in fields]
    key = _field(model, model._meta.pk.name if model._meta.pk else "")
    quote = connection.ops.quote_name
    assignments = ", ".join(f"{quote(field.column or '')} = %s" for field in changed)
    # Every name in the statement is a model's own, every value a parameter.
    statement = f"UPDATE {quote(model._meta.db_table)} SET {assignments} WHERE {quote(key.column or '')} = %s"  # noqa: S608
    parameters = [
        [field.get_db_prep_save(getattr(row, field.attname), connection) for field in [*changed, key]] for row in rows
    ]
    with connection.cursor() as cursor:
        cursor.executemany(statement, parameters)


def _field(model: Model, name: str) -> "Field[Any, Any]":
    field = model._meta.get_field(name)
    if not isinstance(field, Field):
        raise TypeError(f"{name} is not a column of {model._meta.label}")
    return field
