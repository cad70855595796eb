"""Many rows written or found at once, by the way measured fastest for each database; docs/decisions/0012 has figures.

PostgreSQL: COPY, and UPDATE from arrays, both as text that is made here a column at a time. SQLite: one prepared
INSERT or UPDATE for all rows. Django's `bulk_update` is slow on both: its time goes into building CASE.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import AutoField, Field, JSONField, Model, Q
from django.db.models.expressions import RawSQL


def insert_rows(rows: Sequence[Model]) -> None:
    """Insert these new rows, all of one model, inside the caller's transaction; they get their primary keys.

    Raises IntegrityError as `save` does; no signal is sent.
    """
    if not rows:
        return
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor == "postgresql":
        _copy(connection, rows)
    else:
        _insert_one_by_one(connection, rows)
    for row in rows:
        row._state.adding, row._state.db = False, DEFAULT_DB_ALIAS


def update_rows(rows: Sequence[Model], fields: Sequence[str]) -> None:
    """Write these fields of these rows, all of one model and each once, inside the caller's transaction."""
    if not rows:
        return
    connection = connections[DEFAULT_DB_ALIAS]
    model = rows[0]
    changed = [_field(model, name) for name in fields]
    key = _field(model, model._meta.pk.name if model._meta.pk else "")
    if connection.vendor == "postgresql":
        _update_from_arrays(connection, rows, key, changed)
    else:
        _update_one_by_one(connection, rows, key, changed)


def one_of(name: str, keys: Iterable[UUID | str]) -> Q:
    """The rows whose field `name`, a UUID, is one of these. As an array for PostgreSQL: psycopg takes longer to find
    its place in a statement with a thousand parameters than the database takes to answer it."""
    if connections[DEFAULT_DB_ALIAS].vendor != "postgresql":
        return Q(**{f"{name}__in": list(keys)})
    return Q(**{f"{name}__in": RawSQL("SELECT unnest(%s::uuid[])", [_array([str(key) for key in keys])])})


# --- PostgreSQL --------------------------------------------------------------------------------------------------
#
# Every name in a statement is a model's own, every value a parameter or COPY's data.

_COPY_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_COPY_ESCAPED = re.compile(r"[\\\t\n\r]")
_ARRAY_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"'})

Column = list[str | None]
"""The texts of a column: a single one where all rows have the same, else one a row."""


def _copy(connection: BaseDatabaseWrapper, rows: Sequence[Model]) -> None:
    meta = rows[0]._meta
    if isinstance(meta.pk, AutoField):
        _number(connection, rows, meta.pk)
    fields = meta.concrete_fields
    line, varying = [], []
    for field in fields:
        texts = _copied(_texts(field, _new_values(rows, field)))
        if len(texts) == 1:  # as most are: its text stands in the pattern of the line
            line.append(texts[0].replace("%", "%%"))
        else:
            line.append("%s")
            varying.append(texts)
    pattern = "\t".join(line) + "\n"
    lines = "".join([pattern % row for row in zip(*varying, strict=True)]) if varying else (pattern % ()) * len(rows)
    names = ", ".join(_quoted(connection, field.column) for field in fields)
    statement = f"COPY {_quoted(connection, meta.db_table)} ({names}) FROM STDIN"
    # Django does not know COPY, so that its own exceptions have to be asked for.
    with connection.cursor() as cursor, connection.wrap_database_errors, cursor.copy(statement) as copy:
        copy.write(lines)


def _copied(texts: Column) -> list[str]:
    if None not in texts and not _COPY_ESCAPED.search("".join(texts)):  # type: ignore[arg-type]
        return texts  # type: ignore[return-value]
    return ["\\N" if text is None else text.translate(_COPY_ESCAPES) for text in texts]


def _new_values(rows: Sequence[Model], field: "Field[Any, Any]") -> list[Any]:
    """With what Django fills in itself, such as the time of registration."""
    if getattr(field, "auto_now_add", False) or getattr(field, "auto_now", False):
        return [field.pre_save(row, True) for row in rows]
    return [getattr(row, field.attname) for row in rows]


