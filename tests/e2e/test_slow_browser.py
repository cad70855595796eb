"""A browser that stands still while a job prints: neither the job, nor the agent, nor another reader waits for it."""

from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.cluster import Cluster, wait_for
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]

LINES = 200_000


@pytest.fixture(scope="module")
def cluster(whole_cluster: Cluster) -> Cluster:
    return whole_cluster


def test_nobody_waits_for_a_browser_that_stands_still_and_it_catches_up(browser: Browser, cluster: Cluster) -> None:
    cluster.pause("scheduler")  # so that nothing is printed before both look
    job_id = cluster.shell(f"seq 1 {LINES}; echo the end", name="flood")
    stopped: list[Any] = []
    with page_of(browser, cluster.url) as slow, page_of(browser, cluster.url) as fast:
        for page in (slow, fast):
            page.goto(f"/jobs/{job_id}/")
            expect(page.locator("#live-status")).to_have_text("Live")
        debugger = slow.context.new_cdp_session(slow)
        debugger.on("Debugger.paused", lambda event: stopped.append(event))
        debugger.send("Debugger.enable")
        debugger.send("Debugger.pause")  # at the next thing that its scripts do
        cluster.resume("scheduler")
        wait_for("the slow one to stand still", lambda: fast.wait_for_timeout(20) or stopped)
        last = fast.locator("#log .line").last
        expect(last).to_contain_text("the end")
        assert cluster.wait_final(job_id)["status"] == "SUCCEEDED"
        expect(fast.locator("#log-count")).to_have_text(f"{LINES + 1:,} lines")
        assert cluster.redis.hget(cluster.keys.job_logs_meta(job_id), "complete") == "1"
        debugger.send("Debugger.disable")  # and on it goes
        expect(slow.locator("#log .line").last).to_contain_text("the end")
        expect(slow.locator("#log-count")).to_have_text(f"{LINES + 1:,} lines")
        expect(slow.locator("#job-head")).to_have_attribute("data-state", "SUCCEEDED")
