"""That the evidence tells right from wrong: what is believed of a run must be able to fail it."""

import pytest

from tests.evidence import LAST, LogFaults, check_lines

FIRST, SECOND = "a" * 12, "b" * 12


def log(*lines: tuple[str, str, int]) -> list[str]:
    return [f"2026-11-24T12:00:00.000000Z {stream} {container} {number}" for stream, container, number in lines]


WHOLE = log(("stdout", SECOND, 0), ("stderr", SECOND, 0), ("stdout", SECOND, 1), ("stderr", SECOND, 1))
BEGUN = log(("stdout", FIRST, 0), ("stdout", FIRST, 1), ("stderr", FIRST, 0))


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        (WHOLE, LogFaults()),
        (BEGUN + WHOLE, LogFaults()),  # an attempt that was cut off, then one to the end
        (WHOLE[:-1], LogFaults(missing=1)),
        (WHOLE[1:], LogFaults(missing=1)),
        (WHOLE + WHOLE[-1:], LogFaults(doubled=1)),
        ([WHOLE[2], WHOLE[1], WHOLE[0], WHOLE[3]], LogFaults(missing=1, doubled=1)),
        (BEGUN[1:] + WHOLE, LogFaults(missing=1)),
        ([], LogFaults(missing=4)),
        ([*WHOLE, "garbage"], LogFaults(foreign=["garbage"])),
    ],
)
def test_what_a_log_lacks_or_has_twice_is_counted(lines: list[str], faults: LogFaults) -> None:
    assert check_lines(lines, [SECOND], 2) == faults
    assert check_lines(lines, [LAST], 2) == faults


def said(text: str) -> str:
    return f"2026-11-24T12:00:00.000000Z stderr [workload-runner] {text}"


CUT_OFF = said("Attempt 1 was cut off here; whatever else it printed is missing")
REMOVED = said("The container was removed before all of its output had been read: any further lines are missing")


@pytest.mark.parametrize(
    ("lines", "removed", "foreign"),
    [
        ([*BEGUN, CUT_OFF, *WHOLE], 0, []),
        ([*BEGUN, CUT_OFF, CUT_OFF, *WHOLE], 0, [CUT_OFF]),
        ([*BEGUN, REMOVED, *WHOLE], 1, []),
        ([*BEGUN, REMOVED, *WHOLE], 0, [REMOVED]),  # by nobody else, so the system itself removed it too early
        ([*BEGUN, REMOVED, REMOVED, *WHOLE], 1, [REMOVED]),
    ],
)
def test_the_systems_own_word_on_lines_that_are_missing_must_have_its_cause(
    lines: list[str], removed: int, foreign: list[str]
) -> None:
    assert check_lines(lines, [SECOND], 2, removed) == LogFaults(foreign=foreign)
