"""An open page while Redis goes away and comes back, in a real browser."""

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.cluster import Cluster
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]


@pytest.mark.parametrize("address", ["/", "/jobs/", "a job's"])
def test_an_open_page_says_that_redis_is_away_and_stops_saying_so_by_itself(
    browser: Browser, web_alone: Cluster, address: str
) -> None:
    if address == "a job's":
        address = f"/jobs/{web_alone.submit('true')}/"
    with page_of(browser, web_alone.url) as page:
        page.goto(address)
        banner, mark = page.locator(".connection[data-redis-away]"), page.locator("#live-status")
        expect(mark).to_have_text("Live")
        expect(banner).to_be_hidden()
        web_alone.kill("redis")
        try:
            expect(banner).to_be_visible()
            expect(banner).to_contain_text("Redis is away. Running jobs go on, and new ones are accepted")
            expect(mark).to_have_text("Delayed: Redis is away")
        finally:
            web_alone.start_redis(empty=False)
        expect(banner).to_be_hidden()
        expect(mark).to_have_text("Live")


@pytest.mark.parametrize("dropped", ["**/js/live.js", "**/css/app.css", "**/vendor/htmx*"])
def test_a_page_of_which_a_script_or_style_did_not_arrive_is_loaded_once_more(
    browser: Browser, web_alone: Cluster, dropped: str
) -> None:
    drops = []

    def drop_first(route: Route) -> None:
        """Not by `times=1`, which takes the route away while the page loads: it hung there once, under load."""
        if drops:
            route.continue_()
        else:
            drops.append(route.request.url)
            route.abort("internetdisconnected")

    with page_of(browser, web_alone.url, "ERR_INTERNET_DISCONNECTED|is not defined") as page:
        page.route(dropped, drop_first)
        page.goto("/jobs/", wait_until="commit")
        expect(page.locator("#live-status")).to_have_text("Live")
        expect(page.locator("#job-list")).to_be_visible()
        assert page.evaluate("sessionStorage.getItem('loaded-again')")
