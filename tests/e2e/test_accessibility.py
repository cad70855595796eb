"""Every page, light and dark, wide and narrow: axe-core finds nothing, nothing moves, nothing weighs much."""

import gzip
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, Response, expect

from tests.cluster import Cluster
from tests.e2e.browser import page_of
from tests.parts import free_port

pytestmark = [pytest.mark.docker, pytest.mark.browser]

AXE = (Path(__file__).parent / "vendor" / "axe-4.10.3.min.js").read_text()
OURS = [
    "/",
    "/jobs/",
    "/jobs/?state=FAILED&text=none",
    "/jobs/new/",
    "job",
    "pending",
    "/executors/",
    "executor",
    "/executors/join/",
    "/api/v1/docs",
    "/login/",
    "/no/",
]
DJANGOS = [
    "/admin/",
    "/admin/jobs/job/",
    "admin of a job",
    "/admin/executors/executor/",
    "admin of an executor",
    "/admin/auth/user/",
    "/admin/auth/user/add/",
    "/admin/auth/user/1/change/",
    "/admin/auth/user/1/history/",
    "/admin/auth/user/1/delete/",
    "/admin/auth/group/add/",
]
FROM_AFAR = {"X-Forwarded-For": "192.0.2.1"}
"""The server takes the browser for a foreign one, which has to log in."""
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
LOOKS: dict[str, tuple[Any, Any]] = {"light": ("light", WIDE), "dark": ("dark", WIDE), "phone": ("light", PHONE)}
"""The scheme and the size of each."""
AT_ONCE = "*, *::before, *::after { transition: none !important }"
"""So that no colour is measured on its way to another."""
MAX_KILOBYTES = 150


@pytest.fixture(scope="module")
def cluster(whole_cluster: Cluster) -> Cluster:
    return whole_cluster


@pytest.fixture(scope="module")
def addresses(cluster: Cluster) -> dict[str, str]:
    """The pages of things that exist."""
    many = {f"VARIABLE_{number}": "1" for number in range(20)}
    done = cluster.shell(f"seq 30; echo oops >&2; exit 3 # {'and so on ' * 100}", name="ended", env=many, labels={})
    waiting = cluster.shell("true", name="too-large", cpu_cores=900, priority=3)
    cluster.wait_final(done)
    executor = cluster.executors()[0]["executor_id"]
    return {
        "job": f"/jobs/{done}/",
        "pending": f"/jobs/{waiting}/",
        "executor": f"/executors/{executor}/",
        "admin of a job": f"/admin/jobs/job/{done}/change/",
        "admin of an executor": f"/admin/executors/executor/{executor}/change/",
    }


def assert_no_violation(page: Page) -> None:
    page.evaluate(AXE)
    found: list[dict[str, Any]] = page.evaluate("axe.run({ preload: false }).then((result) => result.violations)")
    said = [
        f"{item['id']}: {item['help']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for item in found
        for node in item["nodes"]
    ]
    assert not said, "\n".join(said)


def assert_no_violation_in_any_look(page: Page) -> None:
    page.add_style_tag(content=AT_ONCE)
    for look, (scheme, size) in LOOKS.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        try:
            assert_no_violation(page)
        except AssertionError as error:
            error.add_note(f"in the look {look}")
            raise


def assert_forbids_scripts_from_elsewhere(response: Response | None) -> None:
    """By its Content-Security-Policy: scripts and styles from our own files, none inline, none made of text."""
    assert response is not None
    rules = [rule.split() for rule in response.headers["content-security-policy"].split(";")]
    policy = {name: values for name, *values in rules}
    scripts, styles = (policy.get(name, policy["default-src"]) for name in ("script-src", "style-src"))
    assert scripts == styles == ["'self'"]
    assert policy["object-src"] == ["'none'"]
    assert policy["base-uri"] == ["'self'"]


