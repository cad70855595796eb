"""What a person should look at first: executors that are gone or ail, jobs that fail again and again or wait too long.

Everything here is bounded: it looks at a fixed number of rows, however many there are.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.urls import reverse

from executors.models import Executor
from jobs.leadership import lease_status
from jobs.lifecycle import State
from jobs.listing import JobFilter
from jobs.models import Job
from jobs.scheduling import explain
from jobs.scheduling.room import Requirements
from jobs.snapshot import view_of
from webapp.moments import oldest_job_id

WAIT_BOUND = timedelta(minutes=5)
"""A job that waits longer than this is worth a look."""
FAILURES_BOUND = 3
"""So many failures of the same name (or image) since its last success, and it is worth a look."""
LOOKED_AT = 300
"""Of the newest failures."""
MOST_CANDIDATES = 8
FAILED_WITHIN = timedelta(hours=24)
MOST_WAITING = 1000
MOST_SHAPES = 50
PLACED_BY = (
    *("name", "state", "problem", "schedulable", "cpu_millicores", "memory_bytes", "reserve_cpu_millicores"),
    *("reserve_memory_bytes", "gpus", "labels", "operator_labels"),
)
"""The columns of an executor that `jobs.snapshot.view_of` reads."""
MOST_LINES = 4
"""Of each kind; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to look at. `level` is error or warning; `link` leads to `subject`, `text` follows it, then `since`."""

    level: str
    link: str
    subject: str
    text: str
    since: datetime | None = None


def attention(now: datetime) -> list[Item]:
    """All there is, the worst first."""
    waiting = pending_jobs()
    late = [*misfits(waiting), *overdue(waiting, now)] if waiting else []
    items = [*(missing_scheduler() if waiting else []), *ailing_executors(), *failing_jobs(now), *late]
    return sorted(items, key=lambda item: item.level != "error")


def missing_scheduler() -> list[Item]:
    lease = lease_status()
    if lease and not lease.expired:
        return []
    link = reverse("jobs:list") + JobFilter(state=State.PENDING.value).query()
    return [Item("error", link, "Jobs wait", "for a scheduler: none is running. Start one: manage.py runscheduler.")]


def ailing_executors() -> list[Item]:
    rows = Executor.objects.exclude(state=Executor.State.ONLINE).order_by("state", "name", "id")
    items = []
    for state, level in ((Executor.State.LOST, "error"), (Executor.State.UNHEALTHY, "warning")):
        ailing = [executor for executor in rows if executor.state == state]
        word = state.label.lower()
        if len(ailing) > MOST_LINES:
            names = ", ".join(executor.name for executor in ailing[:3])
            link = f"{reverse('executors:list')}?state={state}"
            items.append(
                Item(level, link, f"{len(ailing)} executors", f"are {word}: {names} and {len(ailing) - 3} more.")
            )
        else:
            items += [
                Item(level, executor.get_absolute_url(), executor.name, f"is {word}. {executor.problem}".strip())
                for executor in ailing
            ]
    return items


# --- Jobs that fail ----------------------------------------------------------------------------------------------


def failing_jobs(now: datetime) -> list[Item]:
    streaks = failure_streaks(oldest_job_id(now - FAILED_WITHIN))
    items = [
        Item(
            "error",
            reverse("jobs:list") + JobFilter(state=State.FAILED.value, text=name).query(),
            name,
            f"failed {count} times in a row.",
        )
        for name, count in streaks[:MOST_LINES]
    ]
    if len(streaks) > MOST_LINES:
        link = reverse("jobs:list") + JobFilter(state=State.FAILED.value).query()
        items.append(Item("error", link, f"{len(streaks) - MOST_LINES} more", "fail again and again."))
    return items


def failure_streaks(since: UUID) -> list[tuple[str, int]]:
    """Names (or images, of jobs without one) that failed FAILURES_BOUND times or more, by submission, since they last
    succeeded; most failures first. Looked for among the newest failures after the id `since`."""
    failed = Job.objects.filter(state=State.FAILED, id__gte=since).order_by("-id")
    failures: dict[tuple[str, str], list[UUID]] = defaultdict(list)
    for job_id, name, image in failed.values_list("id", "name", "image")[:LOOKED_AT]:
        failures[name, image].append(job_id)
    often = sorted((ids for ids in failures.items() if len(ids[1]) >= FAILURES_BOUND), key=lambda item: -len(item[1]))
    streaks = []
    for (name, image), ids in often[:MOST_CANDIDATES]:
        good = Job.objects.filter(image=image, name=name, state=State.SUCCEEDED, id__gt=ids[-1]).order_by("-id")
        last_success = good.values_list("id", flat=True).first()
        count = sum(last_success is None or job_id > last_success for job_id in ids)
        if count >= FAILURES_BOUND:
            streaks.append((name or image, count))
    return sorted(streaks, key=lambda streak: -streak[1])


# --- Jobs that wait ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """A PENDING job, as far as it matters here."""

    id: UUID
    name: str
    submitted_at: datetime
    shape: str
    wanted: Requirements


def pending_jobs() -> list[Waiting]:
    """The MOST_WAITING that have waited longest, the first of them first."""
    columns = "cpu_millicores", "memory_bytes", "gpu_type", "gpu_count", "labels"
    pending = Job.objects.filter(state=State.PENDING).order_by("id")
    rows = pending.values_list("id", "name", "image", "submitted_at", "shape", *columns)[:MOST_WAITING]
    return [
        Waiting(job_id, name or image, submitted_at, shape, Requirements(*requirements))
        for job_id, name, image, submitted_at, shape, *requirements in rows
    ]


def overdue(waiting: list[Waiting], now: datetime) -> list[Item]:
    bound = oldest_job_id(now - WAIT_BOUND)
    count = sum(job.id < bound for job in waiting)
    if not count:
        return []
    minutes = int(WAIT_BOUND.total_seconds() // 60)
    link = reverse("jobs:list") + JobFilter(state=State.PENDING.value).query()
    many = f"{MOST_WAITING} jobs and more" if count == MOST_WAITING else f"{count} job{'' if count == 1 else 's'}"
    verb = "has" if count == 1 else "have"
    text = f"{verb} waited over {minutes} minutes, the oldest since"
    return [Item("warning", link, many, text, waiting[0].submitted_at)]


def misfits(waiting: list[Waiting]) -> list[Item]:
    """Jobs that no registered executor could ever fit, one line a shape."""
    count = Counter(job.shape for job in waiting)
    views = [view_of(executor) for executor in Executor.objects.only(*PLACED_BY)]
    if not views:
        return []  # the page says so in its own place
    first: dict[str, Waiting] = {}
    for job in waiting:
        first.setdefault(job.shape, job)
    items = []
    for shape, job in list(first.items())[:MOST_SHAPES]:
        if why := explain.never_fits(job.wanted, views):
            more = f" and {count[shape] - 1} more like it" if count[shape] > 1 else ""
            link = reverse("jobs:detail", args=[job.id])
            items.append(Item("warning", link, f"{job.name}{more}", f"can never start. {why}"))
    return _bounded(items)


def _bounded(items: Sequence[Item]) -> list[Item]:
    if len(items) <= MOST_LINES:
        return list(items)
    link = reverse("jobs:list") + JobFilter(state=State.PENDING.value).query()
    rest = Item("warning", link, f"{len(items) - MOST_LINES} more kinds of jobs", "can never start.")
    return [*items[:MOST_LINES], rest]
