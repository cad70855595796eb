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
