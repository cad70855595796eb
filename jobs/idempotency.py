"""Idempotency keys: who repeats a submission under its key, not knowing whether it arrived, gets the same jobs again.

A key belongs to its owner, lies in the database beside the jobs, and is written in the transaction that accepts them.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.contrib.auth.models import User

from jobs.models import Job, SubmissionKey

KEPT = timedelta(hours=24)
"""How long a key is known at least."""
MAX_KEY = 255

_SUBMITTED = [
    "name", "image", "command", "env", "working_dir", "cpu_millicores", "memory_bytes", "gpu_type", "gpu_count",
    "labels", "timeout_seconds", "max_retries", "at_most_once", "priority",
]  # fmt: skip


class KeyUsedOtherwise(ValueError):
    """The key was used for a submission that differs from this one."""


def key_problem(key: str) -> str:
    """What is wrong with a key, as a sentence; '' where nothing is."""
    if len(key) > MAX_KEY or not key.isprintable():
        return f"Must be at most {MAX_KEY} printable characters, such as a UUID."
    return ""


def claim(key: str, owner: User | None, jobs: Sequence[Job], now: datetime) -> list[UUID]:
    """Claim the key for new jobs, inside the transaction that inserts them; returns the ids that the key stands for.

    They are other than those of `jobs` where the same was submitted before: nothing is to be inserted then. Whoever
    submits it at the same moment waits here. Raises KeyUsedOtherwise.
    """
    mine = SubmissionKey(
        id=_digest([owner.pk if owner else None, key]),
        owner=owner,
        submission=_digest([[getattr(job, name) for name in _SUBMITTED] for job in jobs]),
        job_ids=[str(job.id) for job in jobs],
        made_at=now,
    )
    SubmissionKey.objects.bulk_create([mine], ignore_conflicts=True)
    known = SubmissionKey.objects.get(id=mine.id)
    if known.submission != mine.submission:
        raise KeyUsedOtherwise(
            "This idempotency key was used for another submission: take a new key for each submission, and the same "
            "only to repeat one unchanged."
        )
    return [UUID(job_id) for job_id in known.job_ids]


def forget_old(now: datetime) -> None:
    """Delete the keys that need not be known any more."""
    SubmissionKey.objects.filter(made_at__lt=now - KEPT).delete()


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=32).hexdigest()
