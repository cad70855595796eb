"""Searching a whole log, wherever its lines are: a slice at a time, each of bounded length, in bounded time.

Regular expressions are RE2's, which take time in proportion to the text whatever the expression is; they have no
look-around and no back references. A line matches where its text as a terminal shows it does: without time and stream,
without colours.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import re2

from jobs.log_terminal import text_of, visible
from jobs.logs import LogPage

SLICE_SECONDS = 0.6
"""After this long a slice ends with the page it is at."""
SLICE_HITS = 10_000
FIRST_PAGE_LINES, LARGEST_PAGE_LINES, PAGE_CHARACTERS = 250, 4000, 400_000
"""Pages grow and shrink so that one holds about as many characters, however long the lines are."""
LONGEST_QUERY = 500
LARGEST_PROGRAM = 3000
"""RE2's instructions: an expression with more of them could take long for one page."""
SPANS_A_LINE = 100
EMPTY_SPANS_A_LINE = 200
"""Places of no width at which an expression may match before the line counts as one that does not."""
AT_ONCE = 2
LONGEST_WAIT_SECONDS = 10

_turns = threading.BoundedSemaphore(AT_ONCE)
"""Searching is work for the processor: more at once would only hold up pages and sockets of the same process."""

_NEEDS_LINE_ALONE = re.compile(r"\\[Az]|\(\?[a-zA-Z]*-")
"""Expressions that may match a line and yet not the same line among others."""

_TIME_AND_STREAM = re.compile(r"^[^ \n]* [^ \n]* ", re.MULTILINE)

Read = Callable[[int, int], LogPage]
"""Reads lines: (offset, limit) to a page, as `jobs.logs.read_log`."""


class InvalidQuery(ValueError):
    """What is searched for cannot be; the message says why, in a sentence."""


class TooManySearches(RuntimeError):
    """So many search at once that this one did not get its turn."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for, compiled. `alone`: each line has to be looked at by itself."""

    pattern: "re2._Regexp"
    alone: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The numbers of the lines that match, of all from where the slice began to before `next`."""

    hits: list[int]
    next: int
    total: int


def parse_query(text: str, *, is_regex: bool = False, match_case: bool = False) -> Query:
    """Raises InvalidQuery."""
    if not text:
        raise InvalidQuery("Say what to search for.")
    if len(text) > LONGEST_QUERY:
        raise InvalidQuery(f"At most {LONGEST_QUERY} characters can be searched for, not {len(text)}.")
    options = re2.Options()
    options.case_sensitive = match_case
    options.log_errors = False
    try:
        pattern = re2.compile(f"(?m){text if is_regex else re2.escape(text)}", options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        if reason.startswith("invalid perl operator"):
            reason += " (there is no look-around)"
        raise InvalidQuery(f"Not a regular expression of RE2: {reason.replace('(?m)', '', 1)}.") from None
    except UnicodeEncodeError:
        raise InvalidQuery("What is searched for must be valid Unicode.") from None
    if pattern.programsize > LARGEST_PROGRAM:
        raise InvalidQuery("This regular expression is too large: repeat less in it.")
    if pattern.search(b"") is not None:
        raise InvalidQuery(
            "This regular expression also matches the empty text, which is everywhere: ask for a character."
        )
    return Query(pattern, alone=is_regex and _NEEDS_LINE_ALONE.search(text) is not None)


def search(read: Read, query: Query, start: int) -> Found:
    """The matching lines from `start` on, as far as one slice comes; go on at `next` while it is less than `total`.

    Raises TooManySearches.
    """
    if not _turns.acquire(timeout=LONGEST_WAIT_SECONDS):
        raise TooManySearches("Too many people search logs at this moment; try again shortly.")
    try:
        deadline = time.monotonic() + SLICE_SECONDS
        hits: list[int] = []
        offset, limit = start, FIRST_PAGE_LINES
        while True:
            page = read(offset, limit)
            for index in _matching(page.lines, query):
                hits.append(page.first + index)
                if len(hits) == SLICE_HITS:
                    return Found(hits, _after(page, index), page.total)
            offset = page.next_offset
            limit = _next_limit(limit, sum(map(len, page.lines)))
            if not page.lines or offset >= page.total or time.monotonic() >= deadline:
                return Found(hits, offset if page.lines else max(offset, page.total), page.total)
    finally:
        _turns.release()


def spans(read: Read, query: Query, start: int, limit: int) -> dict[int, list[tuple[int, int]]]:
    """Where each matching line of these matches: offsets in its visible text, counted as JavaScript counts."""
    page = read(start, limit)
    found = {}
    for index in _matching(page.lines, query):
        text = visible(text_of(page.lines[index]))
        found[page.first + index] = [(_utf16(text, begin), _utf16(text, end)) for begin, end in _in_line(text, query)]
    return found


def _next_limit(limit: int, characters: int) -> int:
    if characters > PAGE_CHARACTERS:
        return max(1, limit // 2)
    return min(LARGEST_PAGE_LINES, limit * 2) if characters * 2 < PAGE_CHARACTERS else limit


def _after(page: LogPage, index: int) -> int:
    return page.next_offset if index == len(page.lines) - 1 else page.first + index + 1


def _matching(lines: list[str], query: Query) -> Iterator[int]:
    """The indexes of the lines that match. All are looked at as one text, and only what may match once more alone."""
    if not lines:
        return
    whole = _visible_text(lines)
    if query.alone:
        yield from (index for index, text in enumerate(whole.split("\n")) if _matches(text, query))
        return
    raw = whole.encode(errors="replace")
    position = index = 0
    while position <= len(raw) and (match := query.pattern.search(raw, position)):
        begin, end = match.span()
        index += raw.count(b"\n", position, begin)
        line_end = raw.find(b"\n", begin)
        line_end = len(raw) if line_end < 0 else line_end
        if begin < end <= line_end or _matches(raw[raw.rfind(b"\n", 0, begin) + 1 : line_end].decode(), query):
            yield index
        position, index = line_end + 1, index + 1


def _visible_text(lines: list[str]) -> str:
    """What the lines show, one after the other."""
    stored = "\n".join(lines)
    if "\x1b" in stored or "\r" in stored or "\x08" in stored:
        return "\n".join([visible(text_of(line)) for line in lines])
    return _TIME_AND_STREAM.sub("", stored)


def _matches(text: str, query: Query) -> bool:
    return next(_in_line(text, query), None) is not None


def _in_line(text: str, query: Query) -> Iterator[tuple[int, int]]:
    """The places that match, without empty ones."""
    wide = empty = 0
    for match in query.pattern.finditer(text):
        begin, end = match.span()
        if begin < end:
            yield begin, end
        wide, empty = wide + (begin < end), empty + (begin == end)
        if wide == SPANS_A_LINE or empty == EMPTY_SPANS_A_LINE:
            return


def _utf16(text: str, offset: int) -> int:
    return offset + sum(character > "\uffff" for character in text[:offset])
