"""The list of jobs in a real browser: filters, views, many at once, and rows that stand still under the pointer."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.cluster import Cluster
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]


@pytest.fixture(scope="module")
def cluster(web_alone: Cluster) -> Cluster:
    """Web alone: what is submitted waits."""
    return web_alone


@pytest.fixture
def page(browser: Browser, cluster: Cluster) -> Iterator[Page]:
    with page_of(browser, cluster.url) as page:
        yield page
    jobs = cluster.api.get("/jobs", params={"limit": 1000, "status": "PENDING"}).json()["jobs"]
    if jobs:
        body = {"action": "abort", "job_ids": [job["job_id"] for job in jobs]}
        assert cluster.api.post("/api/v1/jobs/bulk", json=body).status_code == 200


def rows(page: Page) -> Locator:
    return page.locator("#job-list tbody tr")


def names(page: Page) -> list[str]:
    return page.locator("#job-list .row-link").all_inner_texts()


def test_filters_show_as_chips_that_remove_them_and_stand_in_the_address(page: Page, cluster: Cluster) -> None:
    cluster.submit("true", name="chip-one", labels={"zone": "a"})
    cluster.submit("true", name="chip-two")
    page.goto("/jobs/")
    page.get_by_placeholder("Name, image").fill("chip")
    expect(rows(page)).to_have_count(2)
    page.get_by_text("More filters").click()
    page.get_by_label("Label", exact=True).fill("zone=a")
    page.get_by_label("Label", exact=True).press("Enter")
    expect(rows(page)).to_have_count(1)
    expect(page).to_have_url(re.compile(r"/jobs/\?label=zone%3Da&text=chip$"))
    page.reload()
    expect(rows(page)).to_have_count(1)
    page.get_by_role("link", name="Remove the filter Label: zone=a").click()
    expect(rows(page)).to_have_count(2)
    expect(page).to_have_url(re.compile(r"/jobs/\?text=chip$"))
    page.get_by_text("More filters").click()
    for label, text in (("Owner", "local"), ("Image", cluster.image), ("Submitted before", "2099-01-01")):
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_label("Submitted before").press("Enter")
    expect(page.locator("#job-list .chip")).to_have_count(4)
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Executor", exact=True).fill("nowhere")
    page.get_by_label("Executor", exact=True).press("Enter")
    expect(page.locator("#job-list")).to_contain_text("No job matches")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Clear all").click()
    expect(page).to_have_url(re.compile(r"/jobs/$"))


def test_a_filter_changed_before_the_list_is_live_leaves_no_error_and_the_last_one_lives(
    page: Page, cluster: Cluster
) -> None:
    page.goto("/jobs/?text=hasty")
    expect(page.locator("#live-status")).to_have_text("Live")
    page.evaluate("""() => {
        for (const text of ["has", "hasty-one"]) {
            document.querySelector("[data-socket]").dataset.socket = `/ws/jobs?text=${text}`;
            document.dispatchEvent(new CustomEvent("htmx:afterSettle", { detail: { target: document.body } }));
        }
    }""")
    cluster.submit("true", name="hasty-two")
    cluster.submit("true", name="hasty-one")
    expect(rows(page)).to_have_count(1)
    assert names(page) == ["hasty-one"]


def test_a_narrowed_list_is_not_filled_again_by_what_still_comes_for_the_whole_one(
    page: Page, cluster: Cluster
) -> None:
    cluster.submit("true", name="whole-one")
    page.goto("/jobs/")
    expect(page.locator("#live-status")).to_have_text("Live")
    page.evaluate("htmx.config.defaultSettleDelay = 3000")  # the socket of the whole list stays for so long
    page.get_by_label("State").select_option("RUNNING")
    expect(page.locator("#job-list")).not_to_contain_text("whole-one")
    with page.expect_websocket(lambda socket: "RUNNING" in socket.url):
        cluster.submit("true", name="whole-two")
    expect(page.locator("#job-list")).not_to_contain_text("whole-")


def test_an_order_is_chosen_and_kept(page: Page, cluster: Cluster) -> None:
    for name, priority in (("o-b", 1), ("o-a", 9), ("o-c", 5)):
        cluster.submit("true", name=name, priority=priority)
    page.goto("/jobs/?text=o-")
    assert names(page) == ["o-c", "o-a", "o-b"]
    page.get_by_label("Order").select_option("Highest priority first")
    expect(rows(page).first).to_contain_text("o-a")
    assert names(page) == ["o-a", "o-c", "o-b"]
    page.get_by_label("Order").select_option("Name, A to Z")
    expect(rows(page).nth(1)).to_contain_text("o-b")
    page.reload()
    assert names(page) == ["o-a", "o-b", "o-c"]


def test_a_range_is_chosen_with_shift_and_changed_after_asking(page: Page, cluster: Cluster) -> None:
    for number in range(5):
        cluster.submit("true", name=f"range-{number}")
    page.goto("/jobs/?text=range-")
    expect(rows(page)).to_have_count(5)
    page.get_by_label("Select range-3").check()
    page.get_by_label("Select range-1").click(modifiers=["Shift"])
    expect(page.locator("#bulk-count")).to_have_text("3 selected")
    page.locator("#bulk").get_by_role("button", name="Priority…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Change the priority of 3 jobs?")
    dialog.get_by_label("New priority").fill("42")
    dialog.get_by_role("button", name="Change 3 jobs").click()
    expect(page.get_by_text("Changed 3 jobs.")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/jobs/\?text=range-$"))
    jobs = cluster.api.get("/jobs", params={"q": "range-"}).json()["jobs"]
    assert [job["priority"] for job in jobs] == [0, 42, 42, 42, 0]


def test_all_that_match_are_aborted_and_retried_with_their_number_said_first(page: Page, cluster: Cluster) -> None:
    for number in range(60):
        cluster.submit("true", name=f"many-{number}")
    page.goto("/jobs/?text=many-")
    page.get_by_label("Select all jobs on this page").check()
    expect(page.locator("#bulk-count")).to_have_text("50 selected")
    page.get_by_role("button", name="Select all 60 that match").click()
    page.locator("#bulk").get_by_role("button", name="Abort…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Abort 60 jobs?")
    late = cluster.submit("true", name="many-late")
    dialog.get_by_role("button", name="Abort 60 jobs").click()
    expect(page.get_by_text("Aborted 60 jobs.")).to_be_visible()
    assert cluster.job(late)["status"] == "PENDING", "what came after the question was not meant"
    page.get_by_label("Select all jobs on this page").check()
    page.locator("#bulk").get_by_role("button", name="Retry…").click()
    expect(dialog).to_contain_text("Retry 49 jobs?")
    expect(dialog).to_contain_text("1 of the 50 chosen stays as it is: not ended yet.")
    dialog.get_by_role("button", name="Retry 49 jobs").click()
    expect(page.get_by_text("Retried 49 jobs.")).to_be_visible()


def test_rows_stand_still_under_the_pointer_and_new_ones_are_announced(page: Page, cluster: Cluster) -> None:
    cluster.submit("true", name="still-1")
    under = cluster.submit("true", name="still-2")
    page.goto("/jobs/?text=still-")
    expect(page.locator("#live-status")).to_have_text("Live")
    rows(page).first.hover()
    cluster.submit("true", name="still-3")
    expect(page.locator("#list-news")).to_have_text("1 new")
    assert names(page) == ["still-2", "still-1"]
    cluster.api.post(f"/api/v1/jobs/{under}/abort")
    expect(rows(page).first).to_contain_text("Aborted")
    assert names(page) == ["still-2", "still-1"]
    page.mouse.move(5, 5)
    expect(rows(page)).to_have_count(3)
    assert names(page) == ["still-3", "still-2", "still-1"]
    expect(page.locator("#list-news")).to_have_count(0)


def test_a_choice_outlives_what_changes_meanwhile(page: Page, cluster: Cluster) -> None:
    cluster.submit("true", name="keep-1")
    page.goto("/jobs/?text=keep-")
    expect(page.locator("#live-status")).to_have_text("Live")
    page.get_by_label("Select keep-1").check()
    cluster.submit("true", name="keep-2")
    expect(page.locator("#list-news")).to_have_text("1 new")
    expect(page.get_by_label("Select keep-1")).to_be_checked()
    expect(page.locator("#bulk-count")).to_have_text("1 selected")
    page.locator("#list-news").click()
    expect(rows(page)).to_have_count(2)
    expect(page.locator("#bulk")).to_be_hidden()


def test_a_view_is_saved_found_again_and_deleted(page: Page) -> None:
    page.goto("/jobs/?state=FAILED&since=24h")
    page.get_by_role("button", name="Save view…").click()
    page.get_by_label("Save these filters as").fill("Failed today")
    page.get_by_role("button", name="Save", exact=True).click()
    view = page.get_by_role("navigation", name="Views").get_by_role("link", name="Failed today")
    expect(view).to_have_attribute("aria-current", "page")
    page.goto("/jobs/")
    view.click()
    expect(page).to_have_url(re.compile(r"/jobs/\?state=FAILED&since=24h$"))
    page.get_by_role("button", name="Views…").click()
    page.get_by_role("button", name="Delete the view Failed today").click()
    expect(view).to_have_count(0)


def test_a_time_tells_its_moment_to_the_pointer_and_still_opens_its_row(page: Page, cluster: Cluster) -> None:
    job_id = cluster.submit("true", name="when")
    page.goto("/jobs/?text=when")
    time = rows(page).locator("time").first
    time.hover()
    under_the_pointer = "document.querySelector(':hover:not(:has(:hover))').title"
    assert re.search(r"\d{4}.*\(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)$", page.evaluate(under_the_pointer))
    for click in ({"modifiers": ["Control"]}, {"button": "middle"}):
        with page.context.expect_page() as opened:
            time.click(**click)
        expect(opened.value).to_have_url(re.compile(rf"/jobs/{job_id}/$"))
    time.click()
    expect(page).to_have_url(re.compile(rf"/jobs/{job_id}/$"))


@pytest.mark.parametrize("width", [1280, 1001, 720])
@pytest.mark.parametrize("path", ["/", "/jobs/"])
def test_no_state_and_no_time_of_a_row_is_cut(page: Page, cluster: Cluster, path: str, width: int) -> None:
    cluster.submit("true")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(path)
    longest = {".cell-state .badge": "Succeeded", ".cell-when time": "59 min ago", ".cell-took": "23 h 59 min"}
    for name, text in longest.items():
        page.locator(f"table.jobs {name}").first.evaluate("(element, text) => element.textContent = text", text)
    cut = "(cells) => cells.filter((cell) => cell.scrollWidth > cell.clientWidth).map((cell) => cell.innerText)"
    assert page.locator("table.jobs :is(.cell-state, .cell-when, .cell-took)").evaluate_all(cut) == []


def test_running_jobs_in_a_list_draw_nothing_by_themselves(page: Page, cluster: Cluster) -> None:
    """Each would be a layer of its own to the browser, for as long as the page is open."""
    cluster.submit("true")
    page.goto("/jobs/")
    moving = "(badge) => { badge.dataset.state = 'RUNNING'; return document.getAnimations().length; }"
    assert page.locator("#job-list .badge").first.evaluate(moving) == 0
