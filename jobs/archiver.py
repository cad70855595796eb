"""Logs on their way from Redis to the archive, while jobs run.

Agents put the id of a job into a sorted set, by the time at which something of its log should be archived, so looking
costs the same however many jobs there are. A round takes what is due: it stores files, then counts them in the database
in one transaction, then tells Redis how far each log is archived, whereupon the agent's script may drop those lines.

Nothing is lost or doubled wherever that is cut off: what was stored and not counted is taken again, what was counted
and not told is told in the next round, which begins where the database says. Two archivers at once, as when a leader
was paused and another took over, are kept apart by `LogArchive.lines`: who counts changes it from what it was when he
took the lines, so of two one changes nothing. Files that may not count are remembered as doubts and deleted later.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import redis
from django.conf import settings
from django.db import Error as DatabaseFailure
from django.db import transaction
from django.db.models import F, Max, Q

from agent.protocol import ARCHIVE_AFTER_BYTES, ARCHIVE_AFTER_SECONDS
from executors import broker
from executors.broker import keys
from jobs import archive, crashpoints
from jobs.archive import ArchiveUnavailable, ChunkGone
from jobs.archiver_scripts import DUE, MARK, REBASE
from jobs.lifecycle import FINAL, State
from jobs.listing import as_job_id
from jobs.models import Job, LogArchive, LogChunk
from jobs.superseded_logs import may_be_archived

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
JOBS_A_ROUND = 100
BYTES_A_ROUND = 32 * 1024**2
PIECES_A_JOB = 16
JOINED_AT_MOST = 16
"""Chunks that one look at the end of a job's archive may join."""
FIRST_STEP_LINES, MOST_LINES_A_STEP = 500, 2000
POSTPONED_SECONDS = 60
"""Until the next try where one job's log cannot be taken for an unknown reason."""
DOUBT_SECONDS = 600
"""How long a file in doubt is kept: readers may just read it, and an archiver that was paused may count it yet."""
TROUBLE_SECONDS = 180
"""How long trouble is shown after it was last met; longer than the longest pause between two tries."""


@dataclass(slots=True)
class Piece:
    """Lines to be stored as one file, each with its line end. `joins` are the chunks that it takes the place of."""

    first: int
    count: int
    text: bytes
    joins: list[LogChunk] = field(default_factory=list)
    name: str = ""

    def chunk(self, job_id: str) -> LogChunk:
        began = self.text[:27].decode(errors="replace").split(" ")[0]
        return LogChunk(
            job_id=job_id, first=self.first, count=self.count, bytes=len(self.text), name=self.name, began=began
        )


@dataclass(slots=True)
class Take:
    """What was taken of one job's log. `begin` is the current attempt's first line, as Redis has it."""

    job_id: str
    known: LogArchive
    attempt: str
    begin: str
    begins: dict[str, int]
    complete: bool
    pieces: list[Piece]
    taken_bytes: int = 0

    @property
    def lines(self) -> int:
        """How far the log is archived with it."""
        return self.pieces[-1].first + self.pieces[-1].count if self.pieces else self.known.lines


def work() -> float:
    """One round; the seconds until the next. Raises ArchiveUnavailable, redis.RedisError or a database error."""
    client = broker.client()
    try:
        return 0 if archive_due(client) else LOOK_SECONDS
    except ArchiveUnavailable as error:
        client.set(keys().archive_trouble, str(error), ex=TROUBLE_SECONDS)
        raise


def archive_due(client: redis.Redis) -> bool:
    """Archive what is due; True where there is more. Raises as `work` does; then the next call takes it up again."""
    due = [job_id.decode() for job_id in client.eval(DUE, 1, keys().logs_to_archive, JOBS_A_ROUND)]
    if not due:
        return False
    known = _known(due)
    if strangers := [job_id for job_id in due if job_id not in known]:
        client.zrem(keys().logs_to_archive, *strangers)
    takes: list[Take] = []
    for job_id, (log, last_attempt, final) in known.items():
        if sum(take.taken_bytes for take in takes) >= BYTES_A_ROUND:
            break
        if take := _take_or_postpone(client, job_id, log, last_attempt, final):
            takes.append(take)
    _store(client, takes)
    crashpoints.reach("logs-stored")
    counted = _count(client, takes)
    crashpoints.reach("logs-counted")
    _mark(client, counted)
    return len(due) == JOBS_A_ROUND or len(takes) < len(known) or any(len(t.pieces) >= PIECES_A_JOB for t in takes)


