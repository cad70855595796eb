"""What is deleted when it is too old or belongs to nothing any more; docs/operations.md says who deletes what.

Everything here is bounded a step, may be cut off anywhere and done twice.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import redis
from django.conf import settings
from django.utils import timezone

from executors import broker
from executors.broker import keys
from executors.models import Executor
from jobs import archive, archiver, idempotency
from jobs.lifecycle import FINAL
from jobs.listing import as_job_id
from jobs.models import FINAL_STATES, Job

logger = logging.getLogger(__name__)

STEP_SECONDS = 60.0
JOBS_A_STEP = 100
SCAN_SECONDS = 3600.0
KEYS_AT_ONCE = 500
SETTLED_SECONDS = 600
"""How long after a job's end its log may still grow; one that never became complete is settled then."""
REPLY_SECONDS = 60

_SETTLE = """
local list, meta, due = KEYS[1], KEYS[2], KEYS[3]
local lines = tonumber(redis.call('HGET', meta, 'dropped') or '0') + redis.call('LLEN', list)
if lines > tonumber(redis.call('HGET', meta, 'archived') or '-1') then
    if not redis.call('ZSCORE', due, ARGV[1]) then redis.call('ZADD', due, 0, ARGV[1]) end
elseif ARGV[2] == '1' and redis.call('TTL', meta) == -1 then
    redis.call('EXPIRE', list, ARGV[3])
    redis.call('EXPIRE', meta, ARGV[3])
end
return 0
"""


class Cleaner:
    """Cleans a step at a time; what it remembers can be lost without harm."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_scan = clock() + STEP_SECONDS

    def work(self) -> float:
        """One step; the seconds until the next. Raises ArchiveUnavailable, redis.RedisError or a database error."""
        client = broker.client()
        more = delete_old_jobs(client, timezone.now())
        idempotency.forget_old(timezone.now())
        if self._clock() >= self._next_scan:
            delete_leftovers(client)
            self._next_scan = self._clock() + SCAN_SECONDS
        more |= archiver.delete_doubtful(client)
        return 0.0 if more else STEP_SECONDS


# --- Old jobs ----------------------------------------------------------------------------------------------------


def delete_old_jobs(client: redis.Redis, now: datetime) -> bool:
    """Delete jobs that ended more than JOB_RETENTION_DAYS ago, with all that is theirs; True where there are more.

    Their rows go last, so that whatever cuts this off, the next step finds them again.
    """
    if not settings.JOB_RETENTION_DAYS:
        return False
    before = now - timedelta(days=settings.JOB_RETENTION_DAYS)
    # A job's id begins with the time of its submission: the range keeps the query to the oldest end of the table.
    first_young = uuid.UUID(int=int(before.timestamp() * 1000) << 80)
    old = Job.objects.filter(id__lt=first_young, state__in=FINAL_STATES, finished_at__lt=before)
    ids = list(old.order_by("id").values_list("id", flat=True)[:JOBS_A_STEP])
    if not ids:
        return False
    for job_id in ids:
        archive.delete_job(job_id)
    _forget_logs(client, map(str, ids))
    Job.objects.filter(id__in=ids).delete()
    broker.publish_changes(jobs=ids)
    logger.info("deleted %d jobs that ended more than %d days ago", len(ids), settings.JOB_RETENTION_DAYS)
    return len(ids) == JOBS_A_STEP


def _forget_logs(client: redis.Redis, job_ids: Iterable[str]) -> None:
    with client.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.unlink(keys().job_logs(job_id), keys().job_logs_meta(job_id))
            pipe.zrem(keys().logs_to_archive, job_id)
        pipe.execute()


# --- Leftovers in Redis ------------------------------------------------------------------------------------------


def delete_leftovers(client: redis.Redis) -> None:
    """Walk through the keys of ours, a bounded number at a time, and delete those whose owner is gone."""
    pattern = "".join(f"[{char}]" if char in "*?[" else char for char in keys().prefix.replace("\\", "\\\\")) + "*"
    cursor = 0
    while True:
        found: list[bytes]
        cursor, found = client.scan(cursor, match=pattern, count=KEYS_AT_ONCE)  # type: ignore[assignment]
        names = [name.decode(errors="replace") for name in found]
        _clean_logs(client, names)
        _clean_streams(client, names)
        _clean_replies(client, names)
        if cursor == 0:
            return


def _clean_logs(client: redis.Redis, names: Sequence[str]) -> None:
    prefixes = keys().job_logs(""), keys().job_logs_meta("")
    texts = {name.removeprefix(prefix) for name in names for prefix in prefixes if name.startswith(prefix)}
    ids = [text for text in texts if str(as_job_id(text)) == text]
    if not ids:
        return
    rows = Job.objects.filter(id__in=ids).values_list("id", "state", "finished_at")
    jobs = {str(job_id): (state, finished_at) for job_id, state, finished_at in rows}
    if strangers := [job_id for job_id in ids if job_id not in jobs]:
        for job_id in strangers:
            archive.delete_job(job_id)
        _forget_logs(client, strangers)
        logger.info("deleted the logs of %d jobs that do not exist", len(strangers))
    settled = timezone.now() - timedelta(seconds=SETTLED_SECONDS)
    with client.pipeline(transaction=False) as pipe:
        for job_id, (state, finished_at) in jobs.items():
            over = state in FINAL and finished_at is not None and finished_at < settled
            log_keys = keys().job_logs(job_id), keys().job_logs_meta(job_id), keys().logs_to_archive
            pipe.eval(_SETTLE, 3, *log_keys, job_id, int(over), settings.LOG_RETENTION_SECONDS)
        pipe.execute()


def _clean_streams(client: redis.Redis, names: Sequence[str]) -> None:
    """Of executors that do not exist. An agent that lives and was forgotten notices, and says hello."""
    owners = {}
    for name in names:
        kind, _, rest = name.removeprefix(keys().prefix).partition(":")
        executor_id, _, what = rest.rpartition(":")
        if kind == "executor" and what in ("commands", "samples"):
            owners[name] = executor_id
    known = set(Executor.objects.filter(id__in=set(owners.values())).values_list("id", flat=True)) if owners else set()
    if gone := [name for name, executor_id in owners.items() if executor_id not in known]:
        client.unlink(*gone)
        logger.info("deleted %d streams of executors that do not exist", len(gone))


def _clean_replies(client: redis.Redis, names: Sequence[str]) -> None:
    for name in names:
        if name.startswith(keys().reply("")) and client.ttl(name) == -1:
            client.expire(name, REPLY_SECONDS)
