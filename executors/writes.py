"""Many rows written at once, by the way measured fastest for each database; docs/decisions/0010 has the figures.

PostgreSQL: COPY, and UPDATE from arrays. SQLite: Django's own INSERT, and one prepared UPDATE for all rows. Django's
`bulk_update` is slow on both: its time goes into building CASE WHEN.
"""

from collections.abc import Sequence
from typing import Any

from django.db import connection
from django.db.models import AutoField, Field, Model


def insert_rows(rows: Sequence[Model]) -> None:
    """Insert these new rows, all of one model, inside the caller's transaction; they get their primary keys.

    Raises IntegrityError as `save` does; no signal is sent.
    """
    if not rows:
        return
    if connection.vendor == "postgresql":
        _copy(rows)
    else:
        type(rows[0])._base_manager.bulk_create(rows)


def update_rows(rows: Sequence[Model], fields: Sequence[str]) -> None:
    """Write these fields of these rows, all of one model and each once, inside the caller's transaction."""
    if not rows:
        return
    model = rows[0]
    changed = [_field(model, name) for name in fields]
    key = _field(model, model._meta.pk.name if model._meta.pk else "")
    if connection.vendor == "postgresql":
        _update_from_arrays(rows, key, changed)
    else:
        _update_one_by_one(rows, key, changed)


# --- PostgreSQL --------------------------------------------------------------------------------------------------


def _copy(rows: Sequence[Model]) -> None:
    meta = rows[0]._meta
    if isinstance(meta.pk, AutoField):
        _number(rows, meta.pk)
    fields = meta.concrete_fields
    columns = ", ".join(_quoted(field) for field in fields)
    statement = f"COPY {connection.ops.quote_name(meta.db_table)} ({columns}) FROM STDIN"
    # Django does not know COPY, so that its own exceptions have to be asked for.
    with connection.cursor() as cursor, connection.wrap_database_errors, cursor.copy(statement) as copy:
        for values in zip(*(_new_column(rows, field) for field in fields), strict=True):
            copy.write_row(values)


def _new_column(rows: Sequence[Model], field: "Field[Any, Any]") -> list[Any]:
    """As `_column`, with what Django fills in itself, such as the time of registration."""
    return [field.get_db_prep_save(field.pre_save(row, True), connection) for row in rows]


def _number(rows: Sequence[Model], key: "Field[Any, Any]") -> None:
    """Take the keys from the sequence, as COPY does not say which it gave."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, %s)) FROM generate_series(1, %s)",
            [rows[0]._meta.db_table, key.column, len(rows)],
        )
        for row, (number,) in zip(rows, cursor.fetchall(), strict=True):
            row.pk = number


def _update_from_arrays(rows: Sequence[Model], key: "Field[Any, Any]", changed: "Sequence[Field[Any, Any]]") -> None:
    fields = [key, *changed]
    names = [f"c{number}" for number in range(len(fields))]
    assignments = ", ".join(
        f"{_quoted(field)} = new.{name}" for field, name in zip(fields, names, strict=True) if field is not key
    )
    arrays = ", ".join(f"%s::{_type(field)}[]" for field in fields)
    table = connection.ops.quote_name(rows[0]._meta.db_table)
    # Every name in the statement is a model's own, every value a parameter.
    statement = (
        f"UPDATE {table} SET {assignments} FROM unnest({arrays}) AS new({', '.join(names)})"  # noqa: S608
        f" WHERE {table}.{_quoted(key)} = new.{names[0]}"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [_column(rows, field) for field in fields])


def _type(field: "Field[Any, Any]") -> str:
    """The column's type without its length: a cast to varchar(16) would cut in silence what is too long."""
    name = field.rel_db_type(connection) if field.primary_key else field.db_type(connection)
    return (name or "").partition("(")[0]


# --- SQLite ------------------------------------------------------------------------------------------------------


def _update_one_by_one(rows: Sequence[Model], key: "Field[Any, Any]", changed: "Sequence[Field[Any, Any]]") -> None:
    table = connection.ops.quote_name(rows[0]._meta.db_table)
    assignments = ", ".join(f"{_quoted(field)} = %s" for field in changed)
    statement = f"UPDATE {table} SET {assignments} WHERE {_quoted(key)} = %s"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.executemany(statement, list(zip(*(_column(rows, field) for field in [*changed, key]), strict=True)))


# --- Both --------------------------------------------------------------------------------------------------------


def _column(rows: Sequence[Model], field: "Field[Any, Any]") -> list[Any]:
    """The field's values as the database takes them."""
    return [field.get_db_prep_save(getattr(row, field.attname), connection) for row in rows]


def _quoted(field: "Field[Any, Any]") -> str:
    return connection.ops.quote_name(field.column or "")


def _field(model: Model, name: str) -> "Field[Any, Any]":
    field = model._meta.get_field(name)
    if not isinstance(field, Field):
        raise TypeError(f"{name} is not a column of {model._meta.label}")
    return field
