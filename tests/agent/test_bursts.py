"""How many jobs came at once: the largest bursts of the last eight days, kept in the agent's state folder."""

from pathlib import Path

import pytest

from agent.bursts import Burst, dumped, largest, loaded, with_burst
from agent.state import State

DAY = 86_400.0


def test_the_largest_burst_counts_for_a_week_and_a_day_and_then_the_next_largest() -> None:
    bursts = with_burst(with_burst((), Burst(0, 150)), Burst(2 * DAY, 20))
    assert largest((), 0) == 0
    assert largest(bursts, 2 * DAY) == largest(bursts, 7 * DAY + 3600) == 150
    assert largest(bursts, 8.5 * DAY) == 20
    assert largest(bursts, 10.5 * DAY) == 0


def test_what_comes_every_week_is_known_each_time() -> None:
    bursts: tuple[Burst, ...] = ()
    for week in range(5):
        if week:
            assert largest(bursts, 7 * week * DAY) == 100
        bursts = with_burst(bursts, Burst(7 * week * DAY, 100))


def test_only_those_are_remembered_that_say_something() -> None:
    bursts = ()
    for hour, jobs in enumerate((30, 20, 10, 20, 5)):
        bursts = with_burst(bursts, Burst(3600 * hour, jobs))
    assert [burst.jobs for burst in bursts] == [30, 20, 5]
    assert with_burst(bursts, Burst(20 * DAY, 1)) == (Burst(20 * DAY, 1),)


def test_they_are_read_as_they_were_written_and_none_is_of_the_future() -> None:
    bursts = (Burst(1000, 30), Burst(2000, 20))
    assert loaded(dumped(bursts), 3000) == bursts
    assert loaded(dumped(bursts), 1500) == (Burst(1000, 30), Burst(1500, 20))


@pytest.mark.parametrize("text", ["{", "null", "[1]", "[[1]]", '[["x", 2]]', "[[1, null]]", "[[1e999, 1e999]]", "\0"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        loaded(text, 0)


@pytest.mark.parametrize("damage", [b"", b"[[17000", b"\xff\xfe"], ids=["empty", "cut off", "no text"])
def test_a_damaged_file_is_said_in_the_log_and_nothing_is_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    first = State(tmp_path, "node")
    assert first.load_bursts() == () and not caplog.records, "a new one knows of none"
    first.save_bursts((Burst(1000, 30),))
    first.close()
    (tmp_path / "bursts").write_bytes(damage)
    second = State(tmp_path, "node")
    try:
        assert second.load_bursts() == ()
        assert "no burst of jobs is remembered" in caplog.text
        second.save_bursts((Burst(2000, 20),))
        assert second.load_bursts() == (Burst(2000, 20),)
    finally:
        second.close()
