"""Searching a whole log: what counts as a match, slices, bounded time, and the addresses that the page asks."""

import re
import threading
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from executors.broker import keys
from jobs import archive, log_search
from jobs.log_search import InvalidQuery, parse_query, search, spans
from jobs.log_terminal import visible
from jobs.logs import LogPage
from jobs.models import Job, LogArchive, LogChunk
from tests.rows import make_job


def stored(text: str, number: int = 0) -> str:
    return f"2026-11-24T13:42:48.{number:06}Z stdout {text}"


def reader(texts: list[str], most: int = 10**9) -> log_search.Read:
    """Reads lines of a log that is here, never more than `most` at once."""
    lines = [stored(text, number % 10**6) for number, text in enumerate(texts)]

    def read(offset: int, limit: int) -> LogPage:
        return LogPage(offset, lines[offset : offset + min(limit, most)], len(lines), 0, True)

    return read


def hits(texts: list[str], query: str, **flags: bool) -> list[int]:
    found = search(reader(texts), parse_query(query, **flags), 0)
    assert found.next == found.total == len(texts)
    return found.hits


# --- What matches ------------------------------------------------------------------------------------------------


def test_lines_match_by_their_text_alone() -> None:
    assert hits(["alpha", "beta", "alphabet"], "alpha") == [0, 2]
    assert hits(["alpha"], "2026") == []
    assert hits(["alpha"], "stdout") == []


def test_case_counts_only_when_asked_for() -> None:
    assert hits(["Error", "error"], "ERROR") == [0, 1]
    assert hits(["Error", "error"], "error", match_case=True) == [1]
    assert hits(["ÉTÉ"], "été") == [0]


def test_plain_text_is_no_expression() -> None:
    assert hits(["a.b", "axb", "(a.b)*"], "a.b") == [0, 2]
    assert hits(["(a.b)*"], "(a.b)*") == [0]


def test_expressions_match_within_a_line() -> None:
    texts = ["loss=0.31", "loss=1.2", "", "x"]
    assert hits(texts, r"^loss=0\.\d+$", is_regex=True) == [0]
    assert hits(texts, r"\d\nloss", is_regex=True) == []
    assert hits(texts, r"1\sl", is_regex=True) == []
    assert hits(texts, r"[^q]+", is_regex=True) == [0, 1, 3]
    assert hits(["xa", "a"], r"\Aa", is_regex=True) == [1]
    assert hits(["ax", "a"], r"a\z", is_regex=True) == [1]


@given(
    st.lists(st.text("ab é😀", max_size=6), max_size=12),
    st.sampled_from(["a", "b+", "^a", "b$", "é", r"a\s*b", "[^a]b", "😀"]),
)
def test_it_finds_what_looking_at_each_line_alone_finds(texts: list[str], expression: str) -> None:
    expected = [number for number, text in enumerate(texts) if re.search(expression, text)]
    assert hits(texts, expression, is_regex=True, match_case=True) == expected


def test_what_is_found_is_what_a_terminal_shows() -> None:
    red = "\x1b[31mout of\x1b[0m memory"
    bar = "epoch 1:  10%\repoch 1: 100%"
    assert hits([red, bar, "plain"], "out of memory") == [0]
    assert hits([red, bar, "plain"], "100%") == [1]
    assert hits([red, bar, "plain"], " 10%") == []
    assert hits([red], "31m") == []


def test_a_line_says_where_it_matches_counted_as_a_browser_counts() -> None:
    found = spans(reader(["no", "😀 é err and err", "\x1b[1merr"]), parse_query("ERR"), 0, 10)
    assert found == {1: [(5, 8), (13, 16)], 2: [(0, 3)]}


# --- What cannot be searched for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Say what"),
        ("x" * 501, "At most 500"),
        ("(oops", "missing )"),
        ("a(?=b)", "no look-around"),
        ("a*", "empty text"),
        ("(.{0,100}x){9}y", "too large"),
        ("\ud800", "valid Unicode"),
    ],
)
def test_a_query_that_cannot_be_is_refused_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(InvalidQuery, match=re.escape(words)):
        parse_query(text, is_regex=True)


# --- In bounded time ---------------------------------------------------------------------------------------------


def test_a_long_log_is_searched_in_slices_that_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "SLICE_SECONDS", 0)
    texts = ["hit" if number % 3 == 0 else "miss" for number in range(2000)]
    read, query = reader(texts), parse_query("hit")
    found, offset, slices = list[int](), 0, 0
    while offset < len(texts):
        part = search(read, query, offset)
        assert part.next > offset
        found += part.hits
        offset, slices = part.next, slices + 1
    assert slices > 5
    assert found == list(range(0, 2000, 3))