def _number(connection: BaseDatabaseWrapper, rows: Sequence[Model], key: "Field[Any, Any]") -> None:
    """Take the keys from the sequence, as COPY does not say which it gave."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval((SELECT pg_get_serial_sequence(%s, %s))) FROM generate_series(1, %s)",
            [rows[0]._meta.db_table, key.column, len(rows)],
        )
        for row, (number,) in zip(rows, cursor.fetchall(), strict=True):
            setattr(row, key.attname, number)


def _update_from_arrays(
    connection: BaseDatabaseWrapper,
    rows: Sequence[Model],
    key: "Field[Any, Any]",
    changed: "Sequence[Field[Any, Any]]",
) -> None:
    table = _quoted(connection, rows[0]._meta.db_table)
    keys = _texts(key, [getattr(row, key.attname) for row in rows])
    assignments, arrays, columns = [], [f"%s::{_type(connection, key)}[]"], [_array(keys)]
    constants: list[str | None] = []
    for field in changed:
        texts = _texts(field, [getattr(row, field.attname) for row in rows])
        if len(texts) == 1:  # as many are: the state, or nothing at all
            assignments.append(f"{_quoted(connection, field.column)} = %s::{_type(connection, field)}")
            constants.append(texts[0])
        else:
            assignments.append(f"{_quoted(connection, field.column)} = new.c{len(columns)}")
            arrays.append(f"%s::{_type(connection, field)}[]")
            columns.append(_array(texts))
    names = ", ".join(f"c{number}" for number in range(len(columns)))
    statement = (
        f"UPDATE {table} SET {', '.join(assignments)} FROM unnest({', '.join(arrays)}) AS new({names})"  # noqa: S608
        f" WHERE {table}.{_quoted(connection, key.column)} = new.c0"
    )
    _execute_apart(connection, statement, [*constants, *columns])


def _execute_apart(connection: BaseDatabaseWrapper, statement: str, parameters: Sequence[str | None]) -> None:
    """With the parameters beside the statement, where Django would write them into it: of a hundred thousand characters
    of arrays each would be looked at once more on either side."""
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(statement, parameters)


def _texts(field: "Field[Any, Any]", values: list[Any]) -> Column:
    """Texts, numbers, times, ids, booleans and JSON as PostgreSQL reads them; a single one where all are the same."""
    if _alike(field, values):
        values = values[:1]
    if isinstance(field, JSONField):
        texts: Column = [None if value is None else json.dumps(value, cls=field.encoder) for value in values]
        return texts[:1] if texts.count(texts[0]) == len(texts) else texts
    if isinstance(values[0], UUID):
        return [value if value is None else value.hex for value in values]
    return [value if value is None or type(value) is str else str(value) for value in values]


def _array(texts: Column) -> str:
    if None not in texts:
        joined = '","'.join(texts)  # type: ignore[arg-type]
        if "\\" not in joined and joined.count('"') == 2 * (len(texts) - 1):
            return f'{{"{joined}"}}'
    elements = ["NULL" if text is None else f'"{text.translate(_ARRAY_ESCAPES)}"' for text in texts]
    return f"{{{','.join(elements)}}}"


def _type(connection: BaseDatabaseWrapper, field: "Field[Any, Any]") -> str:
    """The column's type without its length: a cast to varchar(16) would cut in silence what is too long."""
    name = field.rel_db_type(connection) if field.primary_key else field.db_type(connection)
    return (name or "").partition("(")[0]


# --- SQLite ------------------------------------------------------------------------------------------------------


def _insert_one_by_one(connection: BaseDatabaseWrapper, rows: Sequence[Model]) -> None:
    meta = rows[0]._meta
    if isinstance(meta.pk, AutoField):
        # The transaction holds the one lock for writing, so nobody else takes these.
        with connection.cursor() as cursor:
            cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [meta.db_table])
            last = (cursor.fetchone() or (0,))[0]
        for number, row in enumerate(rows, start=last + 1):
            row.pk = number
    fields = meta.concrete_fields
    names = ", ".join(_quoted(connection, field.column) for field in fields)
    places = ", ".join("%s" for _ in fields)
    statement = f"INSERT INTO {_quoted(connection, meta.db_table)} ({names}) VALUES ({places})"  # noqa: S608
    _execute_for_each(connection, statement, [(field, _new_values(rows, field)) for field in fields])


def _update_one_by_one(
    connection: BaseDatabaseWrapper,
    rows: Sequence[Model],
    key: "Field[Any, Any]",
    changed: "Sequence[Field[Any, Any]]",
) -> None:
    table = _quoted(connection, rows[0]._meta.db_table)
    assignments = ", ".join(f"{_quoted(connection, field.column)} = %s" for field in changed)
    statement = f"UPDATE {table} SET {assignments} WHERE {_quoted(connection, key.column)} = %s"  # noqa: S608
    _execute_for_each(
        connection, statement, [(field, [getattr(row, field.attname) for row in rows]) for field in [*changed, key]]
    )


def _execute_for_each(
    connection: BaseDatabaseWrapper, statement: str, columns: "Sequence[tuple[Field[Any, Any], list[Any]]]"
) -> None:
    prepared = [
        [field.get_db_prep_save(values[0], connection)] * len(values)
        if _alike(field, values)
        else [field.get_db_prep_save(value, connection) for value in values]
        for field, values in columns
    ]
    with connection.cursor() as cursor:
        cursor.executemany(statement, list(zip(*prepared, strict=True)))


# --- Both --------------------------------------------------------------------------------------------------------


def _alike(field: "Field[Any, Any]", values: list[Any]) -> bool:
    """Whether all are written alike. Of JSON it is said of what is empty only: [1] equals [True], written otherwise."""
    first = values[0]
    if isinstance(field, JSONField):
        return not first and not any(values) and {type(value) for value in values} == {type(first)}
    return bool(values[-1] == first) and values.count(first) == len(values)


def _quoted(connection: BaseDatabaseWrapper, name: str | None) -> str:
    return connection.ops.quote_name(name or "")


def _field(model: Model, name: str) -> "Field[Any, Any]":
    field = model._meta.get_field(name)
    if not isinstance(field, Field):
        raise TypeError(f"{name} is not a column of {model._meta.label}")
    return field