def delete_doubtful(client: redis.Redis, most: int = 500) -> bool:
    """Delete files that turned out not to count; True where there is more. Raises as `work` does."""
    before = client.time()[0] - DOUBT_SECONDS
    found: list[bytes] = client.zrangebyscore(keys().archive_doubts, "-inf", before, 0, most)  # type: ignore[assignment]
    names = [name.decode() for name in found]
    if not names:
        return False
    jobs = {archive.job_of(name) for name in names}
    counted = set(LogChunk.objects.filter(job_id__in=jobs, name__in=names).values_list("name", flat=True))
    archive.delete(set(names) - counted)
    client.zrem(keys().archive_doubts, *names)
    return len(names) == most


# --- Take ------------------------------------------------------------------------------------------------------


def _known(due: Iterable[str]) -> dict[str, tuple[LogArchive, int, bool]]:
    """How far the archive of each job is, the number of its last attempt (of an ended job: of the last with a
    container, which alone can have printed), and whether it has ended; only jobs that exist."""
    ids = {str(job_id): job_id for text in due if (job_id := as_job_id(text))}
    archives = {str(log.job_id): log for log in LogArchive.objects.filter(job_id__in=ids.values())}
    printed = Max("attempts__number", filter=~Q(attempts__container_id=""))
    existing = Job.objects.filter(id__in=ids.values()).annotate(printed=printed)
    known = {}
    for job_id, number, with_container, state in existing.values_list("id", "attempt_number", "printed", "state"):
        log, final = archives.get(str(job_id)) or LogArchive(job_id=job_id), State(state) in FINAL
        known[str(job_id)] = log, (with_container or 0) if final else number, final
    return known


def _take_or_postpone(client: redis.Redis, job_id: str, log: LogArchive, last_attempt: int, final: bool) -> Take | None:
    """None where it is not to be taken yet. A log that cannot be taken for a reason nobody thought of must not keep the
    others waiting."""
    try:
        return _take(client, job_id, log) if may_be_archived(client, log, last_attempt, final) else None
    except (redis.RedisError, DatabaseFailure, ArchiveUnavailable):
        raise
    except Exception:
        logger.exception("The log of job %s cannot be archived now", job_id)
        client.zadd(keys().logs_to_archive, {job_id: client.time()[0] + POSTPONED_SECONDS})
        return None


