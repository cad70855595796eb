"""What the page of a job that failed says one can do."""

import pytest

from jobs.lifecycle import PLATFORM, RETRYABLE, EndReason, State
from jobs.remedies import remedy

OF_THE_JOB = {
    reason for reason in EndReason if reason.startswith(("image_", "command_", "invalid_")) or reason in RETRYABLE
}


@pytest.mark.parametrize("reason", sorted((OF_THE_JOB | PLATFORM) - {EndReason.EXIT_NONZERO}))
def test_every_failure_but_the_commands_own_says_what_to_do(reason: EndReason) -> None:
    assert remedy(State.FAILED, reason).endswith(".")


def test_a_pull_that_is_tried_again_says_what_to_check_meanwhile() -> None:
    assert "registry" in remedy(State.PENDING, EndReason.IMAGE_PULL_FAILED)


@pytest.mark.parametrize("state", [State.PENDING, State.RUNNING, State.SUCCEEDED, State.ABORTED])
def test_nothing_is_to_be_done_about_what_did_not_fail(state: State) -> None:
    assert remedy(state, EndReason.EXECUTOR_LOST) == ""


def test_a_reason_that_nobody_knows_any_more_says_nothing() -> None:
    assert remedy(State.FAILED, "") == remedy(State.FAILED, "of_an_older_version") == ""
