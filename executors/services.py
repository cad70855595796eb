"""What an operator does to an executor: cordon, drain, resume, label, forget. The one way for pages, API and admin."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from django.db import transaction
from django.utils import timezone

from agent.protocol import Wake
from executors import broker, events
from executors.models import Executor, ExecutorEvent

Kind = ExecutorEvent.Kind

LABEL_NAME = re.compile(r"[A-Za-z0-9._/-]{1,63}")
LABEL_VALUE_LENGTH = 255
MOST_LABELS = 50


class ExecutorNotFound(LookupError):
    """No executor has this id."""


class ExecutorInUse(ValueError):
    """The executor cannot be forgotten now; the text says why, and what to do first."""


class InvalidLabels(ValueError):
    """Labels that cannot be set: sentences by the label's name."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        super().__init__(" ".join(sentence for sentences in fields.values() for sentence in sentences))
        self.fields = fields


def cordon(executor_id: str, by: str = "") -> Executor:
    """Nothing new is placed on it; what runs there goes on. Ends a drain, if one was under way. Doing it again changes
    nothing. Raises ExecutorNotFound."""
    with _locked(executor_id) as executor:
        if executor.schedulable or executor.drain_requested_at is not None:
            executor.schedulable, executor.drain_requested_at, executor.drain_jobs = False, None, 0
            executor.save(update_fields=["schedulable", "drain_requested_at", "drain_jobs"])
            events.record(executor, Kind.CORDONED, timezone.now(), by=by)
    return executor


def drain(executor_id: str, by: str = "") -> Executor:
    """Cordon it and wait for its running jobs to end: it shows how many are left, and when the last is gone. Doing it
    again changes nothing. Raises ExecutorNotFound."""
    with _locked(executor_id) as executor:
        if executor.drain_requested_at is None:
            now = timezone.now()
            executor.schedulable, executor.drain_requested_at = False, now
            executor.drain_jobs = executor.attempts.filter(finished_at__isnull=True).count()
            executor.save(update_fields=["schedulable", "drain_requested_at", "drain_jobs"])
            events.record(executor, Kind.DRAINING, now, _still_running(executor.drain_jobs), by)
            if not executor.drain_jobs:
                events.record(executor, Kind.DRAINED, now, "No job runs here any more.")
    return executor


def resume(executor_id: str, by: str = "") -> Executor:
    """Take jobs again, after a cordon or a drain. Doing it again changes nothing. Raises ExecutorNotFound."""
    with _locked(executor_id) as executor:
        if not executor.schedulable:
            executor.schedulable, executor.drain_requested_at, executor.drain_jobs = True, None, 0
            executor.save(update_fields=["schedulable", "drain_requested_at", "drain_jobs"])
            events.record(executor, Kind.RESUMED, timezone.now(), by=by)
    return executor


def change_labels(executor_id: str, changes: Mapping[str, str | None], by: str = "") -> Executor:
    """Set operator's labels, which jobs may ask for beside the agent's own and which win over them; None removes one.

    Raises ExecutorNotFound and InvalidLabels.
    """
    _check(changes)
    with _locked(executor_id) as executor:
        labels = {**executor.operator_labels, **changes}
        kept = {name: value for name, value in sorted(labels.items()) if value is not None}
        if len(kept) > MOST_LABELS:
            raise InvalidLabels({"labels": [f"An executor has at most {MOST_LABELS} labels; remove some first."]})
        if kept != executor.operator_labels:
            text = ", ".join(f"{name}={value}" for name, value in kept.items()) or "none"
            executor.operator_labels = kept
            executor.save(update_fields=["operator_labels"])
            events.record(executor, Kind.LABELLED, timezone.now(), f"Labels set here: {text}.", by)
    return executor


def forget(executor_id: str) -> None:
    """Remove an executor that is lost, or on which nothing runs, with its events and its keys in Redis. Its jobs keep
    its name. An agent of it that still runs, or comes back, is asked to introduce itself and is registered anew.

    Raises ExecutorNotFound and ExecutorInUse.
    """
    with _locked(executor_id) as executor:
        running = executor.attempts.filter(finished_at__isnull=True).count()
        if running:
            what = "job still counts" if running == 1 else "jobs still count"
            raise ExecutorInUse(
                f"{executor.name} cannot be forgotten: {running} {what} as running there. Drain it and wait for "
                "them to end, or abort them."
            )
        executor.delete()
    keys = broker.keys()
    try:
        broker.client().delete(keys.commands(executor_id), keys.samples(executor_id), keys.images(executor_id))
    except broker.RedisUnavailable:
        broker.logger.warning("Redis is away: the streams of the forgotten executor %s are left in it", executor_id)


@contextmanager
def _locked(executor_id: str) -> Iterator[Executor]:
    """The executor's row, to be changed inside; scheduler and pages are told after the commit."""
    with transaction.atomic():
        known = "\0" not in executor_id
        executor = Executor.objects.select_for_update().filter(id=executor_id).first() if known else None
        if executor is None:
            raise ExecutorNotFound(f"There is no executor {executor_id[:100]!r}.")
        yield executor
    if broker.send_event(Wake(executor_ids=[executor_id])):  # else Redis is away, and waiting for it twice helps nobody
        broker.publish_changes(executors=[executor_id])


def _check(changes: Mapping[str, str | None]) -> None:
    fields: dict[str, list[str]] = {}
    for name, value in changes.items():
        if not LABEL_NAME.fullmatch(name):
            fields[name] = [
                f"{name[:80]!r} is no name for a label: use 1 to 63 letters, digits and . _ / - instead, as in zone."
            ]
        elif value is not None and (len(value) > LABEL_VALUE_LENGTH or not value.isprintable()):
            fields[name] = [f"The value of {name} must be one line of at most {LABEL_VALUE_LENGTH} characters."]
    if fields:
        raise InvalidLabels(fields)


def _still_running(count: int) -> str:
    return f"{count} {'job' if count == 1 else 'jobs'} to wait for." if count else ""
