"""What the dashboard says to look at first."""

from datetime import timedelta

import pytest
from django.utils import timezone

from executors.models import Executor
from jobs import leadership
from jobs.lifecycle import State
from jobs.models import Job
from tests.rows import make_executor, make_job
from webapp import attention
from webapp.moments import oldest_job_id

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def term() -> int:
    """Of a scheduler that leads."""
    term = leadership.acquire("here")
    assert term is not None
    return term


def sentences() -> list[str]:
    return [f"{item.subject} {item.text}" for item in attention.attention(timezone.now())]


def waited(job: Job, minutes: float) -> None:
    """The job, as one submitted that long ago."""
    then = timezone.now() - timedelta(minutes=minutes)
    new_id = oldest_job_id(then).int + job.id.int % 2**60
    Job.objects.filter(id=job.id).update(id=f"{new_id:032x}", submitted_at=then)


def test_where_all_is_well_nothing_is_said() -> None:
    node = make_executor()
    make_job(State.SUCCEEDED, node)
    make_job(State.RUNNING, node)
    make_job()
    assert sentences() == []


def test_jobs_that_wait_for_a_scheduler_say_so_first(term: int) -> None:
    make_executor("gone", state="LOST")
    leadership.release("here", term)
    assert len(sentences()) == 1
    make_job()
    first, _ = attention.attention(timezone.now())
    assert (first.level, first.link) == ("error", "/jobs/?state=PENDING")
    assert first.text.startswith("for a scheduler: none is running.")


def test_lost_executors_come_first_and_lead_to_their_pages() -> None:
    make_executor("ails", state="UNHEALTHY", problem="Docker does not answer.")
    make_executor("gone", state="LOST", problem="No heartbeat since noon.")
    lost, ailing = attention.attention(timezone.now())
    assert (lost.level, lost.subject, lost.link) == ("error", "gone", "/executors/gone/")
    assert (ailing.level, ailing.text) == ("warning", "is unhealthy. Docker does not answer.")


def test_many_lost_executors_are_one_line_that_leads_to_the_list() -> None:
    Executor.objects.bulk_create(
        Executor(
            id=f"n{n:02}",
            name=f"n{n:02}",
            state="LOST",
            cpu_millicores=1,
            memory_bytes=1,
            last_heartbeat_at=timezone.now(),
        )
        for n in range(12)
    )
    (item,) = attention.attention(timezone.now())
    assert f"{item.subject} {item.text}" == "12 executors are lost: n00, n01, n02 and 9 more."
    assert item.link == "/executors/?state=LOST"


def test_a_job_that_fails_again_and_again_is_named_until_it_succeeds() -> None:
    node = make_executor()
    for _ in range(2):
        make_job(State.FAILED, node, name="etl")
        make_job(State.FAILED, node, name="other")
    assert sentences() == []
    make_job(State.FAILED, node, name="etl")
    assert sentences() == ["etl failed 3 times in a row."]
    assert attention.attention(timezone.now())[0].link == "/jobs/?state=FAILED&text=etl"
    make_job(State.SUCCEEDED, node, name="etl")
    make_job(State.FAILED, node, name="etl")
    assert sentences() == []


def test_jobs_without_a_name_go_by_their_image() -> None:
    node = make_executor()
    for _ in range(3):
        make_job(State.FAILED, node, docker_image="broken:1")
    assert sentences() == ["broken:1 failed 3 times in a row."]


def test_jobs_that_wait_too_long_are_counted() -> None:
    make_executor()
    waited(make_job(), 4)
    assert sentences() == []
    waited(make_job(), 6)
    (item,) = attention.attention(timezone.now())
    assert (item.subject, item.text) == ("1 job", "has waited over 5 minutes, the oldest since")
    assert item.since == Job.objects.order_by("id").values_list("submitted_at", flat=True)[0]


def test_a_job_that_no_executor_could_ever_fit_is_said_once_a_shape() -> None:
    make_executor()
    first = make_job(name="giant", cpu_cores=64)
    make_job(name="giant", cpu_cores=64)
    make_job(cpu_cores=8)
    assert sentences() == [
        "giant and 1 more like it can never start. It needs 64 cores; the largest executor offers 8 cores."
    ]
    assert attention.misfits(attention.pending_jobs())[0].link == f"/jobs/{first.id}/"


def test_what_it_costs_does_not_grow_with_executors_and_jobs(django_assert_max_num_queries) -> None:  # noqa: ANN001
    for number in range(30):
        node = make_executor(f"n{number}", state="LOST" if number % 2 else "ONLINE")
        for _ in range(3):
            make_job(State.FAILED, node, name=f"job-{number}")
        make_job(cpu_cores=60 + number)
    with django_assert_max_num_queries(5 + attention.MOST_CANDIDATES):
        items = attention.attention(timezone.now())
    assert len(items) == 1 + (attention.MOST_LINES + 1) * 2
