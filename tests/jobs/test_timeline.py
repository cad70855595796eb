"""What happened to a job, in order, whatever the clocks of its nodes say."""

from datetime import UTC, datetime, timedelta

from jobs.lifecycle import State
from jobs.models import Attempt, Job, JobEvent, new_job_id
from jobs.timeline import happenings, steps

T = datetime(2026, 11, 24, 13, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def kinds(job: Job, attempt: Attempt | None) -> dict[str, str]:
    return {step.label: step.kind for step in steps(job, attempt)}


def test_a_waiting_job_has_everything_ahead_and_a_requeued_one_again() -> None:
    job = Job(submitted_at=T, state=State.PENDING)
    ahead = {"Submitted": "done", "Placed": "now", "Created": "ahead", "Running": "ahead", "Ended": "ahead"}
    assert kinds(job, None) == ahead
    assert kinds(job, Attempt(placed_at=T, started_at=T, finished_at=T)) == ahead


def test_a_pull_is_a_step_where_there_is_one() -> None:
    job = Job(submitted_at=T, state=State.STARTING)
    attempt = Attempt(number=1, state=State.STARTING, placed_at=T)
    assert "Image pulled" not in kinds(job, attempt)
    attempt.progress = "pulling alpine: 4 %"
    assert kinds(job, attempt)["Image pulled"] == "now"
    attempt.accepted_at, attempt.pulled_at = after(100), after(105)
    assert (kinds(job, attempt)["Image pulled"], kinds(job, attempt)["Created"]) == ("done", "now")


def test_each_step_takes_what_one_clock_says_however_far_the_node_is_off() -> None:
    job = Job(submitted_at=T, state=State.SUCCEEDED, started_at=after(-594), finished_at=after(-590))
    attempt = Attempt(
        number=1, placed_at=after(2), accepted_at=after(-600), pulled_at=after(-596), created_at=after(-595.5),
        started_at=after(-594), running_since=after(9), finished_at=after(-590),
    )  # fmt: skip
    took = {step.label: step.took.total_seconds() for step in steps(job, attempt) if step.took}
    assert took == {"Placed": 2, "Image pulled": 4, "Created": 0.5, "Running": 1.5, "Succeeded": 4}


def test_an_attempt_of_an_older_agent_has_the_steps_that_are_known() -> None:
    job = Job(submitted_at=T, state=State.RUNNING, started_at=after(3))
    attempt = Attempt(number=1, state=State.RUNNING, placed_at=after(1), running_since=after(3), started_at=after(3))
    assert kinds(job, attempt) == {"Submitted": "done", "Placed": "done", "Running": "done", "Ended": "now"}


def test_everything_is_listed_in_order_though_a_nodes_clock_is_ten_minutes_slow() -> None:
    job = Job(
        id=new_job_id(), submitted_at=T, state=State.ABORTED, attempt_number=2, finished_at=after(-550),
        abort_requested_at=after(40), reason_text="Aborted on request.",
    )  # fmt: skip
    lost = Attempt(
        job=job, number=1, executor_name="n1", placed_at=after(1), state=State.FAILED, finished_at=after(20),
        reason_text="The executor stopped sending heartbeats",
    )  # fmt: skip
    second = Attempt(
        job=job, number=2, executor_name="n2", gpu_indices=[0, 3], placed_at=after(21), accepted_at=after(-579),
        created_at=after(-578), started_at=after(-577), state=State.ABORTED, reason_text="Aborted on request.",
        finished_at=after(-550),
    )  # fmt: skip
    changed = JobEvent(at=after(10), kind="priority", by="ann", text="from 0 to 5")
    noted = [changed, JobEvent(at=after(40), kind="abort", by="bob")]
    found = happenings(job, [lost, second], noted)
    assert [(item.attempt, item.text, item.by) for item in found] == [
        (0, "Submitted", ""),
        (1, "Placed on n1", ""),
        (0, "Priority changed from 0 to 5", "ann"),
        (1, "Failed: The executor stopped sending heartbeats. Queued again.", ""),
        (2, "Placed on n2, GPU 0, 3", ""),
        (2, "Container created", ""),
        (2, "Running", ""),
        (0, "Abort asked for", "bob"),
        (2, "Aborted: Aborted on request.", ""),
    ]


def test_a_job_that_was_aborted_while_it_waited_says_so_and_a_retry_names_the_other() -> None:
    other = new_job_id()
    job = Job(submitted_at=T, state=State.ABORTED, finished_at=after(5), abort_requested_at=after(5), retry_of=other)
    found = happenings(job, [], [JobEvent(at=after(9), kind="retry", by="cem", text=str(other))], retried_by="dan")
    assert [item.text for item in found] == ["Submitted as a retry of", "Abort asked for", "Aborted: ", "Retried as"]
    assert (found[0].by, found[0].job, found[3].job) == ("dan", other, other)
