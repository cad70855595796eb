"""Everything by keyboard: places, rows, the palette, help; and a notification when a job ends."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cluster import Cluster, wait_for
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]


@pytest.fixture(scope="module")
def cluster(web_alone: Cluster) -> Cluster:
    """Web alone, with three jobs that wait."""
    for number in range(3):
        web_alone.submit("true", name=f"row-{number}")
    return web_alone


@pytest.fixture
def page(browser: Browser, cluster: Cluster) -> Iterator[Page]:
    with page_of(browser, cluster.url, permissions=["notifications"]) as page:
        yield page


def test_single_keys_go_to_places_but_not_while_one_types(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("g")
    page.keyboard.press("j")
    page.wait_for_url("**/jobs/")
    page.keyboard.press("/")
    expect(page.get_by_placeholder("Name, image")).to_be_focused()
    page.keyboard.type("gen")
    assert page.get_by_placeholder("Name, image").input_value() == "gen"
    expect(page).to_have_url(re.compile(r"text=gen$"))
    page.keyboard.press("Tab")
    page.locator("h1").click()
    page.keyboard.press("n")
    page.wait_for_url("**/jobs/new/")
    page.locator("h1").click()
    page.keyboard.press("g")
    page.keyboard.press("e")
    page.wait_for_url("**/executors/")


def test_rows_are_walked_chosen_and_opened(page: Page) -> None:
    page.goto("/jobs/")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="row-2")).to_be_focused()
    page.keyboard.press("x")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="row-0")).to_be_focused()
    page.keyboard.press("Shift+KeyX")  # as a keyboard has it: X
    expect(page.locator("#bulk-count")).to_have_text("3 selected")
    page.keyboard.press("k")
    expect(page.get_by_role("link", name="row-1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("row-1")


def test_the_palette_finds_pages_and_jobs(page: Page) -> None:
    page.goto("/executors/")
    page.keyboard.press("Control+k")
    palette = page.get_by_role("dialog", name="Go to")
    expect(palette.get_by_role("combobox")).to_be_focused()
    expect(palette.get_by_role("option")).to_have_count(9)
    page.keyboard.type("row-1")
    expect(palette.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}/$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("row-1")
    page.keyboard.press("Control+k")
    page.keyboard.type("dash")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"//[^/]+/$"))
    page.keyboard.press("Control+k")
    page.keyboard.type("no such thing")
    expect(palette).to_contain_text("Nothing is called that.")
    page.keyboard.press("Escape")
    expect(palette).to_be_hidden()


def test_from_within_a_log_keys_go_to_places_too(page: Page, cluster: Cluster) -> None:
    page.goto(f"/jobs/{cluster.submit('true')}/")
    page.locator("#log").focus()
    page.keyboard.press("g")
    page.keyboard.press("j")
    page.wait_for_url("**/jobs/")


def test_help_shows_the_keys_and_can_switch_them_off(page: Page) -> None:
    page.goto("/executors/")
    page.keyboard.press("?")
    page.get_by_label("Single keys are on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_hidden()
    expect(page).to_have_url(re.compile("/executors/$"))


def test_a_job_that_ends_is_told_by_the_browser_on_any_page(page: Page, cluster: Cluster) -> None:
    page.add_init_script(
        "window.told = []; const Real = Notification;"
        "window.Notification = class extends Real {"
        " constructor(title, options) { super(title, options); window.told.push(title); } };"
    )
    job_id = cluster.submit("true", name="watched")
    page.goto(f"/jobs/{job_id}/")
    page.get_by_role("button", name="Notify me").click()
    expect(page.get_by_role("button", name="Notify me")).to_have_attribute("aria-pressed", "true")
    page.goto("/executors/")
    cluster.api.post(f"/api/v1/jobs/{job_id}/abort")
    wait_for("the notification", lambda: page.evaluate("window.told.length"))
    assert page.evaluate("window.told") == ["watched: aborted"]
    assert page.evaluate("localStorage.getItem('notify-jobs')") == "[]"


def test_a_browser_that_allows_no_notification_is_said_to_and_how_to_change_it(page: Page, cluster: Cluster) -> None:
    page.add_init_script("Notification.requestPermission = async () => 'denied'")
    page.goto(f"/jobs/{cluster.submit('true')}/")
    page.get_by_role("button", name="Notify me").click()
    expect(page.get_by_role("alert")).to_contain_text("Allow it in the browser's settings")
    expect(page.get_by_role("button", name="Notify me")).to_have_attribute("aria-pressed", "false")
