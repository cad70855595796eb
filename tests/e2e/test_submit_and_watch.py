"""What a person does in a real browser, against real processes and containers."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

from tests.cluster import Cluster, wait_for
from tests.e2e.browser import NOT_OURS, WAIT

pytestmark = [pytest.mark.docker, pytest.mark.browser]


@pytest.fixture(scope="module")
def cluster(whole_cluster: Cluster) -> Cluster:
    """One cluster for all of these tests: each looks only at jobs of its own."""
    return whole_cluster


class Watched:
    """A page whose console errors and script errors fail the test, but those that it expects."""

    def __init__(self, page: Page) -> None:
        self.page, self.errors = page, list[str]()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)


@pytest.fixture
def watched(browser: Browser, cluster: Cluster) -> Iterator[Watched]:
    context = browser.new_context(base_url=cluster.url, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    watched = Watched(context.new_page())
    yield watched
    context.close()
    assert [error for error in watched.errors if NOT_OURS not in error] == []


@pytest.fixture
def page(watched: Watched) -> Page:
    return watched.page


def fill(page: Page, **fields: str) -> None:
    for name, text in fields.items():
        page.locator(f"[name={name}]").fill(text)


def submit(page: Page, cluster: Cluster, script: str, **fields: str) -> None:
    """Through the form, by keyboard as far as the submit button; returns on the job's page."""
    page.goto("/jobs/new/")
    quoted = "'" + script.replace("'", "'\"'\"'") + "'"
    fill(page, docker_image=cluster.image, command=f"sh -c {quoted}", cpu_cores="0.1", memory_gb="0.0625", **fields)
    page.get_by_role("button", name="Submit", exact=True).press("Enter")
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}/$"))


def head(page: Page) -> Locator:
    return page.locator("#job-head")


def lines(page: Page) -> list[str]:
    """The lines in view: the page holds no others."""
    return page.locator("#log .line > span").all_text_contents()


def every_line(page: Page) -> list[str]:
    """All lines of the log, as they are seen when it is scrolled through from its first to its last."""
    seen: dict[int, str] = page.evaluate(
        """async () => {
            const log = document.getElementById('log'), seen = {};
            for (log.scrollTop = 0; ; log.scrollTop += log.clientHeight / 2) {
                await new Promise((resolve) => setTimeout(resolve, 50));
                const inView = log.querySelectorAll(".line");
                for (const line of inView) seen[line.dataset.line] = line.lastElementChild.textContent;
                if (log.scrollTop + log.clientHeight >= log.scrollHeight - 1) return seen;
            }
        }"""
    )
    return [text for _, text in sorted((int(number), text) for number, text in seen.items())]


def states_seen(page: Page) -> list[str]:
    """Every state that the page has shown since `watch_states`, in order."""
    seen: list[str] = page.evaluate("window.statesSeen")
    return seen


def watch_states(page: Page) -> None:
    page.evaluate(
        """() => {
            const head = () => document.getElementById('job-head').dataset.state;
            window.statesSeen = [head()];
            new MutationObserver(() => {
                if (window.statesSeen.at(-1) !== head()) window.statesSeen.push(head());
            }).observe(document.querySelector('main'), {subtree: true, childList: true, attributes: true});
        }"""
    )


def test_a_job_submitted_in_the_form_shows_every_state_and_each_line_as_it_comes(page: Page, cluster: Cluster) -> None:
    cluster.pause("scheduler")  # so that PENDING can be seen
    submit(page, cluster, "for i in 1 2 3 4 5; do echo line $i; sleep 0.5; done; echo oops >&2", name="five lines")
    watch_states(page)
    expect(head(page)).to_have_attribute("data-state", "PENDING")
    expect(page).to_have_title("Pending: five lines")
    cluster.resume("scheduler")
    expect(head(page)).to_have_attribute("data-state", "RUNNING")
    expect(page.locator("#log .line")).not_to_have_count(0)
    assert head(page).get_attribute("data-state") == "RUNNING"
    assert 0 < len(lines(page)) < 5, "lines come one by one while the job still runs"
    expect(head(page)).to_have_attribute("data-state", "SUCCEEDED")
    expect(page.locator("#log .line")).to_have_count(6)
    assert sorted(lines(page)) == ["line 1", "line 2", "line 3", "line 4", "line 5", "oops"]
    assert page.locator("#log .line[data-stream=stderr] > span").all_inner_texts() == ["oops"]
    assert states_seen(page) == ["PENDING", "STARTING", "RUNNING", "SUCCEEDED"]
    expect(page).to_have_title("Succeeded: five lines")
    assert "icon-succeeded" in (page.locator("link[rel=icon]").get_attribute("href") or "")


def test_a_running_job_is_aborted_after_asking_and_its_end_shows_by_itself(page: Page, cluster: Cluster) -> None:
    submit(page, cluster, "trap 'echo bye; sleep 0.5; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    expect(page.locator("#log .line")).to_have_count(1)
    page.get_by_role("button", name="Abort…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Keep it").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Abort…").click()
    dialog.get_by_role("button", name="Abort the job").click()
    expect(page.get_by_text("Aborting…")).to_be_visible()
    expect(head(page)).to_have_attribute("data-state", "ABORTED")
    expect(page.get_by_role("button", name="Abort…")).to_be_hidden()
    job_id = page.url.rstrip("/").rsplit("/", 1)[1]
    wait_for("the container to be gone", lambda: not [c for c in cluster.containers() if job_id in c.name])


def test_a_form_with_errors_keeps_what_was_typed_and_leads_to_the_first(watched: Watched) -> None:
    page = watched.page
    page.goto("/jobs/new/")
    fill(page, docker_image="alpine", command="echo 'unclosed", cpu_cores="lots")
    page.get_by_text("Environment, time-out").click()
    fill(page, env="NOVALUE")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.get_by_role("alert").first).to_contain_text("Not submitted")
    assert page.locator("[name=command]").input_value() == "echo 'unclosed"
    assert page.locator("[name=cpu_cores]").input_value() == "lots"
    expect(page.locator("[name=env]")).to_be_visible()
    for name in ("command", "cpu_cores", "env"):
        expect(page.locator(f"#id_{name}_error")).to_be_visible()
    expect(page.locator("[name=command]")).to_be_focused()
    watched.errors = [text for text in watched.errors if "422" not in text]  # the status that Chromium remarks on