def test_a_slice_has_no_more_hits_than_it_may_and_the_next_goes_on_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "SLICE_HITS", 10)
    read, query = reader(["hit"] * 25), parse_query("hit")
    first = search(read, query, 0)
    assert (first.hits, first.next) == (list(range(10)), 10)
    assert search(read, query, 20) == log_search.Found([20, 21, 22, 23, 24], 25, 25)


def test_lines_that_stand_for_missing_ones_are_gone_over() -> None:
    def read(offset: int, limit: int) -> LogPage:
        if offset < 5:
            return LogPage(4, [stored("1,000 lines are missing here")], 1010, 0, True, cut=1000)
        return LogPage(offset, [stored("are here")] * (1010 - offset), 1010, 0, True)

    assert search(read, parse_query("are"), 0).hits == [4, *range(1004, 1010)]


@pytest.mark.parametrize("expression", ["(a+)+$", "(a|aa)+b", "(.*)(.*)(.*)x", r"\b{0}a*?b", "(x+x+)+y"])
def test_no_expression_takes_long_whatever_it_looks_at(expression: str) -> None:
    texts = ["a" * 60_000 + "!"] * 20
    try:
        query = parse_query(expression, is_regex=True)
    except InvalidQuery:
        return
    began = time.monotonic()
    search(reader(texts, most=5), query, 0)
    assert time.monotonic() - began < log_search.SLICE_SECONDS + 5


def test_places_of_no_width_do_not_make_a_line_match_nor_take_for_ever() -> None:
    assert hits(["a b", "x" * 50_000], r"\b", is_regex=True) == []


# --- As a terminal shows it --------------------------------------------------------------------------------------

SCREENS = [
    ("plain", "plain"),
    ("\x1b[1;31mred\x1b[0m and \x1b[38;5;42mmore\x1b[m", "red and more"),
    ("10%\r50%\r100%", "100%"),
    ("Downloading\rDone", "Doneloading"),
    ("windows line\r", "windows line"),
    ("Downloading 42 %\r\x1b[KDone", "Done"),
    ("abc\x1b[2K\rd", "d"),
    ("abcdef\x1b[1K", "      "),
    ("spinner |\x08/\x08-", "spinner -"),
    ("\x1b[5Gx", "    x"),
    ("ab\x1b[2Cc\x1b[2Dd", "ab dc"),
    ("\x1b]0;title\x07text", "text"),
    ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("😀😀\r\x1b[32mx", "x😀"),
    ("\x1b(Bcharset", "charset"),
    ("cut \x1b[3", "cut 3"),
    ("\x1b[99999999999Gx", " " * 9999 + "x"),
]


@pytest.mark.parametrize(("printed", "shown"), SCREENS)
def test_a_terminals_controls_are_followed(printed: str, shown: str) -> None:
    assert visible(printed) == shown


@given(st.text("ab\r\x08\x1b[]0123;KGCDm\x07", max_size=60))
def test_any_text_is_shown_somehow(text: str) -> None:
    assert "\r" not in visible(text)


# --- What the page asks ------------------------------------------------------------------------------------------


@pytest.fixture
def job(db: None, redis_client: redis.Redis) -> Job:
    job = make_job()
    lines = [stored(f"line {number}" + (" wrong" if number % 10 == 3 else ""), number) for number in range(50)]
    redis_client.rpush(keys().job_logs(str(job.id)), *lines)
    redis_client.hset(keys().job_logs_meta(str(job.id)), mapping={"lines": 50, "dropped": 0, "complete": 1})
    return job


def test_the_page_searches_by_http(job: Job, local_client: Client) -> None:
    address = f"/jobs/{job.id}/log/search/"
    assert local_client.get(f"{address}?q=WRONG").json() == {"hits": [3, 13, 23, 33, 43], "next": 50, "total": 50}
    assert local_client.get(f"{address}?q=WRONG&case=1").json()["hits"] == []
    assert local_client.get(f"{address}?q=line+[45]$&regex=1&offset=5").json()["hits"] == [5]
    spans = local_client.get(f"/jobs/{job.id}/log/spans/?q=wrong&offset=10&limit=10").json()
    assert spans == {"spans": {"13": [[8, 13]]}}


