"""Where a log goes on in a copy that has lost its beginning."""

from hypothesis import given
from hypothesis import strategies as st

from agent.logs import STDERR, STDOUT, STREAM_NAMES, LineSplitter
from agent.places import Search

Printed = list[tuple[int, bytes]]
PRINTED = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.sampled_from([b"a", b"b", b""])), max_size=40)


def stored(printed: Printed) -> Printed:
    """Frames of the copy: a line each, printed at the same moment."""
    return [(stream, b"2026-11-24T13:00:00.000000001Z " + text + b"\n") for stream, text in printed]


def shipped(printed: Printed) -> list[bytes]:
    return [b"2026-11-24T13:00:00.100000Z %s %s" % (STREAM_NAMES[stream], text) for stream, text in printed]


@given(PRINTED, PRINTED, PRINTED)
def test_a_place_that_is_sure_is_the_right_one(before: Printed, tail: Printed, after: Printed) -> None:
    search = Search(shipped(tail))
    search.take(stored(before + tail + after))
    place = search.place()
    if not place.sure:
        return
    rest = []
    for number, position in ((STDOUT, place.stdout), (STDERR, place.stderr)):
        splitter = LineSplitter(position)
        text = b"".join(payload[31:] for stream, payload in stored(before + tail + after) if stream == number)
        rest.append(splitter.feed(text))
    assert rest[0] == [text for stream, text in after if stream == STDOUT] or not any(s == STDOUT for s, _ in tail)
    assert rest[1] == [text for stream, text in after if stream == STDERR] or not any(s == STDERR for s, _ in tail)
    if {stream for stream, _ in tail} == {STDOUT, STDERR}:
        assert place.lines == len(before + tail)


def test_lines_that_occur_once_are_found_and_those_that_repeat_or_are_gone_are_not_sure() -> None:
    lines = [(STDOUT, b"%d" % number) for number in range(10)]
    for printed, tail, sure in (
        (lines, lines[3:5], True),
        (lines + lines, lines[3:5], False),
        (lines[5:], lines[3:5], False),
        (lines, [], False),
    ):
        search = Search(shipped(tail))
        search.take(stored(printed))
        assert search.place().sure is sure


def test_what_was_printed_much_later_is_not_looked_at() -> None:
    search = Search(shipped([(STDOUT, b"x")]))
    assert not search.take([(STDOUT, b"2026-11-24T13:00:06.000000001Z x\n")])
    assert (search.place().sure, search.place().lines) == (False, 0)