@pytest.mark.parametrize("name", [*OURS, *DJANGOS])
def test_axe_finds_nothing_and_the_policy_allows_no_script_but_ours(
    browser: Browser, cluster: Cluster, addresses: dict[str, str], name: str
) -> None:
    headers = FROM_AFAR if name == "/login/" else {}
    # The policy is asked for by name, and in force in the other tests; axe styles what it measures.
    with page_of(browser, cluster.url, "404", extra_http_headers=headers, bypass_csp=True) as page:
        assert_forbids_scripts_from_elsewhere(page.goto(addresses.get(name, name)))
        if name == "/login/":
            expect(page.get_by_label("Password")).to_be_visible()
        elif name != "/no/" and page.locator("[data-socket]").count():
            expect(page.locator("#live-status")).to_have_text("Live")
        for details in page.locator("main details:not([open]) > summary").all():
            if details.is_visible():
                details.click()
        assert_no_violation_in_any_look(page)


@pytest.mark.parametrize("name", DJANGOS)
def test_djangos_own_pages_do_what_they_do_under_the_policy(
    browser: Browser, cluster: Cluster, addresses: dict[str, str], name: str
) -> None:
    """Chromium writes each thing that a policy forbids to the console, which fails the test."""
    with page_of(browser, cluster.url) as page:
        page.goto(addresses.get(name, name))
        page.wait_for_load_state("networkidle")


def assert_says(page: Page, response: Response | None, status: int, words: str) -> None:
    """It is the page of an error, forbids scripts from elsewhere, and axe finds nothing in it."""
    assert response is not None
    assert response.status == status
    expect(page.get_by_role("heading", level=1)).to_have_text(words)
    assert_forbids_scripts_from_elsewhere(response)
    assert_no_violation_in_any_look(page)


def test_axe_finds_nothing_in_the_pages_of_what_went_wrong(browser: Browser, cluster: Cluster) -> None:
    executor_id = cluster.executors()[0]["executor_id"]
    images = cluster.keys.images(executor_id)
    cluster.redis.delete(images)
    cluster.redis.lpush(images, "what no part of the system writes")
    with page_of(browser, cluster.url, "status of (400|500|503)", bypass_csp=True) as page:
        elsewhere = page.goto(f"http://elsewhere.localhost:{cluster.web_port}/")
        assert_says(page, elsewhere, 400, "The server does not take this request")
        assert_says(page, page.goto(f"/executors/{executor_id}/"), 500, "Something failed on the server")
        cluster.redis.delete(images)
        cluster.stop("web")
        cluster.start_web(DATABASE_URL=f"postgres://nobody@127.0.0.1:{free_port()}/none")
        assert_says(page, page.goto("/"), 503, "The database does not answer")
        cluster.stop("web")
        cluster.start_web()


def test_axe_finds_nothing_in_the_pages_of_what_is_not_allowed(browser: Browser, cluster: Cluster) -> None:
    people = "from django.contrib.auth.models import User as U; new = U.objects.create_user"
    made = cluster.manage("shell", "-c", f"{people}; new('ada', password='x'); new('eve', password='x', is_staff=True)")
    assert made.returncode == 0, made.stderr
    with page_of(browser, cluster.url, "403", extra_http_headers=FROM_AFAR, bypass_csp=True) as page:
        for name in ("ada", "eve"):
            page.context.clear_cookies()
            page.goto("/login/?next=/admin/auth/user/")
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill("x")
            with page.expect_navigation() as arrived:
                page.get_by_role("button", name="Log in").click()
            if name == "eve":  # may use the admin, but see no users there
                assert_says(page, arrived.value, 403, "You may not do this")
            else:  # may not use the admin at all
                expect(page.locator("#content")).to_contain_text("not authorized to access this page")
                assert_forbids_scripts_from_elsewhere(arrived.value)
                assert_no_violation_in_any_look(page)
        page.context.clear_cookies()
        page.goto("/login/")
        page.context.clear_cookies()
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill("x")
        with page.expect_navigation() as refused:
            page.get_by_role("button", name="Log in").click()
        assert refused.value is not None
        assert refused.value.status == 403
        assert_forbids_scripts_from_elsewhere(refused.value)
        assert_no_violation_in_any_look(page)


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