def test_wrong_questions_are_answered_with_what_is_wrong(job: Job, local_client: Client) -> None:
    for address, words in (
        ("search/?q=(&regex=1", "missing )"),
        ("search/?q=", "Say what"),
        ("search/?q=a&offset=-1", "offset must be a whole number"),
        ("spans/?q=a&limit=x", "limit must be a whole number"),
        ("?offset=1.5", "offset must be a whole number"),
    ):
        response = local_client.get(f"/jobs/{job.id}/log/{address}")
        assert response.status_code == 422
        assert words in response.json()["detail"]
    assert local_client.get(f"/jobs/{uuid.uuid4()}/log/search/?q=a").status_code == 404


def test_without_redis_a_search_is_refused_with_a_reason(job: Job, local_client: Client, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    response = local_client.get(f"/jobs/{job.id}/log/search/?q=a")
    assert response.status_code == 503
    assert "Redis" in response.json()["detail"]


def test_who_gets_no_turn_is_told_so(job: Job, local_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "_turns", threading.BoundedSemaphore(1))
    monkeypatch.setattr(log_search, "LONGEST_WAIT_SECONDS", 0.01)
    with log_search._turns:
        response = local_client.get(f"/jobs/{job.id}/log/search/?q=wrong")
    assert response.status_code == 503
    assert "Too many" in response.json()["detail"]
    assert local_client.get(f"/jobs/{job.id}/log/search/?q=wrong").status_code == 200


def test_who_is_not_logged_in_cannot_search(job: Job) -> None:
    assert Client().get(f"/jobs/{job.id}/log/search/?q=line").status_code in (302, 401)


def test_a_page_of_very_long_lines_ends_early_and_is_read_on(
    job: Job, local_client: Client, redis_client: redis.Redis
) -> None:
    redis_client.rpush(keys().job_logs(str(job.id)), *[stored("x" * 60_000) for _ in range(40)])
    page = local_client.get(f"/jobs/{job.id}/log/?offset=50&limit=40").json()
    assert page["first"] == 50
    assert 10 < len(page["lines"]) < 20


def test_archived_lines_are_searched_with_those_in_redis_and_what_was_cut_is_gone_over(
    job: Job, local_client: Client, redis_client: redis.Redis, settings: Any, tmp_path: Path
) -> None:
    folder = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "archive": folder}
    LogArchive.objects.create(job=job, lines=2000)
    for first, count in ((0, 500), (1500, 500)):
        name = archive.new_name(job.id, first, count)
        texts = [
            stored(f"archived {number}" + " wrong" * (number % 100 == 7)) for number in range(first, first + count)
        ]
        archive.store(name, "".join(f"{text}\n" for text in texts).encode())
        LogChunk.objects.create(job=job, first=first, count=count, bytes=1, name=name, began="x")
    LogChunk.objects.create(job=job, first=500, count=1000, bytes=10**6, name="", began="2026-01-01T00:00:00.000000Z")
    meta = {"lines": 2050, "dropped": 2000, "archived": 2000, "complete": 1}
    redis_client.hset(keys().job_logs_meta(str(job.id)), mapping=meta)  # type: ignore[arg-type]
    found = local_client.get(f"/jobs/{job.id}/log/search/?q=wrong").json()
    assert found["hits"] == [*range(7, 500, 100), *range(1507, 2000, 100), *range(2003, 2050, 10)]
    assert found["next"] == found["total"] == 2050
    assert local_client.get(f"/jobs/{job.id}/log/search/?q=missing here").json()["hits"] == [500]


@pytest.mark.django_db(transaction=True)
async def test_the_log_is_downloaded_packed(redis_client: redis.Redis, async_client: Any) -> None:
    await async_client.aforce_login(await User.objects.acreate(username="u"))
    job = await Job.objects.acreate(image="a", submitted_at="2026-01-01T00:00:00Z", cpu_millicores=1, memory_bytes=1)
    lines = [stored(f"line {number} é") for number in range(12_000)]
    redis_client.rpush(keys().job_logs(str(job.id)), *lines)
    response = await async_client.get(f"/jobs/{job.id}/log/download/?format=gzip")
    assert response["Content-Type"] == "application/gzip"
    assert response["Content-Disposition"] == f'attachment; filename="job-{job.id}.log.gz"'
    packed = b"".join([piece async for piece in response.streaming_content])
    assert zlib.decompress(packed, wbits=16 + zlib.MAX_WBITS).decode() == "".join(f"{line}\n" for line in lines)