def test_a_lost_connection_is_marked_and_comes_back_with_every_line_once(watched: Watched, cluster: Cluster) -> None:
    page = watched.page
    submit(page, cluster, "i=0; while [ $i -lt 80 ]; do echo n $i; i=$((i+1)); sleep 0.1; done")
    expect(page.locator("#log .line").nth(5)).to_be_attached()
    cluster.kill("web")
    expect(page.locator("#connection")).to_contain_text("Connection lost, reconnecting")
    job_id = page.url.rstrip("/").rsplit("/", 1)[1]
    shown = len(lines(page))
    wait_for("lines that the page misses", lambda: len(cluster.log(job_id)) > shown + 10)
    cluster.start_web()
    expect(page.locator("#connection")).to_be_hidden()
    expect(head(page)).to_have_attribute("data-state", "SUCCEEDED")
    expect(page.locator("#log-count")).to_have_text("80 lines")
    assert every_line(page) == [f"n {number}" for number in range(80)]
    watched.errors = [text for text in watched.errors if not re.search("WebSocket connection|CONNECTION_REFUSED", text)]


def test_lists_and_the_dashboard_change_without_a_reload(page: Page, cluster: Cluster) -> None:
    page.goto("/")
    expect(page.locator("#live-status")).to_have_text("Live")
    page.evaluate("window.sameDocument = true")
    succeeded = page.locator("#dashboard-queue [data-state=SUCCEEDED]")
    before = int(succeeded.get_attribute("data-count") or "")
    cluster.shell("sleep 1", name="from-the-api")
    row = page.locator("#dashboard-jobs tr").filter(has_text="from-the-api")
    expect(row).to_contain_text("Running")
    expect(row).to_contain_text("Succeeded")
    expect(succeeded).to_have_attribute("data-count", str(before + 1))
    assert page.evaluate("window.sameDocument")


def test_filters_stand_in_the_address_and_the_filtered_list_lives(page: Page, cluster: Cluster) -> None:
    cluster.wait_final(cluster.shell("true", name="done-one"))
    page.goto("/jobs/")
    page.get_by_label("State").select_option("RUNNING")
    expect(page.locator("#job-list")).not_to_contain_text("done-one")
    expect(page).to_have_url(re.compile(r"\?state=RUNNING"))
    cluster.shell("sleep 2", name="live-one")
    expect(page.locator("#job-list")).to_contain_text("live-one")
    expect(page.locator("#job-list")).not_to_contain_text("live-one")
    page.go_back()
    expect(page.locator("#job-list")).to_contain_text("done-one")
    page.get_by_label("Name, image, command or id").fill("live")
    expect(page.locator("#job-list tbody tr")).to_have_count(1)


def test_what_a_job_prints_stays_text_and_its_colours_become_classes(page: Page, cluster: Cluster) -> None:
    submit(page, cluster, r"printf '\033[1;31mred\033[0m <img src=x onerror=alert(1)> \033]0;title\007done\n'")
    line = page.locator("#log .line > span").first
    expect(line).to_have_text("red <img src=x onerror=alert(1)> done")
    assert line.locator("span").get_attribute("class") == "ansi-bold fg-1"
    assert page.locator("#log img").count() == 0


def test_on_a_phone_nothing_scrolls_sideways_and_both_themes_are_readable(browser: Browser, cluster: Cluster) -> None:
    executor_id = cluster.executors()[0]["executor_id"]
    job_id = cluster.shell("echo " + "long-word-" * 40, name="a-name-without-a-single-space-" * 6)
    cluster.wait_final(job_id)
    for scheme in ("light", "dark"):
        options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": 390, "height": 844}}
        context = browser.new_context(base_url=cluster.url, **options)
        phone = context.new_page()
        for address in ("/", "/jobs/", f"/jobs/{job_id}/", "/jobs/new/", "/executors/", f"/executors/{executor_id}/"):
            phone.goto(address)
            assert phone.evaluate("document.documentElement.scrollWidth") <= 390, (scheme, address)
            assert contrast(phone) >= 4.5, (scheme, address)
        context.close()


def contrast(page: Page) -> float:
    """The contrast of the text on the page's ground, as WCAG counts it; 4.5 is what it asks for."""
    ratio: float = page.evaluate(
        """() => {
            const luminance = (colour) => {
                const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
                    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const style = getComputedStyle(document.body);
            const ground = getComputedStyle(document.documentElement).backgroundColor;
            const pair = [luminance(style.color), luminance(ground)];
            return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        }"""
    )
    return ratio


def test_the_chosen_theme_is_kept(page: Page) -> None:
    page.goto("/")
    before = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.goto("/jobs/")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != before
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_the_page_loads_nothing_from_elsewhere(page: Page, cluster: Cluster) -> None:
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto("/")
    expect(page.locator("#live-status")).to_have_text("Live")
    assert all(address.startswith((cluster.url, cluster.url.replace("http", "ws"))) for address in addresses)
