"""The page of one job in a real browser: its use over its life, its attempts, retry and link."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cluster import Cluster
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]


@pytest.fixture(scope="module")
def cluster(whole_cluster: Cluster) -> Cluster:
    return whole_cluster


@pytest.fixture
def page(browser: Browser, cluster: Cluster) -> Iterator[Page]:
    with page_of(browser, cluster.url, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page


def test_use_is_drawn_while_a_job_runs_and_its_end_brings_advice(page: Page, cluster: Cluster) -> None:
    job_id = cluster.shell("head -c 60000000 /dev/zero | tail & sleep 14", memory_gb=1, cpu_cores=0.5)
    page.goto(f"/jobs/{job_id}/")
    use = page.locator("#job-usage")
    expect(use).to_be_visible()
    assert cluster.job(job_id)["status"] == "RUNNING"
    expect(use.locator("[data-chart=memory] canvas")).to_be_visible()
    expect(use.locator("[data-chart=memory] .usage-now")).to_contain_text(re.compile(r"at most \d.* MB of 1 GB"))
    cluster.wait_final(job_id)
    expect(page.locator("#usage-advice")).to_contain_text("Asked for 1 GB of memory, peaked at")


def test_a_job_that_failed_is_retried_from_its_page_and_both_know_each_other(page: Page, cluster: Cluster) -> None:
    job_id = cluster.shell("exit 3", name="fails")
    cluster.wait_final(job_id)
    page.goto(f"/jobs/{job_id}/")
    expect(page.get_by_role("button", name="Abort…")).to_be_hidden()
    page.get_by_role("button", name="Retry").click()
    page.wait_for_url(lambda url: job_id not in url)
    again = page.url.rstrip("/").rsplit("/", 1)[1]
    assert cluster.job(again)["retry_of"] == job_id
    expect(page.locator("#job-head")).to_have_attribute("data-state", "FAILED")
    page.locator("#job-facts").get_by_role("link", name=job_id[-8:]).click()
    page.wait_for_url(f"**/jobs/{job_id}/")
    expect(page.locator("#job-facts").get_by_role("link", name=again[-8:])).to_be_visible()


def test_attempts_say_how_long_each_took_to_start_and_to_run(page: Page, cluster: Cluster) -> None:
    job_id = cluster.shell("exit 1", max_retries=1)
    cluster.wait_final(job_id)
    page.goto(f"/jobs/{job_id}/")
    rows = page.locator("#job-attempts tbody tr")
    expect(rows).to_have_count(2)
    for row in rows.all():
        assert all(re.fullmatch(r"[\d.]+ s", text) for text in row.locator("td.number").all_inner_texts()[:2])


def test_the_link_is_copied(page: Page, cluster: Cluster) -> None:
    job_id = cluster.shell("true")
    page.goto(f"/jobs/{job_id}/")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"{cluster.url}/jobs/{job_id}/"
