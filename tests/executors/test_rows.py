"""Instances made the short way are as Django makes them, but that they read later what they were not given."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from executors.models import Executor, ExecutorEvent
from executors.rows import read, read_with
from jobs.lifecycle import State
from jobs.models import Attempt
from tests.executors.test_writes import NOW, executor
from tests.rows import make_executor, make_job

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


def test_json_is_read_as_it_was_written_whether_or_not_rows_have_it_in_common() -> None:
    labels = [{"x": "1"}, {"x": "2"}, {"x": "1"}, {"x": 'a "quoted" \\ é'}]
    Executor.objects.bulk_create([executor(f"n{number}", labels=label) for number, label in enumerate(labels)])
    found = list(read(Executor.objects.order_by("id"), ["id", "labels", "gpus"]))
    assert [(row.labels, row.gpus) for row in found] == [(label, []) for label in labels]


def test_json_that_is_not_there_is_read_as_none() -> None:
    make_job(State.RUNNING, make_executor())
    [found] = read(Attempt.objects.all(), ["id", "use", "gpu_indices"])
    assert (found.use, found.gpu_indices) == (None, [])
