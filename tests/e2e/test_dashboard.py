"""The dashboard in a real browser: charts, the node map of a thousand executors, what needs attention; all live."""

import gzip
import re
from collections.abc import Iterator

import docker
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.cluster import Cluster, wait_for
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]

EXECUTORS = 1000


@pytest.fixture(scope="module")
def demo(
    tmp_path_factory: pytest.TempPathFactory, test_image: str, docker_client: docker.DockerClient
) -> Iterator[Cluster]:
    """A made-up cluster of a thousand executors, looked at without a scheduler: nothing changes by itself."""
    with Cluster(tmp_path_factory.mktemp("demo"), test_image, docker_client) as cluster:
        made = cluster.manage("seeddemo", f"--executors={EXECUTORS}", "--jobs=4000")
        assert made.returncode == 0, made.stderr
        cluster.start_web()
        yield cluster


@pytest.fixture
def page(browser: Browser, demo: Cluster) -> Iterator[Page]:
    with page_of(browser, demo.url) as page:
        yield page


def points(page: Page) -> int:
    """How many rows the charts show; waits for the first."""
    charts = page.locator("#charts")
    expect(charts).to_have_attribute("data-points", re.compile(r"^([1-9]|\d\d+)$"))
    return int(charts.get_attribute("data-points") or 0)


def test_the_charts_show_each_range_and_keep_it_in_the_address(page: Page) -> None:
    page.goto("/")
    assert 355 <= points(page) <= 362
    expect(page.locator(".chart canvas")).to_have_count(6)
    expect(page.locator("[data-chart=cpu] .chart-values")).to_contain_text("allocated")
    for name, step in (("15m", 10), ("6h", 60), ("24h", 240)):
        with page.expect_response(re.compile(f"range={name}")) as answer:
            page.get_by_role("link", name=name).click()
        assert answer.value.json()["step"] == step
    expect(page).to_have_url(re.compile(r"\?range=24h"))
    page.reload()
    expect(page.get_by_role("link", name="24h")).to_have_attribute("aria-current", "true")
    assert 355 <= points(page) <= 362


def test_one_cursor_runs_over_all_charts(page: Page) -> None:
    page.goto("/")
    points(page)
    page.locator("[data-chart=cpu] .u-over").hover(position={"x": 100, "y": 40})
    moments = page.locator(".chart-moment")
    expect(moments).to_have_count(6)
    assert len(set(moments.all_text_contents())) == 1
    page.mouse.move(5, 5)
    expect(moments).to_have_count(0)


@pytest.mark.parametrize("address", ["/", "executor"])
def test_no_caption_is_cut_by_long_values_at_any_width(page: Page, demo: Cluster, address: str) -> None:
    with_gpus = next(each["executor_id"] for each in demo.executors() if each["gpus"])
    page.route(re.compile(r"/history/?\?"), filled_with_long_values)
    page.goto("/" if address == "/" else f"/executors/{with_gpus}/")
    points(page)
    for width in (320, 390, 710, 1010, 1279, 1280, 1480):
        page.set_viewport_size({"width": width, "height": 800})
        for at in (2, 60):
            page.locator("[data-chart=cpu] .u-over").hover(position={"x": at, "y": 40})
            expect(page.locator("[data-chart=memory] .chart-values")).to_have_text(
                "of 888.8allocated 888.8in use 888.8"
            )
            expect(page.locator(".chart-moment").first).to_be_visible()
            assert page.evaluate(CUT) == [], width


def filled_with_long_values(route: Route) -> None:
    response = route.fetch()
    columns = response.json()
    times = list(range(int(columns["from"]), int(columns["to"]), columns["step"]))
    columns = {name: [888.8] * len(times) if isinstance(value, list) else value for name, value in columns.items()}
    columns["t"] = times
    route.fulfill(response=response, json=columns)


CUT = """[...document.querySelectorAll('.chart-name, .chart-value, .chart-moment')].filter((part) => {
    const box = part.getBoundingClientRect();
    const within = (part.closest('figcaption') ?? part.closest('.chart-plot')).getBoundingClientRect();
    const [least, most] = [Math.ceil(box.left + 1), Math.floor(box.right - 1)];
    return least < within.left || most > within.right || box.top < within.top - 1 || box.bottom > within.bottom + 1;
}).map((part) => part.closest('figure').dataset.chart + ': ' + part.textContent)"""