def test_axe_finds_nothing_where_there_is_nothing_yet(browser: Browser, web_alone: Cluster) -> None:
    with page_of(browser, web_alone.url, bypass_csp=True) as page:
        for address, words in (
            ("/", "Nothing runs here yet"),
            ("/jobs/", "No job yet"),
            ("/executors/", "No executor"),
        ):
            page.goto(address)
            expect(page.locator("#live-status")).to_have_text("Live")
            expect(page.locator("main")).to_contain_text(words)
            assert_no_violation_in_any_look(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


OBSERVE_SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.shifts.push([entry.value, entry.sources.map(
        ({node}) => node?.id || node?.className || node?.parentElement?.className || node?.nodeName)]);
}).observe({type: 'layout-shift', buffered: true});"""


@pytest.mark.parametrize("look", ["light", "phone"])
@pytest.mark.parametrize("name", ["/", "/jobs/", "job", "/jobs/new/", "/executors/", "executor"])
def test_nothing_moves_while_a_page_loads_and_lives(
    browser: Browser, cluster: Cluster, addresses: dict[str, str], name: str, look: str
) -> None:
    with page_of(browser, cluster.url, viewport=LOOKS[look][1]) as page:
        page.add_init_script(OBSERVE_SHIFTS)
        page.goto(addresses.get(name, name))
        if page.locator("[data-socket]").count():
            expect(page.locator("#live-status")).to_have_text("Live")
        assert moved(page) < 0.001, page.evaluate("window.shifts")
        passing = cluster.shell("true", name="passing")
        cluster.wait_final(passing)
        if name in ("/", "/jobs/"):
            row = page.locator(f"#row-{passing}")
            expect(row).to_contain_text("Succeeded")
        assert moved(page) < 0.01, page.evaluate("window.shifts")


def test_nothing_moves_where_a_page_comes_in_two_halves(browser: Browser, cluster: Cluster) -> None:
    with page_of(browser, cluster.url, "WebSocket") as page, in_halves(cluster.url, b'id="theme-toggle"') as url:
        page.add_init_script(OBSERVE_SHIFTS)
        page.goto(f"{url}/jobs/")
        expect(page.locator("h1")).to_be_visible()
        assert moved(page) < 0.001, page.evaluate("window.shifts")


@contextmanager
def in_halves(url: str, before: bytes) -> Iterator[str]:
    """The server at `url` behind one that pauses in each page `before` these bytes."""

    class Pausing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = httpx.get(url + self.path)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            first, found, rest = answer.content.partition(before)
            self.wfile.write(first)
            if found:
                time.sleep(0.5)
                self.wfile.write(found + rest)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Pausing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def moved(page: Page) -> float:
    """How much has moved so far that nobody had asked to: the browser's own cumulative layout shift."""
    return float(page.evaluate("window.shifts.reduce((sum, [value]) => sum + value, 0)"))


RENAME = """([name, other]) => {
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(name, other);
}"""


def test_no_page_scrolls_sideways_at_any_width(browser: Browser, cluster: Cluster, addresses: dict[str, str]) -> None:
    with page_of(browser, cluster.url, "404") as page:
        for name in OURS:
            page.goto(addresses.get(name, name))
            page.evaluate(
                RENAME, [cluster.executors()[0]["name"], "a-node-with-a-name.longer.than.cluster.example.com"]
            )
            for width in range(320, 1281, 40):
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)


@pytest.mark.parametrize("name", OURS)
def test_scripts_and_styles_of_a_page_are_light_and_it_has_one_socket_at_most(
    browser: Browser, cluster: Cluster, addresses: dict[str, str], name: str
) -> None:
    sizes: dict[str, int] = {}

    def weigh(request: Request) -> None:
        response = request.response()
        if response and (request.resource_type in ("script", "stylesheet") or request.url.endswith((".css", ".js"))):
            sizes[request.url] = len(gzip.compress(response.body()))

    sockets: list[str] = []
    with page_of(browser, cluster.url, "404") as page:
        page.on("requestfinished", weigh)
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.goto(addresses.get(name, name))
        page.wait_for_load_state("networkidle")
        assert sum(sizes.values()) <= MAX_KILOBYTES * 1024, sizes
        assert len(sockets) == page.locator("[data-socket]").count() <= 1, sockets


def test_motion_is_reduced_where_one_asks_for_it(browser: Browser, cluster: Cluster) -> None:
    with page_of(browser, cluster.url, reduced_motion="reduce") as page:
        page.goto("/jobs/")
        moving = page.evaluate("document.getAnimations().filter((each) => each.playState === 'running').length")
        assert moving == 0
