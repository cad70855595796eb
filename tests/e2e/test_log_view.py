"""The log of a job's page in a real browser: lines stand in Redis as an agent would have put them there."""

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.cluster import Cluster, wait_for
from tests.e2e.browser import page_of
from tests.e2e.test_accessibility import assert_no_violation_in_any_look
from tests.jobs.test_log_search import SCREENS

pytestmark = [pytest.mark.docker, pytest.mark.browser]

MILLION = 1_000_000
NEEDLE_EVERY = 90_000
"""In the long log, every so many lines there is one with 'out of cheese' in it."""


@pytest.fixture(scope="module")
def cluster(web_alone: Cluster) -> Cluster:
    """Redis and a web server; no job ever starts."""
    return web_alone


@pytest.fixture
def page(browser: Browser, cluster: Cluster) -> Iterator[Page]:
    with page_of(browser, cluster.url, "422", permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page


# --- Logs to look at ---------------------------------------------------------------------------------------------


def stamp(number: int) -> str:
    seconds, milliseconds = divmod(number, 1000)
    return f"2026-11-24T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}000Z"


def stored(texts: Iterable[str], first: int = 0) -> list[str]:
    """Lines as an agent stores them; a text that begins with '!' was printed to stderr."""
    return [
        f"{stamp(number)} {'stderr' if text.startswith('!') else 'stdout'} {text.removeprefix('!')}"
        for number, text in enumerate(texts, first)
    ]


def print_lines(cluster: Cluster, job_id: str, texts: Iterable[str], complete: bool = False) -> None:
    """As an agent does: lines, counts, a hint."""
    log, meta = cluster.keys.job_logs(job_id), cluster.keys.job_logs_meta(job_id)
    lines = stored(texts, cluster.redis.llen(log))  # type: ignore[arg-type]
    pipeline = cluster.redis.pipeline(transaction=False)
    for start in range(0, len(lines), 5000):
        pipeline.rpush(log, *lines[start : start + 5000])
    pipeline.hincrby(meta, "lines", len(lines))
    pipeline.hset(meta, mapping={"dropped": 0, "archived": 0, "complete": int(complete)})
    pipeline.publish(cluster.keys.log_channel(job_id), "")
    pipeline.execute()


@pytest.fixture
def job(cluster: Cluster) -> str:
    return cluster.submit("true")


def open_log(page: Page, job_id: str, hash_: str = "") -> None:
    page.goto("about:blank")
    page.goto(f"/jobs/{job_id}/{hash_}")
    expect(page.locator("#live-status")).to_have_text("Live")


@pytest.fixture(scope="module")
def long_job(cluster: Cluster) -> str:
    """A job that printed a million lines."""
    job_id = cluster.submit("true", name="a million lines")
    for start in range(0, MILLION, 100_000):
        print_lines(cluster, job_id, (long_line(number) for number in range(start, start + 100_000)), complete=True)
    return job_id


def long_line(number: int) -> str:
    return f"line {number} of many" + (" is out of cheese" if number % NEEDLE_EVERY == 123 else "")


# --- What is seen ------------------------------------------------------------------------------------------------


def row(page: Page, line: int) -> Locator:
    """The row of a line, counted from 0."""
    return page.locator(f"#log .line[data-line='{line}']")


def text(page: Page, line: int) -> Locator:
    return row(page, line).locator("> span")


def in_view(page: Page) -> list[int]:
    """The lines that are really visible, as a person sees them; waits until their text is there."""
    expect(page.locator("#log .line").first).to_be_attached()
    expect(page.locator("#log .line[data-pending]")).to_have_count(0)
    lines: list[int] = page.evaluate(
        """() => {
            const frame = document.getElementById('log').getBoundingClientRect();
            const seen = (line) => {
                const box = line.getBoundingClientRect();
                return box.bottom > frame.top + 1 && box.top < frame.bottom - 1;
            };
            return [...document.querySelectorAll('#log .line')].filter(seen).map((line) => Number(line.dataset.line));
        }"""
    )
    return lines


def scroll_to(page: Page, share: float) -> None:
    page.locator("#log .line").first.wait_for()  # Lines that came after this would scroll to the end.
    page.evaluate(
        "share => { const log = document.getElementById('log'); "
        "log.scrollTop = (log.scrollHeight - log.clientHeight) * share; }",
        share,
    )
    page.evaluate("() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def rows_in_page(page: Page) -> int:
    return page.locator("#log .line").count()


def keys(page: Page, *names: str) -> None:
    page.locator("#log").focus()
    for name in names:
        page.keyboard.press(name)


def is_pressed(page: Page, name: str) -> str:
    return page.locator(f"#log-{name}").get_attribute("aria-pressed") or ""


# --- A million lines ---------------------------------------------------------------------------------------------


def heap(page: Page) -> float:
    """Bytes that the page's scripts hold."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used: float = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return used


def test_any_place_of_a_million_lines_is_shown_at_once_and_the_page_stays_small(page: Page, long_job: str) -> None:
    open_log(page, long_job)
    expect(page.locator("#log-count")).to_have_text("1,000,000 lines")
    assert in_view(page)[-1] == MILLION - 1
    heap_before = heap(page)
    for share in (0.5, 0.1, 0.9, 0.3, 0.7, 0.0, 1.0, 0.5):
        began = time.monotonic()
        scroll_to(page, share)
        lines = in_view(page)
        assert time.monotonic() - began < 3
        assert abs(lines[0] - share * MILLION) < 100
        assert lines == list(range(lines[0], lines[-1] + 1))
        for line in (lines[0], lines[-1]):
            assert text(page, line).text_content() == long_line(line)
        assert rows_in_page(page) < 120
    assert page.evaluate("document.querySelectorAll('*').length") < 1500
    for step in range(150):
        scroll_to(page, step / 150)
    in_view(page)
    assert heap(page) - heap_before < 40e6
    assert rows_in_page(page) < 120


def test_the_wheel_goes_through_a_million_lines_without_leaving_one_out(page: Page, long_job: str) -> None:
    open_log(page, long_job)
    keys(page, "g")
    assert in_view(page)[0] == 0
    page.locator("#log").hover()
    unit = page.evaluate("parseFloat(getComputedStyle(document.getElementById('log')).lineHeight)")
    for _ in range(40):
        page.mouse.wheel(0, 10_000)
    expected = int(400_000 / unit)
    wait_for("the wheel's way", lambda: abs(in_view(page)[0] - expected) <= 1)


def test_scrolling_keeps_the_frames_coming(page: Page, long_job: str) -> None:
    open_log(page, long_job)
    scroll_to(page, 0.2)
    in_view(page)
    gaps: list[float] = page.evaluate(
        """async () => {
            const log = document.getElementById('log'), gaps = [];
            let last = performance.now();
            for (let frame = 0; frame < 200; frame += 1) {
                await new Promise(requestAnimationFrame);
                gaps.push(performance.now() - last);
                last = performance.now();
                log.scrollTop += 150;
            }
            return gaps.sort((one, other) => one - other);
        }"""
    )
    assert gaps[100] < 40, "half of the frames at 25 a second or better, on a crowded machine"


def test_a_log_higher_than_a_browser_can_make_an_element_is_scrolled_all_the_same(page: Page, long_job: str) -> None:
    page.route(
        "**/log_view.js",
        lambda route: shrunk(route, "const MOST_PIXELS = [33e6, 15e6]", "const MOST_PIXELS = [1e6, 1e6]"),
    )
    open_log(page, long_job)
    assert in_view(page)[-1] == MILLION - 1
    for share in (0.5, 0.0, 1.0, 0.25):
        scroll_to(page, share)
        lines = in_view(page)
        assert abs(lines[0] - share * MILLION) < MILLION / 100
        assert text(page, lines[3]).text_content() == long_line(lines[3])
    keys(page, "g")
    assert in_view(page)[0] == 0
    page.locator("#log").hover()
    before = 0
    for _ in range(100):
        page.mouse.wheel(0, 390)
        expect(page.locator("#log .line").first).not_to_have_attribute("data-line", str(before - 1))
    unit = page.evaluate("parseFloat(getComputedStyle(document.getElementById('log')).lineHeight)")
    wait_for("the wheel's way", lambda: abs(in_view(page)[0] - int(39_000 / unit)) <= 1)
    top = in_view(page)[0]
    keys(page, "PageDown")
    wait_for("a page down", lambda: 15 < in_view(page)[0] - top < 60)


def shrunk(route: Any, old: str, new: str) -> None:
    response = route.fetch()
    body = response.text()
    assert old in body
    route.fulfill(response=response, body=body.replace(old, new))


# --- Following ---------------------------------------------------------------------------------------------------


def test_following_yields_to_who_scrolls_up_and_says_what_is_new(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, (f"n {number}" for number in range(200)))
    open_log(page, job)
    expect(text(page, 199)).to_be_visible()
    print_lines(cluster, job, ["n 200"])
    expect(text(page, 200)).to_be_visible()
    page.locator("#log").hover()
    page.mouse.wheel(0, -600)
    expect(page.locator("#log-follow")).to_have_attribute("aria-pressed", "false")
    wait_for("the wheel's way", lambda: in_view(page)[-1] < 195)
    seen = in_view(page)
    print_lines(cluster, job, (f"n {number}" for number in range(201, 301)))
    expect(page.locator("#log-new")).to_have_text("↓ 100 new lines")
    assert in_view(page) == seen
    page.locator("#log-new").click()
    expect(text(page, 300)).to_be_visible()
    expect(page.locator("#log-new")).to_be_hidden()
    assert is_pressed(page, "follow") == "true"
    print_lines(cluster, job, ["n 301"])
    expect(text(page, 301)).to_be_visible()


def test_scrolling_down_to_the_end_follows_again(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, map(str, range(200)))
    open_log(page, job)
    page.locator("#log").hover()
    page.mouse.wheel(0, -600)
    expect(page.locator("#log-follow")).to_have_attribute("aria-pressed", "false")
    page.mouse.wheel(0, 5000)
    expect(page.locator("#log-follow")).to_have_attribute("aria-pressed", "true")
    print_lines(cluster, job, ["200"])
    expect(text(page, 200)).to_be_visible()


def test_a_flood_is_followed_without_reading_it_out(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, ["first"])
    open_log(page, job)
    expect(text(page, 0)).to_be_visible()
    for start in range(0, 60_000, 3000):
        print_lines(cluster, job, map(str, range(start, start + 3000)))
    expect(page.locator("#log-count")).to_have_text("60,001 lines")
    expect(text(page, 60_000)).to_have_text("59999")
    assert page.locator("#log").get_attribute("aria-live") == "off"
    assert rows_in_page(page) < 120
    scroll_to(page, 0.5)
    lines = in_view(page)
    assert text(page, lines[5]).text_content() == str(lines[5] - 1)


def test_the_log_of_a_job_that_never_ran_promises_no_lines(page: Page, cluster: Cluster) -> None:
    job_id = cluster.submit("true")
    page.goto(f"/jobs/{job_id}/")
    expect(page.locator("#log")).to_contain_text("Lines appear here")
    cluster.api.post(f"/api/v1/jobs/{job_id}/abort")
    expect(page.locator("#log")).to_contain_text("The job never ran")


def test_a_calm_log_is_read_out(page: Page, cluster: Cluster, job: str) -> None:
    open_log(page, job)
    expect(page.locator("#log-empty")).to_contain_text("No output yet")
    print_lines(cluster, job, ["hello"])
    expect(text(page, 0)).to_be_visible()
    assert page.locator("#log").get_attribute("role") == "log"
    assert page.locator("#log").get_attribute("aria-live") == "polite"


CUT_LOG = """
from jobs import archive
from jobs.models import Job, LogArchive, LogChunk
job = Job.objects.get(id=JOB)
LogArchive.objects.create(job=job, lines=50_000, complete=True)
for first, count in ((0, 2000), (48_000, 2000)):
    name = archive.new_name(job.id, first, count)
    text = "".join(f"2026-11-24T00:00:00.000000Z stdout n {line}\\n" for line in range(first, first + count))
    archive.store(name, text.encode())
    LogChunk.objects.create(job=job, first=first, count=count, bytes=1, name=name, began="x")
LogChunk.objects.create(job=job, first=2000, count=46_000, bytes=5_000_000, name="", began="x")
"""


def test_an_archived_log_whose_middle_was_cut_says_so_in_one_row(page: Page, cluster: Cluster, job: str) -> None:
    made = cluster.manage("shell", "-v0", "-c", CUT_LOG.replace("JOB", repr(job)))
    assert made.returncode == 0, made.stderr
    open_log(page, job)
    expect(page.locator("#log-count")).to_have_text("50,000 lines")
    assert in_view(page)[-1] == 49_999
    page.evaluate("location.hash = '#L2001'")
    expect(text(page, 2000)).to_contain_text("46,000 lines (4.8 MB) are missing here")
    lines = in_view(page)
    assert {1999, 2000, 48_000} <= set(lines)
    assert not [line for line in lines if 2000 < line < 48_000]
    page.evaluate("location.hash = '#L30000'")  # a line that is missing: what says so is shown
    expect(text(page, 2000)).to_be_visible()
    keys(page, "g")
    expect(text(page, 0)).to_have_text("n 0")


# --- As a terminal shows it --------------------------------------------------------------------------------------


def test_colours_streams_and_progress_bars_are_shown_as_a_terminal_would(
    page: Page, cluster: Cluster, job: str
) -> None:
    bar = "\r".join(f"epoch: {percent:3}%|{'█' * (percent // 10):10}| {percent}/100" for percent in range(0, 101, 5))
    pip = "   \x1b[38;5;237m━━━━\x1b[0m 0.1/2.1 MB\r   \x1b[32m━━━━\x1b[0m 2.1/2.1 MB\x1b[K"
    print_lines(cluster, job, [f"!{bar}", pip, "\x1b[1;31mred", "still red\x1b[0m", "<b>plain</b>"])
    open_log(page, job)
    expect(text(page, 0)).to_have_text("epoch: 100%|██████████| 100/100")
    expect(row(page, 0)).to_have_attribute("data-stream", "stderr")
    expect(row(page, 1)).to_have_attribute("data-stream", "stdout")
    expect(text(page, 1)).to_have_text("   ━━━━ 2.1/2.1 MB")
    expect(text(page, 1).locator("span.fg-2")).to_have_text("━━━━")
    expect(text(page, 2).locator("span")).to_have_attribute("class", "ansi-bold fg-1")
    expect(text(page, 3).locator("span")).to_have_attribute("class", "ansi-bold fg-1")
    expect(text(page, 4)).to_have_text("<b>plain</b>")
    expect(text(page, 4).locator("*")).to_have_count(0)


def test_browser_and_server_agree_on_what_a_terminal_shows(page: Page, job: str) -> None:
    open_log(page, job)
    shown = page.evaluate(
        """async (texts) => {
            const terminal = await import('/static/js/log_terminal.js');
            return texts.map(terminal.plainText);
        }""",
        [printed for printed, _ in SCREENS],
    )
    assert shown == [expected for _, expected in SCREENS]


# --- Times and wrapping ------------------------------------------------------------------------------------------


def test_times_are_shown_as_chosen_and_the_choice_is_remembered(browser: Browser, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, (f"{number}" for number in range(3700)))
    context = browser.new_context(base_url=cluster.url, timezone_id="Asia/Tokyo")
    page = context.new_page()
    open_log(page, job)
    expect(text(page, 3699)).to_be_visible()
    assert row(page, 3699).locator("time").count() == 0
    shown = {"utc": "2026-11-24 00:00:03.699", "local": "2026-11-24 09:00:03.699", "relative": "+0:03.699"}
    for mode, words in shown.items():
        page.locator("#log-times").select_option(mode)
        expect(row(page, 3699).locator("time")).to_have_text(words)
    page.reload()
    expect(row(page, 3699).locator("time")).to_have_text("+0:03.699")
    keys(page, "t")
    expect(page.locator("#log-times")).to_have_value("off")
    expect(row(page, 3699).locator("time")).to_have_count(0)
    context.close()


def test_long_lines_are_wrapped_and_every_line_can_still_be_scrolled_to(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, (f"{number} " + "long words " * (number % 7 * 12) for number in range(3000)))
    open_log(page, job)
    expect(text(page, 2999)).to_be_visible()
    keys(page, "w")
    assert page.evaluate("document.getElementById('log').scrollWidth <= document.getElementById('log').clientWidth")
    assert in_view(page)[-1] == 2999, "the end stays in view"
    keys(page, "g")
    seen: set[int] = set()
    while 2999 not in seen:
        lines = in_view(page)
        assert lines == list(range(lines[0], lines[-1] + 1)), "rows follow each other"
        assert not seen or lines[0] <= max(seen) + 1, "nothing is left out"
        seen.update(lines)
        assert_rows_touch(page)
        page.evaluate("document.getElementById('log').scrollTop += 400")
        page.evaluate("() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        if len(seen) > 400:
            keys(page, "G")
            break
    page.locator("#log").hover()
    for _ in range(12):  # upwards, where no row was measured yet
        before = in_view(page)
        page.mouse.wheel(0, -300)
        wait_for("the wheel's way", lambda before=before: in_view(page)[0] < before[0])  # type: ignore[misc]
        page.wait_for_timeout(300)
        after = in_view(page)
        assert after[-1] >= before[0] - 1, "nothing is left out"
        assert_rows_touch(page)
    assert is_pressed(page, "follow") == "false"
    page.reload()
    assert is_pressed(page, "wrap") == "true"
    keys(page, "w")


def assert_rows_touch(page: Page) -> None:
    """No row lies over another, none leaves a hole."""
    holes = page.evaluate(
        """() => {
            const boxes = [...document.querySelectorAll('#log .line')].map((line) => line.getBoundingClientRect());
            return boxes.slice(1).filter((box, index) => Math.abs(box.top - boxes[index].bottom) > 1).length;
        }"""
    )
    assert holes == 0


def test_what_is_at_the_top_stays_there_when_lines_are_wrapped_or_not(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, (f"{number} " + "long words " * (number % 7 * 12) for number in range(3000)))
    open_log(page, job)
    expect(text(page, 2999)).to_be_visible()
    scroll_to(page, 0.5)
    top = in_view(page)[0]
    keys(page, "w")
    assert abs(in_view(page)[0] - top) <= 1
    keys(page, "w")
    assert abs(in_view(page)[0] - top) <= 1


# --- Search ------------------------------------------------------------------------------------------------------


def search_for(page: Page, words: str, hits: str) -> None:
    page.locator("#log-query").fill(words)
    page.locator("#log-query").press("Enter")
    expect(page.locator("#log-hits")).to_have_text(re.compile(hits))


def test_a_million_lines_are_searched_marked_and_gone_through(page: Page, long_job: str) -> None:
    open_log(page, long_job)
    keys(page, "g", "/")
    expect(page.locator("#log-query")).to_be_focused()
    search_for(page, "OUT OF CHEESE", "^1 of 12$")
    expect(text(page, 123).locator("mark")).to_have_text("out of cheese")
    expect(row(page, 123)).to_have_attribute("data-hit", "current")
    expect(page.locator("#log-marks")).to_have_attribute("data-marks", "12")
    assert marked_share(page) == pytest.approx([(NEEDLE_EVERY * n + 123) / MILLION for n in range(12)], abs=0.01)
    page.locator("#log-query").press("Enter")
    expect(page.locator("#log-hits")).to_have_text("2 of 12")
    expect(row(page, NEEDLE_EVERY + 123)).to_be_visible()
    keys(page, "n")
    expect(row(page, 2 * NEEDLE_EVERY + 123)).to_have_attribute("data-hit", "current")
    keys(page, "N", "N", "N")
    expect(page.locator("#log-hits")).to_have_text("12 of 12")
    expect(text(page, 11 * NEEDLE_EVERY + 123).locator("mark")).to_be_visible()
    assert rows_in_page(page) < 120


def marked_share(page: Page) -> list[float]:
    """How far down the strip over the scroll bar its marks begin, from 0 to 1."""
    shares: list[float] = page.evaluate(
        """async () => {
            await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
            const canvas = document.getElementById('log-marks'), context = canvas.getContext('2d'), shares = [];
            const pixels = context.getImageData(canvas.width - 1, 0, 1, canvas.height).data;
            for (let y = 0; y < canvas.height; y += 1) {
                if (pixels[4 * y + 3] && (y === 0 || !pixels[4 * y - 1])) shares.push(y / canvas.height);
            }
            return shares;
        }"""
    )
    return shares


def test_only_matches_can_be_shown_with_lines_around_them(page: Page, long_job: str) -> None:
    open_log(page, long_job)
    search_for(page, "out of cheese", "12$")
    page.locator("#log-context").select_option("2")
    page.locator("#log-only").click()
    expect(page.locator("#log-count")).to_have_text("1,000,000 lines, 60 shown")
    keys(page, "g")
    third = 2 * NEEDLE_EVERY + 123
    assert in_view(page)[:15] == [
        *range(121, 126),
        *range(NEEDLE_EVERY + 121, NEEDLE_EVERY + 126),
        *range(third - 2, third + 3),
    ]
    expect(text(page, third).locator("mark")).to_have_text("out of cheese")
    expect(row(page, third - 2)).to_have_attribute("data-opens", "")
    page.locator("#log-context").select_option("0")
    expect(page.locator("#log-count")).to_have_text("1,000,000 lines, 12 shown")
    page.locator("#log-query").press("Escape")
    expect(page.locator("#log-count")).to_have_text("1,000,000 lines")


def test_only_matches_without_a_match_gives_the_readers_place_back(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, (f"line {number}" for number in range(2000)))
    open_log(page, job)
    expect(text(page, 1999)).to_be_visible()
    search_for(page, "nothing like it", "^no match$")
    for _ in range(2):
        page.locator("#log-only").click()
    assert in_view(page)[-1] == 1999
    assert is_pressed(page, "follow") == "true"
    scroll_to(page, 0.5)
    before = in_view(page)
    for _ in range(2):
        page.locator("#log-only").click()
    assert in_view(page) == before
    page.locator("#log-only").click()
    expect(page.locator("#log-empty")).to_have_text("No line matches.")
    page.locator("#log-query").press("Escape")
    assert in_view(page) == before


def test_what_is_typed_is_gone_to_and_escape_goes_back(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, (f"line {number}" for number in range(2000)))
    open_log(page, job)
    expect(text(page, 1999)).to_be_visible()
    query = page.locator("#log-query")
    query.press_sequentially("line 12")
    expect(row(page, 12)).to_have_attribute("data-hit", "current")
    expect(query).to_be_focused()
    assert is_pressed(page, "follow") == "false"
    query.press("Escape")
    expect(text(page, 1999)).to_be_visible()
    assert is_pressed(page, "follow") == "true"
    scroll_to(page, 0.5)
    before = in_view(page)
    query.press_sequentially("line 12")
    expect(row(page, 1200)).to_have_attribute("data-hit", "current")
    query.press_sequentially("99")
    expect(row(page, 1299)).to_have_attribute("data-hit", "current")
    query.press("Escape")
    assert in_view(page) == before
    query.press_sequentially("line 12")
    expect(row(page, 1200)).to_have_attribute("data-hit", "current")
    query.press("Enter")  # now it is where one wanted to be
    expect(row(page, 1200)).to_have_attribute("data-hit", "current")
    query.press("Escape")
    assert 1200 in in_view(page)


def test_expressions_and_case_count_when_asked_for_and_errors_say_what_is_wrong(
    page: Page, cluster: Cluster, job: str
) -> None:
    print_lines(cluster, job, ["Loss=0.5", "loss=12", "\x1b[31mlo\x1b[0mss=7.25 😀 loss=3", "gain"])
    open_log(page, job)
    page.locator("#log-regex").click()
    search_for(page, r"loss=\d+\.\d+", "of 2$")
    expect(text(page, 2).locator("mark")).to_have_text(["lo", "ss=7.25"])
    page.locator("#log-case").click()
    expect(page.locator("#log-hits")).to_have_text("1")
    search_for(page, "loss=3", "of 1$")
    expect(text(page, 2).locator("mark")).to_have_text("loss=3")
    search_for(page, "(loss", "^$")
    expect(page.locator("#log-notice")).to_contain_text("missing )")
    search_for(page, "nothing like it", "^no match$")
    expect(page.locator("#log-notice")).to_be_hidden()


def test_a_growing_log_is_searched_on(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, ["ok", "wrong 1", "ok"])
    open_log(page, job)
    search_for(page, "wrong", "of 1$")
    print_lines(cluster, job, ["ok", "wrong 2"])
    expect(page.locator("#log-hits")).to_have_text("1 of 2")
    expect(text(page, 4).locator("mark")).to_have_text("wrong")


# --- Lines by number ---------------------------------------------------------------------------------------------


def test_a_link_to_a_line_opens_at_it_at_once(page: Page, long_job: str) -> None:
    began = time.monotonic()
    open_log(page, long_job, "#L500001")
    expect(text(page, 500_000)).to_have_text(long_line(500_000))
    assert time.monotonic() - began < 10
    assert 500_000 in in_view(page)
    expect(row(page, 500_000)).to_have_attribute("data-selected", "")
    assert is_pressed(page, "follow") == "false"
    expect(page.locator("#log-new")).to_be_hidden()


def test_a_range_is_chosen_by_its_numbers_linked_to_and_copied(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, (f"\x1b[32mline\x1b[0m {number}" for number in range(3000)))
    open_log(page, job)
    scroll_to(page, 0.0)
    row(page, 9).locator("a").click()
    assert page.url.endswith("#L10")
    scroll_to(page, 0.8)
    last = in_view(page)[5]
    row(page, last).locator("a").click(modifiers=["Shift"])
    assert page.url.endswith(f"#L10-L{last + 1}")
    expect(page.locator("#log-selection")).to_contain_text(f"Lines 10–{last + 1:,}")
    chosen = page.get_by_role("group", name="Selected lines")
    chosen.get_by_role("button", name="Copy", exact=True).click()
    expect(page.locator("#log-selection")).to_contain_text("copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.splitlines() == [f"line {number}" for number in range(9, last + 1)]
    chosen.get_by_role("button", name="Copy link").click()
    expect(page.locator("#log-selection")).to_contain_text("Link copied")
    link = page.evaluate("navigator.clipboard.readText()")
    page.goto("about:blank")
    page.goto(link)
    expect(row(page, 9)).to_be_visible()
    expect(row(page, 9)).to_have_attribute("data-selected", "")
    page.evaluate("location.hash = '#L2001-L2003'")
    expect(row(page, 2001)).to_be_visible()
    expect(page.locator("#log .line[data-selected]")).to_have_count(3)
    keys(page, "Escape")
    expect(page.locator("#log .line[data-selected]")).to_have_count(0)
    assert "#" not in page.url


def test_all_lines_are_copied_by_keyboard(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, (f"line {number}" for number in range(2500)))
    open_log(page, job)
    expect(text(page, 2499)).to_be_visible()
    keys(page, "Control+a", "Control+c")
    expect(page.locator("#log-selection")).to_contain_text("Lines 1–2,500 copied")
    assert page.evaluate("navigator.clipboard.readText()").splitlines() == [f"line {number}" for number in range(2500)]


# --- Tools, keyboard, appearance ---------------------------------------------------------------------------------


def test_the_log_is_downloaded_plain_and_packed(page: Page, cluster: Cluster, job: str, tmp_path: Path) -> None:
    print_lines(cluster, job, ["one", "two"])
    open_log(page, job)
    for name, suffix in (("Download", ".log"), (".gz", ".log.gz")):
        with page.expect_download() as download:
            page.locator("a.tool", has_text=re.compile(f"^{re.escape(name)}$")).click()
        assert download.value.suggested_filename.endswith(suffix)


def test_the_keyboard_does_all_of_it(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, map(str, range(500)))
    open_log(page, job)
    expect(text(page, 499)).to_be_visible()
    keys(page, "g")
    expect(text(page, 0)).to_be_visible()
    assert is_pressed(page, "follow") == "false"
    keys(page, "G")
    expect(text(page, 499)).to_be_visible()
    assert is_pressed(page, "follow") == "true"
    keys(page, "f")
    assert is_pressed(page, "follow") == "false"
    keys(page, "w")
    assert is_pressed(page, "wrap") == "true"
    keys(page, "w", "End")
    expect(page.locator("#log-follow")).to_have_attribute("aria-pressed", "true")


def test_a_lost_connection_leaves_no_hole(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, map(str, range(100)))
    open_log(page, job)
    expect(text(page, 99)).to_be_visible()
    page.evaluate("window.sameDocument = true")
    page.context.set_offline(True)
    page.evaluate("window.dispatchEvent(new Event('offline'))")
    print_lines(cluster, job, map(str, range(100, 9000)))
    page.context.set_offline(False)
    expect(page.locator("#log-count")).to_have_text("9,000 lines")
    expect(text(page, 8999)).to_have_text("8999")
    scroll_to(page, 0.1)
    lines = in_view(page)
    assert text(page, lines[0]).text_content() == str(lines[0])
    assert page.evaluate("window.sameDocument")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_on_either_ground(
    browser: Browser, cluster: Cluster, job: str, scheme: Any
) -> None:
    print_lines(cluster, job, ["!oops " + "long " * 60, *(f"line {number}" for number in range(300))])
    context = browser.new_context(base_url=cluster.url, color_scheme=scheme, viewport={"width": 390, "height": 844})
    page = context.new_page()
    open_log(page, job)
    expect(text(page, 300)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    search_for(page, "line 299", "of 1$")
    keys(page, "g")
    for name in (".line .number", ".line > span", "#log-count", "#log-wrap", "#log-hits"):
        assert contrast(page, name) >= 4.5, name
    context.close()


def contrast(page: Page, selector: str) -> float:
    ratio: float = page.evaluate(
        """(selector) => {
            const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
            const pen = canvas.getContext('2d', {willReadFrequently: true});
            const luminance = (colours) => {
                for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
                const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
                    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const element = document.querySelector(selector), grounds = [];
            for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
            const pair = [luminance([...grounds, getComputedStyle(element).color]), luminance(grounds)];
            return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        }""",
        selector,
    )
    return ratio


def test_axe_finds_nothing_in_a_log_that_is_searched_and_selected(browser: Browser, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, ["!oops", "\x1b[32mgreen\x1b[0m \x1b[41;97m white on red \x1b[0m", *map(str, range(200))])
    with page_of(browser, cluster.url, "404", bypass_csp=True) as page:
        open_log(page, job, "#L2-L5")
        page.locator("#log-times").select_option("utc")
        search_for(page, "e", "of")
        assert_no_violation_in_any_look(page)
        page.locator("#log-only").click()
        keys(page, "w")
        assert_no_violation_in_any_look(page)


def test_nothing_moves_while_the_log_loads(page: Page, cluster: Cluster, job: str) -> None:
    print_lines(cluster, job, map(str, range(500)))
    page.add_init_script(
        """window.shifts = [];
        const inLog = (source) => source.node?.parentElement?.closest?.('.log-panel');
        new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) if (entry.sources.some(inLog)) window.shifts.push(entry.value);
        }).observe({type: 'layout-shift', buffered: true});"""
    )
    open_log(page, job)
    expect(text(page, 499)).to_be_visible()
    search_for(page, "49", "of")
    assert sum(page.evaluate("window.shifts")) < 0.02