def test_a_thousand_tiles_say_who_they_are_to_mouse_and_keyboard_and_open_their_pages(page: Page) -> None:
    page.goto("/?map=memory")
    tiles = page.locator("#node-map a")
    expect(tiles).to_have_count(EXECUTORS)
    expect(page.get_by_role("button", name="Memory")).to_have_attribute("aria-pressed", "true")
    size = tiles.nth(500).bounding_box()
    assert size is not None and size["width"] >= 9
    tiles.nth(500).hover()
    tip = page.locator(".map-tip")
    name = tiles.nth(500).get_attribute("aria-label") or ""
    expect(tip).to_contain_text(name.split(",")[0])
    expect(tip).to_contain_text("Memory")
    tiles.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    expect(tip).to_contain_text(focused.split(",")[0])
    assert page.evaluate("document.querySelectorAll('#node-map a[tabindex=\"0\"]').length") == 1
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(focused.split(",")[0])


def test_a_thousand_tiles_are_drawn_anew_within_a_frame_or_two(page: Page) -> None:
    page.goto("/")
    expect(page.locator("#node-map a")).to_have_count(EXECUTORS)
    milliseconds = page.evaluate(
        """async () => {
            const figures = document.getElementById('dashboard-map_figures');
            const times = [];
            for (let turn = 0; turn < 5; turn++) {
                const line = (_, i) => `ONLINE|1|${(i + turn * 13) % 100}|${i % 60}|5|5||`;
                const lines = figures.textContent.split('\\n').map(line);
                const begun = performance.now();
                figures.textContent = lines.join('\\n');
                await new Promise((done) => setTimeout(done));
                document.getElementById('node-map').getBoundingClientRect();
                times.push(performance.now() - begun);
            }
            return Math.min(...times);
        }"""
    )
    print(f"{EXECUTORS} tiles drawn anew in {milliseconds:.0f} ms")
    assert milliseconds < 250  # the machine may be busy


def test_what_needs_attention_stands_on_top_and_leads_there(page: Page, demo: Cluster) -> None:
    page.goto("/")
    expect(page.locator("#dashboard-attention")).to_contain_text("train-giant")
    expect(page.locator("#dashboard-attention")).to_contain_text("can never start. It needs 16 × H100")
    page.locator("#dashboard-attention a", has_text="nightly-migration").click()
    expect(page).to_have_url(re.compile(r"/jobs/\?state=FAILED&text=nightly-migration"))
    expect(page.locator("#job-list")).to_contain_text("nightly-migration")


def test_jobs_that_wait_too_long_are_said_and_listed(page: Page) -> None:
    page.goto("/")
    line = page.locator("#dashboard-attention li", has_text="have waited over 5 minutes, the oldest since")
    line.locator("time").hover()
    expect(line.locator("time")).to_have_attribute("title", re.compile(r" UTC\)$"))
    line.get_by_role("link", name=re.compile(r"^\d+ jobs$")).click()
    expect(page).to_have_url(re.compile(r"/jobs/\?state=PENDING$"))
    states = page.locator("#job-list tbody .badge")
    expect(states.first).to_have_text("Pending")
    assert set(states.all_inner_texts()) == {"Pending"}


def test_a_cordon_shows_on_the_map_without_a_reload(page: Page, demo: Cluster) -> None:
    page.goto("/")
    expect(page.locator("#live-status")).to_have_text("Live")
    tile = page.locator("#node-map a[href='/executors/demo-0001/']")
    expect(tile).to_have_attribute("data-node", "ONLINE")
    demo.api.post("/api/v1/executors/demo-0001/cordon")
    expect(tile).to_have_attribute("data-node", "CORDONED")
    demo.api.post("/api/v1/executors/demo-0001/resume")
    expect(tile).to_have_attribute("data-node", "ONLINE")


