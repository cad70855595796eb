"""The line that has not ended, looked at from the middle of the output on."""

from agent.logs import STDERR, STDOUT
from agent.unfinished import Unfinished


def test_nothing_is_told_of_a_line_whose_beginning_was_not_seen() -> None:
    unfinished = Unfinished()
    unfinished.take([(STDOUT, b"the rest of it")])
    assert unfinished.tails == (b"", b"")
    unfinished.take([(STDOUT, b" ends\nanother")])
    assert unfinished.tails == (b"another", b"")


def test_a_bar_is_told_from_its_next_return_to_the_left_edge_on() -> None:
    unfinished = Unfinished()
    unfinished.take([(STDERR, b"0 %|##"), (STDERR, b"  |\r40 %|####")])
    assert unfinished.tails == (b"", b"\r40 %|####")
    unfinished.take([(STDERR, b"\r50 %|#####")])
    assert unfinished.tails == (b"", b"\r40 %|####\r50 %|#####")
    unfinished.take([(STDERR, b"\n")])
    assert unfinished.tails == (b"", b"")
