"""What events do to the database, inside the leader's transaction.

An event that raises does not stop the others: the batch is then applied one by one, and that one is skipped.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Q

from agent.protocol import AttemptProgress, AttemptRunning, Event, Hello
from executors import registry
from executors.writes import one_of
from jobs import commands
from jobs.lifecycle import EndReason
from jobs.models import Attempt
from jobs.reconcile import AttemptEvent, Counted, Difference, Said, Token, differences, sort_out
from jobs.transitions import Ledger, Outcome

logger = logging.getLogger(__name__)

MayStop = Callable[[str, Token, bool], bool]
"""Whether an executor may be told now to stop an attempt that it holds against the database's wish. The flag says
whether the first time is now, or counts from now since a stop is on its way already."""


def apply(events: Sequence[Event], now: datetime, may_stop: MayStop, at_hand: dict[UUID, Attempt]) -> Outcome:
    """Apply events in their order; for `at_hand` see Ledger.

    Raises a database's OperationalError or InterfaceError; then nothing is applied."""
    try:
        return _apply_together(events, now, may_stop, at_hand)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        at_hand.clear()
        if len(events) == 1:
            logger.exception("event skipped, it cannot be applied: %r", events[0])
            return Outcome()
    outcome = Outcome()
    for event in events:
        outcome.add(apply([event], now, may_stop, at_hand))
    return outcome


@transaction.atomic
def _apply_together(
    events: Sequence[Event], now: datetime, may_stop: MayStop, at_hand: Mapping[UUID, Attempt]
) -> Outcome:
    ledger = Ledger(now, at_hand)
    said = sort_out(events)
    if said.of_attempts:
        _apply_to_attempts(said.of_attempts, ledger)
    if said.greetings:
        _apply_greetings(said, ledger, may_stop)
    ledger.write()
    return ledger.outcome


def _apply_to_attempts(events: Sequence[AttemptEvent], ledger: Ledger) -> None:
    job_ids = {text: _uuid(text) for text in {event.job_id for event in events}}
    ledger.load(one_of("job_id", [job_id for job_id in job_ids.values() if job_id is not None]))
    for event in events:
        job_id = job_ids[event.job_id]
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


def _apply_greetings(said: Said, ledger: Ledger, may_stop: MayStop) -> None:
    """Registry, then what each agent holds against what the database counts."""
    greeted = said.latest.keys()
    found = differences(said, *_counted(greeted))
    holding_superseded = {executor_id for executor_id, difference in found.items() if difference.superseded}
    report = registry.record(said.greetings, holding_superseded, ledger.now)
    ledger.outcome.lines += report.lines
    ledger.outcome.changed_executors |= greeted - report.strangers
    ledger.outcome.strangers |= report.strangers
    ledger.outcome.executors.update(report.executors)
    ledger.outcome.lines += [
        f"executor {stranger} is not known; asked it to say hello" for stranger in report.strangers
    ]

    _close_gone(found, ledger)
    for executor_id in greeted - report.strangers:
        _stop_held(executor_id, found[executor_id], ledger, may_stop)
    hellos = {greeting.executor_id for greeting in said.greetings if isinstance(greeting, Hello)}
    if hellos:
        # What an agent has not passed may have been lost on the way to it: Redis refuses what is there already.
        ledger.write()
        commands.merge(ledger.outcome.commands, commands.outstanding(hellos))


def _counted(executor_ids: Collection[str]) -> tuple[dict[str, list[Counted]], dict[str, int]]:
    """The live attempts on these executors, and the last commands that those with any have passed."""
    rows = Attempt.objects.filter(finished_at__isnull=True, executor_id__in=executor_ids).values_list(
        "executor_id", "executor__passed_command", "job_id", "number", "start_command", "stop_command"
    )
    counted: dict[str, list[Counted]] = defaultdict(list)
    passed: dict[str, int] = {}
    for executor_id, passed_command, job_id, number, start_command, stop_command in rows:
        counted[executor_id].append(Counted(Token(str(job_id), number), start_command, stop_command))
        passed[executor_id] = passed_command
    return counted, passed


def _close_gone(found: Mapping[str, Difference], ledger: Ledger) -> None:
    gone = {(executor_id, token) for executor_id, difference in found.items() for token in difference.gone}
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


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        logger.warning("event skipped: %r is not the id of a job", text)
        return None
