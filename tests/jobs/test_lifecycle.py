import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.lifecycle import (
    FINAL,
    LIVE,
    NEVER_RAN,
    PLATFORM,
    PLATFORM_DELAYS,
    PLATFORM_LIMIT,
    RETRYABLE,
    TRANSITIONS,
    Budget,
    EndReason,
    IllegalTransition,
    State,
    Trigger,
    describe,
    judge,
    next_state,
)

FRESH = Budget(max_retries=0, retries_used=0, platform_failures=0, abort_requested=False)


@pytest.mark.parametrize("state", sorted(FINAL))
@pytest.mark.parametrize("trigger", list(Trigger))
def test_nothing_leads_out_of_a_final_state(state: State, trigger: Trigger) -> None:
    with pytest.raises(IllegalTransition, match=f"a job that is {state} cannot {trigger}"):
        next_state(state, trigger)


@pytest.mark.parametrize("state", sorted(set(State) - FINAL))
def test_every_state_that_is_not_final_can_be_aborted(state: State) -> None:
    assert next_state(state, Trigger.ABORT) is State.ABORTED


def test_every_state_can_be_reached_from_pending() -> None:
    reached = {State.PENDING}
    for _ in State:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(State)


@pytest.mark.parametrize("reason", list(EndReason))
def test_every_reason_has_a_sentence(reason: EndReason) -> None:
    assert describe(reason, 3).endswith(".")


@given(
    reason=st.sampled_from(list(EndReason)),
    exit_code=st.none() | st.integers(0, 255),
    budget=st.builds(Budget, st.integers(0, 5), st.integers(0, 5), st.integers(0, 6), st.booleans(), st.booleans()),
    state=st.sampled_from(sorted(LIVE)),
)
def test_the_end_of_an_attempt_always_leads_somewhere_the_table_allows(
    reason: EndReason, exit_code: int | None, budget: Budget, state: State
) -> None:
    verdict = judge(reason, exit_code, "", budget)
    after = next_state(state, verdict.trigger)
    assert verdict.attempt_state in FINAL
    assert after in FINAL or after is State.PENDING
    assert verdict.sentence
    if budget.abort_requested or (budget.at_most_once and reason not in NEVER_RAN):
        assert after in FINAL


def test_a_job_that_keeps_failing_by_itself_runs_once_and_max_retries_times_more() -> None:
    runs, used = 0, 0
    while True:
        runs += 1
        verdict = judge(EndReason.EXIT_NONZERO, 1, "", Budget(3, used, 0, False))
        used = verdict.retries_used
        if verdict.trigger is not Trigger.REQUEUE:
            break
    assert runs == 4
    assert verdict.trigger is Trigger.FAIL


def test_the_platforms_failures_do_not_use_up_retries_and_have_a_limit_and_growing_delays() -> None:
    delays, failures = [], 0
    while True:
        verdict = judge(EndReason.EXECUTOR_LOST, None, "", Budget(0, 0, failures, False))
        failures = verdict.platform_failures
        assert verdict.retries_used == 0
        if verdict.trigger is not Trigger.REQUEUE:
            break
        delays.append(verdict.delay_seconds)
    assert tuple(delays) == PLATFORM_DELAYS
    assert len(delays) == PLATFORM_LIMIT
    assert "Given up after 5" in verdict.sentence


@pytest.mark.parametrize("reason", sorted(RETRYABLE | PLATFORM))
def test_nothing_is_tried_again_against_a_wish_to_abort(reason: EndReason) -> None:
    assert judge(reason, 1, "", Budget(5, 0, 0, abort_requested=True)).trigger is Trigger.ABORT


def test_a_job_that_ended_well_while_its_abort_was_on_the_way_has_succeeded() -> None:
    assert judge(EndReason.COMPLETED, 0, "", Budget(0, 0, 0, abort_requested=True)).trigger is Trigger.SUCCEED


def test_a_container_stopped_by_hand_on_the_node_is_the_platforms_failure() -> None:
    verdict = judge(EndReason.STOPPED, 137, "", FRESH)
    assert (verdict.trigger, verdict.reason) == (Trigger.REQUEUE, EndReason.CONTAINER_GONE)


@pytest.mark.parametrize("reason", sorted((PLATFORM | RETRYABLE | {EndReason.STOPPED}) - NEVER_RAN))
def test_a_job_that_may_run_at_most_once_fails_where_it_may_have_run(reason: EndReason) -> None:
    verdict = judge(reason, None, "", Budget(3, 0, 0, abort_requested=False, at_most_once=True))
    assert verdict.trigger is Trigger.FAIL
    if reason in PLATFORM:
        told = "It may have run, and may run at most once: it is not tried again."
        assert (verdict.reason, verdict.sentence) == (reason, f"{describe(reason)} {told}")


@pytest.mark.parametrize("reason", sorted(NEVER_RAN))
def test_a_job_that_may_run_at_most_once_is_tried_again_where_it_certainly_did_not_run(reason: EndReason) -> None:
    assert judge(reason, None, "", Budget(0, 0, 0, False, at_most_once=True)).trigger is Trigger.REQUEUE
