"""Many rows at once arrive as one `save` would write them; run it on PostgreSQL as well, it has its own way."""

from datetime import UTC, datetime

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.forms import model_to_dict

from executors.models import Executor, ExecutorEvent
from executors.writes import insert_rows, update_rows

pytestmark = pytest.mark.django_db

AWKWARD = "tab\t, line\nbreak, back\\slash, \\N, \"quotes\", 'single', {braces}, comma, é, 日本, 🎉, %s"
NOW = datetime(2026, 11, 24, 12, 30, 15, 123456, tzinfo=UTC)


def executor(name: str, **fields: object) -> Executor:
    return Executor(
        id=name,
        name=name,
        cpu_millicores=1,
        memory_bytes=2**40,
        last_heartbeat_at=NOW,
        **{"labels": {AWKWARD: [AWKWARD, None, 1.5]}, "gpus": [], "problem": AWKWARD, **fields},
    )


def test_rows_that_are_inserted_have_every_value_and_their_keys() -> None:
    rows = [executor("a"), executor("b", problem="", labels={}, schedulable=False)]
    insert_rows(rows)
    assert [model_to_dict(row) for row in Executor.objects.order_by("id")] == [model_to_dict(row) for row in rows]
    rows[1].save()  # it is known to be there
    events = [ExecutorEvent(executor=row, kind="lost", at=NOW, text=AWKWARD) for row in rows]
    insert_rows(events)
    insert_rows([])
    assert list(ExecutorEvent.objects.order_by("id")) == events
    assert ExecutorEvent.objects.create(executor=rows[0], kind="lost", at=NOW).id > max(event.id for event in events)


def test_a_row_that_breaks_a_constraint_inserts_none() -> None:
    Executor.objects.bulk_create([executor("b")])
    with pytest.raises(IntegrityError), transaction.atomic():
        insert_rows([executor("a"), executor("b")])
    assert Executor.objects.count() == 1


def test_rows_that_are_updated_have_the_named_values_and_keep_the_others() -> None:
    rows = [executor("a", problem="", labels={}), executor("b", problem="", labels={}), executor("c")]
    Executor.objects.bulk_create(rows)
    names = ["labels", "problem", "schedulable", "last_heartbeat_at", "last_command", "cpu_millicores", "memory_bytes"]
    for number, row in enumerate(rows[:2]):
        row.labels, row.problem, row.schedulable, row.last_command = {AWKWARD: AWKWARD}, AWKWARD, bool(number), 2**40
        row.last_heartbeat_at, row.memory_bytes = NOW.replace(microsecond=number), 2**41
    update_rows(rows[:2], names)
    assert [model_to_dict(row) for row in Executor.objects.order_by("id")] == [model_to_dict(row) for row in rows]
    rows[0].name, rows[0].problem = "not written", "written"
    update_rows(rows[:1], ["problem"])
    update_rows([], ["problem"])
    assert list(Executor.objects.values_list("name", "problem").get(id="a")) == ["a", "written"]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no lengths")
def test_what_is_too_long_for_its_column_is_refused_and_not_cut() -> None:
    row = executor("a")
    row.save()
    row.name = "n" * 300
    with pytest.raises(DatabaseError), transaction.atomic():
        update_rows([row], ["name"])


@pytest.mark.parametrize("values", [(0, False), ([1], [True]), ({}, []), ([1.0], [1])])
def test_json_that_python_takes_for_the_same_is_kept_apart(values: tuple[object, object]) -> None:
    rows = [executor("a", labels=values[0]), executor("b", labels=values[1])]
    insert_rows(rows)
    assert [repr(row.labels) for row in Executor.objects.order_by("id")] == [repr(value) for value in values]
    for row, value in zip(rows, reversed(values), strict=True):
        row.labels = value
    update_rows(rows, ["labels"])
    assert [repr(row.labels) for row in Executor.objects.order_by("id")] == [repr(value) for value in reversed(values)]