def _take(client: redis.Redis, job_id: str, log: LogArchive) -> Take:
    size = min(ARCHIVE_AFTER_BYTES, max(1, settings.LOG_ARCHIVE_LIMIT_BYTES // 8))
    meta, first, total, count, text = _read(client, job_id, log.lines, size)
    attempt, begin = _begun(meta)
    expected = log.begins.get(attempt, max(int(begin), log.lines))
    if expected > int(begin) or "unplaced" in meta:
        # Redis was emptied or restored: there, the attempt's lines are numbered from too low a number on. Where its
        # agent could not place them, they are not those that are archived but what came later.
        log_keys = keys().job_logs(job_id), keys().job_logs_meta(job_id)
        client.eval(REBASE, 2, *log_keys, attempt, begin, expected, log.lines)
        meta, first, total, count, text = _read(client, job_id, log.lines, size)
        attempt, begin = _begun(meta)
    begins = {name.removeprefix("begin:"): int(line) for name, line in meta.items() if name.startswith("begin:")}
    take = Take(
        job_id,
        log,
        attempt,
        begin,
        begins | log.begins,
        complete=meta.get("complete") == "1",
        pieces=[],
    )
    while count:
        take.pieces.append(Piece(first, count, text))
        take.taken_bytes += len(text) - count
        if len(text) < size or len(take.pieces) == PIECES_A_JOB:
            break
        _, first, total, count, text = _read(client, job_id, first + count, size)
    take.complete &= total <= take.lines
    if take.pieces and take.pieces[0].first == log.lines > 0:
        _join(take.pieces[0], job_id, size)
    return take


def _read(client: redis.Redis, job_id: str, position: int, size: int) -> tuple[dict[str, str], int, int, int, bytes]:
    """The log's meta, then from `position` on `size` bytes of it where there are, up to an eighth more: the number
    of the first line, of the line after the last in Redis, how many lines, and their text.

    Plain commands, in steps: a script that puts the text together costs Redis seven times as much, and the agent, who
    adds lines meanwhile, waits for it.
    """
    list_key, meta_key = keys().job_logs(job_id), keys().job_logs_meta(job_id)
    meta = _texts(client.hgetall(meta_key))
    begun, dropped = _begun(meta), _dropped(meta)
    lines: list[bytes] = []
    first, total, taken = max(position, dropped), 0, 0
    while taken < size:
        step = min(MOST_LINES_A_STEP, 1 + (size - taken) * len(lines) // taken) if lines else FIRST_STEP_LINES
        at = first + len(lines) - dropped
        with client.pipeline() as pipe:
            pipe.hgetall(meta_key)
            pipe.llen(list_key)
            pipe.lrange(list_key, at, at + step - 1)
            found, held, more = pipe.execute()
        now = _texts(found)
        if lines and (_begun(now) != begun or _dropped(now) > first + len(lines)):
            break
        meta, begun, total = now, _begun(now), _dropped(now) + held
        if _dropped(now) != dropped:
            dropped = _dropped(now)
            first = first if lines else max(position, dropped)
            continue
        if not more:
            break
        found_bytes = sum(map(len, more)) + len(more)
        if taken + found_bytes > size + size // 8:  # They are longer than those before.
            more, found_bytes = _first(more, size - taken)
        lines += more
        taken += found_bytes
    return meta, first, total, len(lines), b"\n".join(lines) + b"\n"


def _first(lines: list[bytes], size: int) -> tuple[list[bytes], int]:
    """The first lines that have `size` bytes, with line ends, and the bytes that they have."""
    ends = accumulate(len(line) + 1 for line in lines)
    count, taken = next((count, end) for count, end in enumerate(ends, 1) if end >= size)
    return lines[:count], taken


def _begun(meta: dict[str, str]) -> tuple[str, str]:
    """The attempt that writes the log, and its first line: other ones mean that Redis was emptied, or a new attempt."""
    attempt = meta.get("attempt", "0")
    return attempt, meta.get(f"begin:{attempt}", "0")


def _texts(pairs: dict[Any, Any]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in pairs.items()}


def _dropped(meta: dict[str, str]) -> int:
    return int(meta.get("dropped", 0))


def _join(piece: Piece, job_id: str, size: int) -> None:
    """Put the chunks before the piece into it that are no larger than it: a log that grows by a few lines at a time
    ends up in few files, and each line was written a few times."""
    for chunk in LogChunk.objects.filter(job_id=job_id).order_by("-first")[:JOINED_AT_MOST]:
        if not chunk.name or chunk.bytes > len(piece.text) or chunk.bytes + len(piece.text) > size:
            return
        try:
            piece.text = archive.text_of(chunk.name) + piece.text
        except ChunkGone:
            return
        piece.first, piece.count = chunk.first, chunk.count + piece.count
        piece.joins.append(chunk)


# --- Store, count, mark ------------------------------------------------------------------------------------------


def _store(client: redis.Redis, takes: Sequence[Take]) -> None:
    pieces = [(take, piece) for take in takes for piece in take.pieces]
    for take, piece in pieces:
        piece.name = archive.new_name(take.job_id, piece.first, piece.count)
    _doubt(client, [piece.name for _, piece in pieces])
    if len(pieces) == 1:
        archive.store(pieces[0][1].name, pieces[0][1].text)
    elif pieces:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda item: archive.store(item[1].name, item[1].text), pieces))


def _count(client: redis.Redis, takes: Sequence[Take]) -> list[Take]:
    """Count what was stored; returns what was, without what another archiver had counted before."""
    counted: list[Take] = []
    with transaction.atomic():
        begun = [take.known for take in takes if take.known._state.adding and take.pieces]
        LogArchive.objects.bulk_create([LogArchive(job_id=log.job_id) for log in begun], ignore_conflicts=True)
        for take in takes:
            if _count_one(client, take):
                counted.append(take)
    return counted


def _count_one(client: redis.Redis, take: Take) -> bool:
    log = take.known
    if not take.pieces and (log._state.adding or (take.complete, take.begins) == (log.complete, log.begins)):
        return True
    stored, joined = sum(len(p.text) for p in take.pieces), [chunk for p in take.pieces for chunk in p.joins]
    grown = stored - sum(chunk.bytes for chunk in joined)
    changed = LogArchive.objects.filter(job_id=log.job_id, lines=log.lines).update(
        lines=take.lines, kept_bytes=F("kept_bytes") + grown, begins=take.begins, complete=take.complete
    )
    if not changed:
        return False
    LogChunk.objects.filter(id__in=[chunk.id for chunk in joined]).delete()
    chunks = [piece.chunk(take.job_id) for piece in take.pieces]
    if chunks and chunks[0].first > log.lines:
        # Lines that left Redis before they were archived, as they did before there was an archive.
        missing = LogChunk(job_id=log.job_id, first=log.lines, count=chunks[0].first - log.lines, bytes=0)
        missing.began = chunks[0].began
        chunks.insert(0, missing)
    LogChunk.objects.bulk_create(chunks)
    _doubt(client, [chunk.name for chunk in joined])
    if log.kept_bytes + grown > settings.LOG_ARCHIVE_LIMIT_BYTES:
        _cut_middle(client, take.job_id, log.kept_bytes + grown)
    return True


def _cut_middle(client: redis.Redis, job_id: str, kept: int) -> None:
    """Keep the first half of the limit and the newest other half: what is between becomes one chunk without a file."""
    limit = settings.LOG_ARCHIVE_LIMIT_BYTES
    head = 0
    gone: list[LogChunk] = []
    *chunks, _ = LogChunk.objects.filter(job_id=job_id).order_by("first")
    for chunk in chunks:
        was_cut = not chunk.name and chunk.bytes > 0
        if not gone and not was_cut and head + chunk.bytes <= limit // 2:
            head += chunk.bytes
        elif kept > limit or not chunk.name:
            gone.append(chunk)
            kept -= chunk.bytes if chunk.name else 0
        else:
            break
    if not gone:
        return
    LogChunk.objects.filter(id__in=[chunk.id for chunk in gone]).delete()
    LogChunk.objects.create(
        job_id=job_id,
        first=gone[0].first,
        count=sum(chunk.count for chunk in gone),
        bytes=sum(chunk.bytes for chunk in gone),
        began=gone[0].began,
    )
    LogArchive.objects.filter(job_id=job_id).update(kept_bytes=kept)
    _doubt(client, [chunk.name for chunk in gone if chunk.name])


def _mark(client: redis.Redis, counted: Sequence[Take]) -> None:
    """Tell Redis how far each log is archived, and let it forget those that are complete."""
    names = [piece.name for take in counted for piece in take.pieces]
    with client.pipeline(transaction=False) as pipe:
        for take in counted:
            log_keys = keys().job_logs(take.job_id), keys().job_logs_meta(take.job_id), keys().logs_to_archive
            arguments: list[Any] = [take.job_id, take.lines, take.attempt, take.begin, take.taken_bytes]
            arguments += [settings.LOG_RETENTION_SECONDS, ARCHIVE_AFTER_BYTES, ARCHIVE_AFTER_SECONDS]
            pipe.eval(MARK, 3, *log_keys, *arguments)
        if names:
            pipe.zrem(keys().archive_doubts, *names)
            pipe.delete(keys().archive_trouble)
        pipe.execute()


def _doubt(client: redis.Redis, names: Sequence[str]) -> None:
    if names:
        now = client.time()[0]
        client.zadd(keys().archive_doubts, dict.fromkeys(names, now))
