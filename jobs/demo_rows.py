"""Many rows into the database at once, faster than `bulk_create`: COPY for PostgreSQL, one prepared statement else."""

from collections.abc import Sequence

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import AutoField, Model


def insert(rows: Sequence[Model]) -> None:
    """Add these rows, all of one model, inside the caller's transaction; numbers that the database gives are not read
    back."""
    if not rows:
        return
    connection = connections[DEFAULT_DB_ALIAS]
    meta, quote = rows[0]._meta, connection.ops.quote_name
    fields = [field for field in meta.concrete_fields if not isinstance(field, AutoField)]
    columns = ", ".join(quote(field.column or "") for field in fields)
    values = [[field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields] for row in rows]
    with connection.cursor() as cursor:
        # Every name in the statements is a model's own, every value a parameter.
        if connection.vendor == "postgresql":
            with cursor.copy(f"COPY {quote(meta.db_table)} ({columns}) FROM STDIN") as copy:
                for line in values:
                    copy.write_row(line)
        else:
            places = ", ".join("%s" for _ in fields)
            cursor.executemany(f"INSERT INTO {quote(meta.db_table)} ({columns}) VALUES ({places})", values)  # noqa: S608