def test_in_both_themes_and_on_a_phone_nothing_sticks_out(browser: Browser, demo: Cluster) -> None:
    for scheme in ("light", "dark"):
        options = {"color_scheme": scheme, "viewport": {"width": 390, "height": 844}}
        with page_of(browser, demo.url, **options) as phone:
            phone.goto("/")
            points(phone)
            expect(phone.locator("#live-status")).to_have_text("Live")  # every script has run
            expect(phone.locator("#node-map a")).to_have_count(EXECUTORS)
            assert phone.evaluate("document.documentElement.scrollWidth") <= 390
            before = phone.evaluate("getComputedStyle(document.querySelector('.node-ground')).fill")
            phone.get_by_role("button", name="Switch between light and dark").click()
            expect(phone.locator(".chart canvas")).to_have_count(6)
            expect(phone.locator(".node-ground").first).not_to_have_css("fill", before)


def test_every_page_of_the_navigation_is_in_reach_at_any_width(page: Page) -> None:
    page.goto("/")
    for width in (320, 390, 710, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for name in ("Dashboard", "Jobs", "Executors", "API", "Admin"):
            link = page.get_by_role("navigation", name="Main").get_by_role("link", name=name)
            expect(link).to_be_in_viewport(ratio=1)


def test_the_page_is_painted_before_its_socket_and_its_history_are_asked_for(page: Page, demo: Cluster) -> None:
    page.add_init_script(
        """window.opened = [];
        window.WebSocket = class extends WebSocket {
            constructor(...given) { super(...given); window.opened.push(performance.now()); }
        };"""
    )
    for _ in range(2):  # scripts that the browser has already run at once
        page.goto("/")
        expect(page.locator("#live-status")).to_have_text("Live")
        expect(page.locator(".chart canvas")).to_have_count(6)
    painted, opened, asked = page.evaluate(
        """[performance.getEntriesByName('first-contentful-paint')[0].startTime, window.opened[0],
            performance.getEntriesByType('resource').find(({name}) => name.includes('/history')).startTime]"""
    )
    assert opened >= painted
    assert asked >= painted


def test_scripts_and_styles_of_a_page_stay_small(page: Page, demo: Cluster) -> None:
    fetched: set[str] = set()
    page.on("request", lambda request: fetched.add(request.url.split("?")[0]))
    for address in ("/", "/executors/demo-0001/", "/executors/join/"):
        fetched.clear()
        page.goto(address)
        expect(page.locator("#live-status")).to_have_text("Live")
        files = [page.request.get(url) for url in fetched if url.endswith((".js", ".css"))]
        assert len(files) > 10
        size = sum(len(gzip.compress(file.body())) for file in files)
        assert size < 150_000, (address, size)


def test_a_history_that_cannot_be_read_is_said_and_comes_back(browser: Browser, demo: Cluster) -> None:
    with page_of(browser, demo.url, "503") as page:
        page.clock.install()
        page.route("**/history?*", lambda route: route.fulfill(status=503, body="{}"))
        page.goto("/")
        expect(page.locator("#charts-note")).to_have_text("The history cannot be read now; trying again.")
        page.unroute("**/history?*")
        page.clock.run_for(11_000)
        points(page)
        expect(page.locator("#charts-note")).to_have_text("")


def test_with_a_real_scheduler_points_come_by_themselves_and_a_lost_executor_is_said(
    browser: Browser, empty_cluster: Cluster
) -> None:
    empty_cluster.start_web()
    empty_cluster.start_scheduler()
    with page_of(browser, empty_cluster.url) as page:
        page.goto("/")
        expect(page.locator("#map-none")).to_contain_text("No executor yet")
        empty_cluster.start_agent()
        expect(page.locator("#node-map a")).to_have_count(1)
        expect(page.locator("#map-none")).to_be_hidden()
        before = points(page)
        wait_for("another point", lambda: points(page) > before, timeout=30, interval=0.5)
        page.reload()
        attention = page.locator("#dashboard-attention")
        expect(attention).to_have_text("Nothing needs attention.")
        below = page.locator("#dashboard-totals").bounding_box()
        empty_cluster.kill("agent-a")
        expect(attention).to_contain_text(f"{empty_cluster.tag}-a is lost. No heartbeat since")
        assert page.locator("#dashboard-totals").bounding_box() == below
        expect(page.locator("#node-map a")).to_have_attribute("data-node", "LOST")
