"""Which jobs a list shows, in which order, and that its pages lead through all of them."""

import datetime
import uuid
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from jobs import listing
from jobs.lifecycle import State
from jobs.listing import Count, JobFilter, count, find, first_id, matching_ids, moment_of
from jobs.models import Job
from jobs.orders import SORTS
from tests.rows import make_executor, make_job

pytestmark = pytest.mark.django_db
NOW = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(listing, "WINDOW", 10)
    return 10


def names(job_filter: JobFilter) -> list[str]:
    return [job.name for job in find(job_filter).jobs]


def walk(job_filter: JobFilter, size: int) -> Iterator[list[Job]]:
    """The pages from first to last, by their `older` cursors."""
    before = ""
    for _ in range(100):
        page = find(job_filter, before=before, size=size)
        yield page.jobs
        before = page.older
        if not before:
            return
    pytest.fail("the pages do not end")


def test_jobs_are_found_by_where_they_run_whose_they_are_and_what_they_need() -> None:
    here, there = make_executor("node-1", id="e1"), make_executor("node-2", id="e2")
    ann = User.objects.create_user("ann")
    make_job(State.RUNNING, here, name="a", docker_image="alpine:3.20", labels={"zone": "a"})
    make_job(State.FAILED, there, name="b", docker_image="alpine", labels={"zone": "b", "disk": "ssd"})
    make_job(name="c", docker_image="registry:5000/alpine:3.20")
    Job.objects.filter(name="b").update(owner=ann)
    assert names(JobFilter(executor="e1")) == names(JobFilter(executor="node-1")) == ["a"]
    assert names(JobFilter(executor="node-9")) == []
    assert names(JobFilter(owner="ann")) == ["b"]
    assert names(JobFilter(owner="nobody")) == []
    assert names(JobFilter(image="alpine:3.20")) == ["a"]
    assert names(JobFilter(image="alpine")) == ["b", "a"]
    assert names(JobFilter(image="registry:5000/alpine")) == ["c"]
    assert names(JobFilter(label="zone=b")) == ["b"]
    assert names(JobFilter(label="disk")) == ["b"]
    assert names(JobFilter(state="RUNNING,PENDING")) == ["c", "a"]
    assert names(JobFilter(state="FAILED", executor="e2", owner="ann", text="b")) == ["b"]


def test_jobs_are_found_by_when_they_were_submitted() -> None:
    for days in (10, 3, 0):
        at = timezone.now() - datetime.timedelta(days=days)
        job = make_job(name=f"{days} days")
        Job.objects.filter(id=job.id).update(id=uuid.UUID(int=first_id(at).int + 1))
    assert names(JobFilter(since="5d")) == ["0 days", "3 days"]
    assert names(JobFilter(until="24h")) == ["3 days", "10 days"]
    assert names(JobFilter(since="5d", until="1d")) == ["3 days"]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("24h", NOW - datetime.timedelta(hours=24)),
        ("2w", NOW - datetime.timedelta(weeks=2)),
        ("2026-11-01", datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)),
        ("2026-11-01T06:30", datetime.datetime(2026, 11, 1, 6, 30, tzinfo=datetime.UTC)),
        ("2026-11-01T06:30+02:00", datetime.datetime(2026, 11, 1, 4, 30, tzinfo=datetime.UTC)),
        ("2026-13-01", None),
        ("0001-01-01", None),
        ("soon", None),
        ("", None),
    ],
)
def test_a_time_is_written_as_a_date_or_as_an_age(text: str, moment: datetime.datetime | None) -> None:
    assert moment_of(text, NOW) == moment


@given(st.dictionaries(st.sampled_from(["state", "since", "until", "sort", "text", "label", "image"]), st.text()))
def test_whatever_stands_in_an_address_is_read_and_reads_the_same_again(query: dict[str, str]) -> None:
    job_filter = JobFilter.from_query(query)
    assert JobFilter.from_query({name: getattr(job_filter, name) for name in query}) == job_filter


def make_varied_jobs(number: int) -> None:
    node = make_executor()
    for index in range(number):
        job = make_job(
            State.SUCCEEDED if index % 3 else State.PENDING, node if index % 3 else None, name=f"n{index % 4}"
        )
        ran = job.started_at and {"finished_at": job.started_at + datetime.timedelta(seconds=index * 7 % 5)}
        Job.objects.filter(id=job.id).update(priority=index % 3, **(ran or {}))


@pytest.mark.parametrize("sort", ["", "submitted", *SORTS, *(f"-{name}" for name in SORTS)])
def test_pages_in_any_order_hold_every_job_once_and_lead_back(sort: str) -> None:
    make_varied_jobs(23)
    whole = find(JobFilter(sort=sort), size=100).jobs
    assert len({job.id for job in whole}) == 23
    pages = list(walk(JobFilter(sort=sort), size=5))
    assert [job.id for page in pages for job in page] == [job.id for job in whole]
    back = find(JobFilter(sort=sort), after=str(pages[2][0].id), size=5)
    assert [job.id for job in back.jobs] == [job.id for job in pages[1]]


def test_orders_go_by_what_they_say() -> None:
    make_varied_jobs(12)
    took = [
        (job.finished_at - job.started_at).total_seconds() if job.started_at and job.finished_at else -1
        for job in find(JobFilter(sort="-took")).jobs
    ]
    assert took == sorted(took, reverse=True)
    priorities = [job.priority for job in find(JobFilter(sort="-priority")).jobs]
    assert priorities == sorted(priorities, reverse=True)
    assert names(JobFilter(sort="name")) == sorted(names(JobFilter()))


def test_words_are_looked_for_a_window_at_a_time_and_the_pages_lead_to_all(small_window: int) -> None:
    for index in range(35):
        make_job(name="needle" if index in (2, 17, 18) else "hay")
    first = find(JobFilter(text="needle"))
    assert (first.jobs, bool(first.older), first.searched_to is not None) == ([], True, True)
    assert abs((first.searched_since or NOW) - timezone.now()) < datetime.timedelta(minutes=1)
    pages = list(walk(JobFilter(text="needle"), size=5))
    assert [len(page) for page in pages] == [0, 2, 0, 1]
    back = find(JobFilter(text="needle"), after=str(pages[3][0].id))
    assert back.newer
    assert count(JobFilter(text="hay")) == Count(10, more=True)


def test_what_an_index_answers_is_found_however_far_back_it_is(small_window: int) -> None:
    make_job(State.FAILED, name="old")
    for _ in range(30):
        make_job()
    assert names(JobFilter(state="FAILED")) == ["old"]
    assert names(JobFilter(state="FAILED", text="old")) == ["old"]


def test_matches_are_counted_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "COUNT_LIMIT", 3)
    for index in range(5):
        make_job(name=f"n{index}")
        if index == 2:
            assert count(JobFilter()) == Count(3, more=False)
    assert count(JobFilter()) == Count(3, more=True)
    assert len(matching_ids(JobFilter(state="PENDING"))) == 3


def test_a_second_filter_gives_a_planner_no_reason_to_leave_the_window() -> None:
    User.objects.create_user("ann")
    search = listing._search(JobFilter(state="PENDING", owner="ann", image="alpine:3"), Job.objects.all())
    plan = search.within(low=1).order_by("-id").explain()
    assert "job_owner_recent" not in plan and "job_image_recent" not in plan
