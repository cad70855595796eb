"""What events do to the database, inside the leader's transaction.

An event that raises does not stop the others: the batch is then applied one by one, and that one is skipped.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Q

from agent.protocol import AttemptFinished, AttemptProgress, AttemptRunning, Event, Heartbeat, Hello
from executors import registry
from executors.writes import one_of
from jobs import commands
from jobs.lifecycle import EndReason
from jobs.models import Attempt
from jobs.reconcile import Counted, Difference, Token, compare
from jobs.transitions import Ledger, Outcome

logger = logging.getLogger(__name__)

AttemptEvent = AttemptProgress | AttemptRunning | AttemptFinished
Greeting = Hello | Heartbeat

MayStop = Callable[[str, Token, bool], bool]
"""Whether an executor may be told now to stop an attempt that it holds against the database's wish. The flag says
whether the first time is now, or counts from now since a stop is on its way already."""


def apply(events: Sequence[Event], now: datetime, may_stop: MayStop) -> Outcome:
    """Apply events in their order. Raises a database's OperationalError or InterfaceError; then nothing is applied."""
    try:
        return _apply_together(events, now, may_stop)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        if len(events) == 1:
            logger.exception("event skipped, it cannot be applied: %r", events[0])
            return Outcome()
    outcome = Outcome()
    for event in events:
        outcome.add(apply([event], now, may_stop))
    return outcome


@transaction.atomic
def _apply_together(events: Sequence[Event], now: datetime, may_stop: MayStop) -> Outcome:
    ledger = Ledger(now)
    attempt_events = [event for event in events if isinstance(event, AttemptEvent)]
    greetings = [event for event in events if isinstance(event, Greeting)]
    if attempt_events:
        _apply_to_attempts(attempt_events, ledger)
    if greetings:
        finished = {Token(e.job_id, e.attempt) for e in attempt_events if isinstance(e, AttemptFinished)}
        _apply_greetings(greetings, finished, ledger, may_stop)
    ledger.write()
    return ledger.outcome


def _apply_to_attempts(events: Sequence[AttemptEvent], ledger: Ledger) -> None:
    job_ids = {job_id for event in events if (job_id := _uuid(event.job_id)) is not None}
    ledger.load(one_of("job_id", job_ids))
    for event in events:
        job_id = _uuid(event.job_id)
        attempt = ledger.find(job_id, event.attempt, event.executor_id) if job_id is not None else None
        if attempt is None:
            continue
        if isinstance(event, AttemptProgress):
            ledger.progress(attempt, event)
        elif isinstance(event, AttemptRunning):
            ledger.running(attempt, event)
        else:
            ledger.finish(attempt, event)
    ledger.write()


def _apply_greetings(
    greetings: Sequence[Greeting], just_finished: set[Token], ledger: Ledger, may_stop: MayStop
) -> None:
    """Registry, then what each agent holds against what the database counts; the last word of each agent decides."""
    latest = {greeting.executor_id: greeting for greeting in greetings}
    differences = _differences(latest, just_finished)
    holding_superseded = {executor_id for executor_id, found in differences.items() if found.superseded}
    report = registry.record(greetings, holding_superseded, ledger.now)
    ledger.outcome.lines += report.lines
    ledger.outcome.changed_executors |= latest.keys() - report.strangers
    ledger.outcome.strangers |= report.strangers
    ledger.outcome.executors.update(report.executors)
    ledger.outcome.lines += [
        f"executor {stranger} is not known; asked it to say hello" for stranger in report.strangers
    ]

    _close_gone(differences, ledger)
    for executor_id in latest.keys() - report.strangers:
        _stop_held(executor_id, differences[executor_id], ledger, may_stop)
    hellos = {greeting.executor_id for greeting in greetings if isinstance(greeting, Hello)}
    if hellos:
        # What an agent has not passed may have been lost on the way to it: Redis refuses what is there already.
        ledger.write()
        commands.merge(ledger.outcome.commands, commands.outstanding(hellos))


def _differences(latest: Mapping[str, Greeting], just_finished: set[Token]) -> dict[str, Difference]:
    rows = Attempt.objects.filter(finished_at__isnull=True, executor_id__in=latest).values_list(
        "executor_id", "executor__passed_command", "job_id", "number", "start_command", "stop_command"
    )
    counted: dict[str, list[Counted]] = defaultdict(list)
    passed = {executor_id: greeting.last_command for executor_id, greeting in latest.items()}
    for executor_id, passed_command, job_id, number, start_command, stop_command in rows:
        counted[executor_id].append(Counted(Token(str(job_id), number), start_command, stop_command))
        passed[executor_id] = max(passed[executor_id], passed_command)
    return {
        executor_id: compare(_held(greeting), passed[executor_id], counted[executor_id], just_finished)
        for executor_id, greeting in latest.items()
    }


def _close_gone(differences: Mapping[str, Difference], ledger: Ledger) -> None:
    gone = {(executor_id, token) for executor_id, found in differences.items() for token in found.gone}
    if not gone:
        return
    ledger.load(Q(job_id__in={token.job_id for _, token in gone}))
    for executor_id, token in sorted(gone):
        attempt = ledger.find(UUID(token.job_id), token.number, executor_id)
        if attempt is not None:
            ledger.close(attempt, EndReason.ATTEMPT_GONE)


def _stop_held(executor_id: str, found: Difference, ledger: Ledger, may_stop: MayStop) -> None:
    for token in found.superseded:
        if may_stop(executor_id, token, True):
            ledger.stop_superseded(executor_id, token.job_id, token.number)
    unheeded = [token for token in found.unheeded if may_stop(executor_id, token, False)]
    if unheeded:
        ledger.load(Q(job_id__in={token.job_id for token in unheeded}))
        for token in unheeded:
            attempt = ledger.find(UUID(token.job_id), token.number, executor_id)
            if attempt is not None:
                ledger.request_stop(attempt, attempt.stop_why)


def _held(greeting: Greeting) -> set[Token]:
    return {Token(held.job_id, held.attempt) for held in greeting.held}


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        logger.warning("event skipped: %r is not the id of a job", text)
        return None
