"""Chores beside the passes: what goes wrong is said once and tried again, and they end when told to."""

import logging
import threading

import pytest
import redis

from jobs import background
from jobs.archive import ArchiveUnavailable
from jobs.background import Chore
from tests.cluster import wait_for


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> None:
    monkeypatch.setattr(background, "LONGEST_PAUSE", 0.01)


@pytest.mark.parametrize("error", [ArchiveUnavailable("full"), redis.ConnectionError("away"), ZeroDivisionError("bug")])
def test_trouble_is_said_once_and_the_chore_goes_on(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def work() -> float:
        calls.append(1)
        if len(calls) < 5:
            raise error
        return 60

    chore = Chore("testing", work)
    with caplog.at_level(logging.INFO):
        chore.start()
        wait_for("the chore to go on", lambda: "testing goes on" in caplog.text, timeout=10)
        chore.end()
        chore.join(5)
    assert not chore.is_alive()
    said = [record.getMessage() for record in caplog.records if record.name == "jobs.background"]
    assert len([text for text in said if "tries again" in text]) == 1
    assert str(error) in next(text for text in said if "tries again" in text)


def test_a_chore_that_waits_ends_at_once() -> None:
    called = threading.Event()

    def work() -> float:
        called.set()
        return 3600

    chore = Chore("testing", work)
    chore.start()
    assert called.wait(5)
    chore.end()
    chore.join(2)
    assert not chore.is_alive()
