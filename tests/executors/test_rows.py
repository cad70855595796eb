"""Instances made the short way are as Django makes them, but that they read later what they were not given."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from executors.models import Executor, ExecutorEvent
from executors.rows import read_with
from tests.executors.test_writes import NOW, executor

pytestmark = pytest.mark.django_db


def test_rows_know_what_was_asked_for_and_read_the_rest_later() -> None:
    Executor.objects.bulk_create([executor("a", labels={"x": "1"})])
    made = ExecutorEvent.objects.create(executor_id="a", kind="lost", at=NOW, text="gone")
    with CaptureQueriesContext(
        connection,
    ) as asked:
        [event] = read_with(ExecutorEvent.objects.all(), ["id", "at", "executor_id"], "executor", ["id", "labels"])
        assert (event, event.at, event.executor, event.executor.labels) == (made, NOW, Executor(id="a"), {"x": "1"})
    assert len(asked) == 1
    assert (event.text, event.executor.name) == ("gone", "a")
    event.text = "back"
    event.save()
    assert ExecutorEvent.objects.get().text == "back"
