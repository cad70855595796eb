"""Every page, light and dark, wide and narrow: axe-core finds nothing, nothing moves, nothing weighs much."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from tests.cluster import Cluster
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]

AXE = (Path(__file__).parent / "vendor" / "axe-4.10.3.min.js").read_text()
PAGES = [
    "/",
    "/jobs/",
    "/jobs/?state=FAILED&text=none",
    "/jobs/new/",
    "job",
    "pending",
    "/executors/",
    "executor",
    "/executors/join/",
    "/login/",
    "/no/",
]
FROM_AFAR = {"X-Forwarded-For": "192.0.2.1"}
"""The server takes the browser for a foreign one, which has to log in."""
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
MAX_KILOBYTES = 150


@pytest.fixture(scope="module")
def cluster(whole_cluster: Cluster) -> Cluster:
    return whole_cluster


@pytest.fixture(scope="module")
def addresses(cluster: Cluster) -> dict[str, str]:
    """The pages of things that exist."""
    done = cluster.shell("echo hello; echo oops >&2; exit 3", name="ended", env={"A": "1"}, labels={})
    waiting = cluster.shell("true", name="too-large", cpu_cores=900, priority=3)
    cluster.wait_final(done)
    executor = cluster.executors()[0]["executor_id"]
    return {"job": f"/jobs/{done}/", "pending": f"/jobs/{waiting}/", "executor": f"/executors/{executor}/"}


def assert_no_violation(page: Page) -> None:
    page.evaluate(AXE)
    found: list[dict[str, Any]] = page.evaluate("axe.run({ preload: false }).then((result) => result.violations)")
    said = [
        f"{item['id']}: {item['help']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for item in found
        for node in item["nodes"]
    ]
    assert not said, "\n".join(said)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(browser: Browser, cluster: Cluster, addresses: dict[str, str], name: str, look: str) -> None:
    headers = FROM_AFAR if name == "/login/" else {}
    options = {**LOOKS[look], "extra_http_headers": headers, "bypass_csp": True}  # axe styles what it measures
    with page_of(browser, cluster.url, "404", **options) as page:
        page.goto(addresses.get(name, name))
        page.wait_for_load_state("load")
        if name == "/login/":
            expect(page.get_by_label("Password")).to_be_visible()
        elif name != "/no/" and page.locator("[data-socket]").count():
            expect(page.locator("#live-status")).to_have_text("Live")
        for details in page.locator("main details:not([open]) > summary").all():
            if details.is_visible():
                details.click()
        assert_no_violation(page)


def test_axe_finds_nothing_in_the_dialogs(browser: Browser, cluster: Cluster, addresses: dict[str, str]) -> None:
    with page_of(browser, cluster.url, bypass_csp=True) as page:
        page.goto("/jobs/")
        page.keyboard.press("Control+k")
        expect(page.locator("#palette-options li").nth(6)).to_be_visible()
        assert_no_violation(page)
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        assert_no_violation(page)
        page.keyboard.press("Escape")
        page.get_by_label("Select too-large").check()
        page.locator("#bulk").get_by_role("button", name="Priority…").click()
        expect(page.get_by_role("dialog")).to_contain_text("Change the priority of 1 job?")
        assert_no_violation(page)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Save view…").click()
        assert_no_violation(page)
        page.goto(addresses["pending"])
        page.get_by_role("button", name="Abort…").click()
        assert_no_violation(page)
        page.goto(addresses["executor"])
        for button in ("Labels…", "Cordon…", "Drain…", "Forget…"):
            page.get_by_role("button", name=button).click()
            assert_no_violation(page)
            page.keyboard.press("Escape")


@pytest.mark.parametrize("look", ["light", "phone"])
def test_axe_finds_nothing_where_there_is_nothing_yet(browser: Browser, web_alone: Cluster, look: str) -> None:
    with page_of(browser, web_alone.url, bypass_csp=True, **LOOKS[look]) as page:
        for address, words in (
            ("/", "Nothing runs here yet"),
            ("/jobs/", "No job yet"),
            ("/executors/", "No executor"),
        ):
            page.goto(address)
            expect(page.locator("#live-status")).to_have_text("Live")
            expect(page.locator("main")).to_contain_text(words)
            assert_no_violation(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


@pytest.mark.parametrize("look", ["light", "phone"])
@pytest.mark.parametrize("name", ["/", "/jobs/", "job", "/jobs/new/", "/executors/", "executor"])
def test_nothing_moves_while_a_page_loads_and_lives(
    browser: Browser, cluster: Cluster, addresses: dict[str, str], name: str, look: str
) -> None:
    with page_of(browser, cluster.url, **LOOKS[look]) as page:
        page.add_init_script(
            """window.shifts = [];
            new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) window.shifts.push([entry.value, entry.sources.map(
                    ({node}) => node?.id || node?.className || node?.parentElement?.className || node?.nodeName)]);
            }).observe({type: 'layout-shift', buffered: true});"""
        )
        page.goto(addresses.get(name, name))
        if page.locator("[data-socket]").count():
            expect(page.locator("#live-status")).to_have_text("Live")
        passing = cluster.shell("true", name="passing")
        cluster.wait_final(passing)
        if name in ("/", "/jobs/"):
            row = page.locator(f"#row-{passing}")
            expect(row).to_contain_text("Succeeded")
        shifts = page.evaluate("window.shifts")
        assert sum(value for value, _ in shifts) < 0.02, shifts


@pytest.mark.parametrize("name", PAGES)
def test_scripts_and_styles_of_a_page_are_light(
    browser: Browser, cluster: Cluster, addresses: dict[str, str], name: str
) -> None:
    sizes: dict[str, int] = {}

    def weigh(request: Request) -> None:
        response = request.response()
        if response and (request.resource_type in ("script", "stylesheet") or request.url.endswith((".css", ".js"))):
            sizes[request.url] = len(gzip.compress(response.body()))

    with page_of(browser, cluster.url, "404") as page:
        page.on("requestfinished", weigh)
        page.goto(addresses.get(name, name))
        page.wait_for_load_state("networkidle")
        assert sum(sizes.values()) <= MAX_KILOBYTES * 1024, sizes


def test_motion_is_reduced_where_one_asks_for_it(browser: Browser, cluster: Cluster) -> None:
    with page_of(browser, cluster.url, reduced_motion="reduce") as page:
        page.goto("/jobs/")
        moving = page.evaluate("document.getAnimations().filter((each) => each.playState === 'running').length")
        assert moving == 0
