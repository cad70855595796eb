import logging
import sys

from jobs.logformat import EachLine


def test_every_line_of_a_message_bears_its_time_and_level() -> None:
    formatter = EachLine("{levelname} {name}: {message}", style="{")
    record = logging.LogRecord("jobs", logging.INFO, "", 0, "%s", ("placed a\nplaced b",), None)
    assert formatter.format(record) == "INFO jobs: placed a\nINFO jobs: placed b"


def test_a_traceback_stays_as_it_is() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.LogRecord("jobs", logging.ERROR, "", 0, "it\nfailed", (), sys.exc_info())
    assert EachLine("{levelname}: {message}", style="{").format(record).startswith("ERROR: it\nfailed\nTraceback")
