"""Which scheduler leads: one row in the database, taken for a while and renewed.

All times of the lease are the database's own clock, so that schedulers on machines whose clocks differ agree on when it
ends. What protects the data is not the time but the term: every transaction of a leader begins with `renew`, which
changes the row only while it still bears the leader's name and term, and holds the row until the commit. A leader that
was paused past its lease finds another term there (or waits for its successor's commit, and then finds it), so its
transaction changes nothing.
"""

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, models, transaction
from django.db.models.expressions import CombinedExpression, F
from django.db.models.functions import Now

from jobs.models import SchedulerLease


class LostLeadership(RuntimeError):
    """Another scheduler leads; nothing may be written."""


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """The lease as it stands. `last_pass_at` is when the leader last committed a pass."""

    holder: str
    term: int
    expires_at: datetime
    last_pass_at: datetime | None
    expired: bool


def new_holder() -> str:
    """A name for this scheduler process that no other has: host, process, and something random."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def acquire(holder: str) -> int | None:
    """Take the lease if nobody holds it, or its holder let it run out: the new term, or None while another leads."""
    with transaction.atomic():
        SchedulerLease.objects.bulk_create([SchedulerLease(id=1, holder="", expires_at=Now())], ignore_conflicts=True)
        free = SchedulerLease.objects.filter(id=1, expires_at__lte=Now())
        if not free.update(holder=holder, term=F("term") + 1, expires_at=_end(), last_pass_at=None):
            return None
        return SchedulerLease.objects.get(id=1).term


def renew(holder: str, term: int) -> None:
    """Check that this scheduler leads and prolong its lease; first thing in each transaction that a leader writes in.

    Raises LostLeadership where another took over.
    """
    if not _mine(holder, term).update(expires_at=_end(), last_pass_at=Now()):
        raise LostLeadership(f"{holder} no longer leads (its term was {term}).")


def release(holder: str, term: int) -> None:
    """Let a standby take over at once. Nothing happens where another already did."""
    _mine(holder, term).update(expires_at=Now())


def lease_status() -> LeaseStatus | None:
    """The lease, or None where no scheduler ever ran."""
    row = SchedulerLease.objects.annotate(now=Now()).filter(id=1).exclude(holder="").first()
    if row is None:
        return None
    return LeaseStatus(row.holder, row.term, row.expires_at, row.last_pass_at, row.expires_at <= row.now)


def bound_transactions() -> None:
    """Have PostgreSQL end a transaction of ours that stands still longer than the lease: a leader paused in the middle
    of one would otherwise keep its successor waiting for the row. SQLite has no such thing, nor a second machine."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, false)",
                [f"{int(settings.LEASE_SECONDS * 1000)}ms"],
            )


def _mine(holder: str, term: int) -> models.QuerySet[SchedulerLease]:
    return SchedulerLease.objects.filter(id=1, holder=holder, term=term)


def _end() -> CombinedExpression:
    return Now() + timedelta(seconds=settings.LEASE_SECONDS)
