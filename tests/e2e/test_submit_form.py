"""The submit form in a real browser: what it says while one types, presets, a pasted line, a clone."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cluster import Cluster
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]


@pytest.fixture(scope="module")
def cluster(web_alone: Cluster) -> Cluster:
    return web_alone


@pytest.fixture
def page(browser: Browser, cluster: Cluster) -> Iterator[Page]:
    with page_of(browser, cluster.url) as page:
        yield page


def test_while_one_types_it_shows_the_split_and_the_line_for_a_shell(page: Page) -> None:
    page.goto("/jobs/new/")
    beside = page.locator("#preview")
    expect(beside).to_contain_text("Shown when the form is complete.")
    page.get_by_label("Image", exact=True).press_sequentially("alpine:3.20")
    page.get_by_label("Command").press_sequentially("sh -c 'echo a b'")
    expect(beside.locator(".argv span")).to_have_text(["sh", "-c", "echo a b"])
    expect(beside.locator("pre").first).to_contain_text('"docker_image": "alpine:3.20"')
    expect(beside).to_contain_text("No executor has registered yet")
    expect(page.get_by_label("Command")).to_be_focused()
    page.get_by_label("Command").fill('["echo", "two words", "[x]"]')
    expect(beside.locator(".argv span")).to_have_text(["echo", "two words", "[x]"])


def test_a_preset_fills_in_the_resources(page: Page) -> None:
    page.goto("/jobs/new/")
    page.get_by_label("Image", exact=True).fill("alpine")
    page.get_by_role("button", name="Large").click()
    assert page.get_by_label("CPU cores").input_value() == "8"
    expect(page.locator("#preview pre").first).to_contain_text('"memory_gb": 32')


def test_a_pasted_line_becomes_a_job_and_a_clone_asks_for_the_same(page: Page, cluster: Cluster) -> None:
    page.goto("/jobs/new/")
    page.get_by_text("Paste a docker run line").click()
    page.get_by_label("The line").fill("docker run --rm -v /data:/data -m 256m -e MODE=fast alpine:3.20 echo 'a b'")
    page.get_by_role("button", name="Fill in the form").click()
    expect(page.get_by_text("--volume was left out")).to_be_visible()
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}/$"))
    first = cluster.job(page.url.rstrip("/").rsplit("/", 1)[1])
    assert (first["command"], first["env"], first["memory_gb"]) == (["echo", "a b"], {"MODE": "fast"}, 0.25)
    page.get_by_role("button", name="Clone").click()
    page.get_by_label("Command").press("Control+Enter")
    page.wait_for_url(lambda url: "/new/" not in url and first["job_id"] not in url)
    second = cluster.job(page.url.rstrip("/").rsplit("/", 1)[1])
    same = ("docker_image", "command", "env", "memory_gb", "cpu_cores")
    assert [second[name] for name in same] == [first[name] for name in same]
