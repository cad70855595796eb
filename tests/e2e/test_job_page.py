"""The page of one job in a real browser: its use over its life, its attempts, retry and link."""

import re
import socket
import threading
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
    cluster.redis.delete(cluster.keys.job_samples(job_id))  # as a day later
    page.reload()
    expect(page.locator("#usage-gone")).to_be_visible()
    expect(page.locator("#usage-advice")).to_contain_text("Asked for 1 GB of memory, peaked at")
    expect(use.locator("[data-chart=memory] .usage-now")).to_contain_text("at most")
    expect(use.locator("canvas")).to_have_count(0)


def test_what_a_container_sends_and_writes_is_drawn(page: Page, cluster: Cluster) -> None:
    with socket.create_server(("0.0.0.0", 0)) as sink:  # noqa: S104 - the container comes from another network
        swallowing = threading.Thread(target=swallow, args=(sink,), daemon=True)
        swallowing.start()
        send = f"head -c 1000000 /dev/zero | nc $(ip route | awk '/default/ {{print $3}}') {sink.getsockname()[1]}"
        write = "dd if=/dev/zero of=/tmp/$i bs=1M count=2 conv=fsync 2>/dev/null"
        job_id = cluster.shell(f"for i in 1 2 3 4 5; do {send}; {write}; sleep 1; done; sleep 3")
        page.goto(f"/jobs/{job_id}/")
        use = page.locator("#job-usage")
        for name, sent in (("network", r"\d\S* \wB and [45]\S* MB"), ("disk", r"and 10 MB")):
            figure = use.locator(f"[data-chart={name}]")
            expect(figure.locator("canvas")).to_be_visible()
            expect(figure.locator(".usage-now")).to_have_text(re.compile(sent))
        assert cluster.wait_final(job_id)["status"] == "SUCCEEDED"


def swallow(listener: socket.socket) -> None:
    """Take what containers send, and say nothing."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            while connection.recv(65536):
                pass


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
        pull, *times, _ = row.locator("td.number").all_inner_texts()
        assert pull == "there", "the image"
        assert all(re.fullmatch(r"[\d.]+ s", text) for text in times), times


def test_the_link_is_copied(page: Page, cluster: Cluster) -> None:
    job_id = cluster.shell("true")
    page.goto(f"/jobs/{job_id}/")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"{cluster.url}/jobs/{job_id}/"


def test_a_progress_bar_moves_in_place_and_is_one_line_at_the_end(page: Page, cluster: Cluster) -> None:
    bar = r"for i in 1 2 3 4 5; do printf '\r\033[32m%d0 %%\033[0m |' $i >&2; sleep 1; done; echo ' done' >&2; sleep 1"
    job_id = cluster.shell(f"echo begin; {bar}; echo end")
    page.goto(f"/jobs/{job_id}/")
    unfinished = page.locator("#log .line[data-unfinished]")
    expect(unfinished).to_have_text(re.compile(r"^[1-3]0 % \|$"))
    expect(unfinished.locator(".fg-2")).to_be_visible()
    expect(unfinished).to_have_text("50 % |")
    expect(page.locator("#log-count")).to_have_text("1 line")
    expect(unfinished).to_have_count(0)
    cluster.wait_final(job_id)
    lines = page.locator("#log .line > span:last-child")
    expect(lines).to_have_text(["begin", "50 % | done", "end"])


def test_a_short_log_takes_little_room_and_the_page_says_what_happened_and_how_it_ran(
    page: Page, cluster: Cluster
) -> None:
    job_id = cluster.shell("seq 3", name="short", env={"API_TOKEN": "hunter2", "MODE": "fast"})
    cluster.wait_final(job_id)
    page.goto(f"/jobs/{job_id}/")
    expect(page.locator("#log .line")).to_have_count(3)
    assert page.locator("#log").bounding_box()["height"] < 220  # type: ignore[index]
    expect(page.locator("#job-events li")).to_contain_text(
        ["Submitted", "Placed on", "Container created", "Running", "Succeeded: The command exited with code 0."]
    )
    expect(page.locator(".timeline .step-label")).to_have_text(
        ["Submitted", "Placed", "Created", "Running", "Succeeded"]
    )
    page.locator("#job-events time").first.hover()
    expect(page.locator("#job-events time").first).to_have_attribute("title", re.compile(r" UTC\)$"))
    settings = page.locator("#job-settings")
    settings.locator("summary").click()
    for words in ("sha256:", "PidsLimit", "no-new-privileges", "json-file", "MODE=fast", "67108864 (64 MB)"):
        expect(settings).to_contain_text(words)
    assert "hunter2" not in page.content()
    attempt = cluster.job(job_id)["attempts"][0]
    assert attempt["settings"]["HostConfig"]["CapDrop"] == ["ALL"]
    moments = [attempt[name] for name in ("accepted_at", "created_at", "started_at", "finished_at")]
    assert moments == sorted(moments)
