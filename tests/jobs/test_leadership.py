from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models.functions import Now
from pytest_django import Settings

from jobs import leadership
from jobs.leadership import LostLeadership, acquire, lease_status, release, renew
from jobs.models import SchedulerLease

pytestmark = pytest.mark.django_db


def let_it_run_out() -> None:
    SchedulerLease.objects.update(expires_at=Now() - timedelta(seconds=1))


def test_before_any_scheduler_ran_there_is_no_lease() -> None:
    assert lease_status() is None


def test_only_one_scheduler_gets_the_lease() -> None:
    assert acquire("a") == 1
    assert acquire("b") is None
    status = lease_status()
    assert status is not None
    assert (status.holder, status.term, status.expired, status.last_pass_at) == ("a", 1, False, None)


def test_renewing_prolongs_the_lease_and_marks_the_pass(settings: Settings) -> None:
    acquire("a")
    before = lease_status()
    settings.LEASE_SECONDS = 100
    renew("a", 1)
    after = lease_status()
    assert before is not None and after is not None
    assert after.expires_at > before.expires_at + timedelta(seconds=50)
    assert after.last_pass_at is not None


def test_a_lease_that_ran_out_goes_to_the_next_with_a_higher_term() -> None:
    acquire("a")
    let_it_run_out()
    assert acquire("b") == 2
    with pytest.raises(LostLeadership, match="a no longer leads"):
        renew("a", 1)


def test_a_lease_that_ran_out_and_that_nobody_took_can_still_be_renewed() -> None:
    acquire("a")
    let_it_run_out()
    renew("a", 1)
    assert acquire("b") is None


def test_an_older_term_of_the_same_holder_does_not_count() -> None:
    acquire("a")
    let_it_run_out()
    assert acquire("a") == 2
    with pytest.raises(LostLeadership):
        renew("a", 1)


def test_a_released_lease_is_free_at_once() -> None:
    acquire("a")
    release("a", 1)
    status = lease_status()
    assert status is not None and status.expired
    assert acquire("b") == 2


def test_releasing_what_another_took_changes_nothing() -> None:
    acquire("a")
    let_it_run_out()
    acquire("b")
    release("a", 1)
    assert acquire("c") is None


def test_nothing_is_written_in_a_transaction_whose_lease_was_stolen() -> None:
    acquire("a")
    let_it_run_out()
    acquire("b")
    with pytest.raises(LostLeadership), transaction.atomic():
        SchedulerLease.objects.update(holder="written")
        renew("a", 1)
    status = lease_status()
    assert status is not None and status.holder == "b"


def test_every_process_has_its_own_name() -> None:
    assert leadership.new_holder() != leadership.new_holder()
