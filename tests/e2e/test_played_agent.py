"""What a page shows of a node that the tests play themselves, through the real Redis and the real scheduler: a pull
layer by layer, and GPUs at work, which no machine of the tests has."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from playwright.sync_api import Browser, Page, expect

from agent.protocol import AttemptFinished, AttemptProgress, AttemptRunning, HeldAttempt, Layer, Use
from tests.cluster import Cluster, wait_for
from tests.e2e.browser import page_of
from tests.jobs.node import GB, Node

pytestmark = [pytest.mark.docker, pytest.mark.browser]

NODE = "gpu-node"


@pytest.fixture(scope="module")
def cluster(web_alone: Cluster) -> Cluster:
    """Web and a scheduler, which waits long for the heartbeats of who is played by hand."""
    web_alone.start_scheduler(HEARTBEAT_INTERVAL="60")
    return web_alone


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Iterator[Node]:
    with redis.Redis(port=cluster.redis_port) as client:
        node = Node(client, NODE, gpus=2)
        node.hello()
        wait_for("the node to be online", lambda: [each for each in cluster.executors() if each["state"] == "ONLINE"])
        yield node


@pytest.fixture
def page(browser: Browser, cluster: Cluster) -> Iterator[Page]:
    with page_of(browser, cluster.url) as page:
        yield page


@pytest.fixture
def started(cluster: Cluster, node: Node) -> HeldAttempt:
    """An attempt that has one GPU and was just handed to the node."""
    cluster.submit("train", name="train", gpu_type="any", gpu_count=1, memory_gb=1)
    node.held = []
    wait_for("the start", lambda: node.receive() and node.held)
    return node.held[0]


def about(attempt: HeldAttempt) -> dict[str, Any]:
    return {"executor_id": NODE, "job_id": attempt.job_id, "attempt": attempt.attempt}


def say(node: Node, attempt: HeldAttempt, detail: str, *layers: Layer) -> None:
    node.send(AttemptProgress(**about(attempt), detail=detail, layers=list(layers)))


def begin(node: Node, attempt: HeldAttempt) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    node.send(AttemptRunning(**about(attempt), container_id="0" * 64, started_at=moment))


def end(node: Node, attempt: HeldAttempt, use: Use | None = None) -> None:
    node.send(AttemptFinished(**about(attempt), reason="completed", exit_code=0, use=use))


def test_a_pull_is_watched_layer_by_layer(page: Page, node: Node, started: HeldAttempt) -> None:
    page.goto(f"/jobs/{started.job_id}/")
    expect(page.locator("#live-status")).to_have_text("Live")
    say(
        node,
        started,
        "Pulling the image: 25 %",
        Layer(id="aaa111", status="downloading", current=25, total=100),
        Layer(id="bbb222", status="waiting"),
    )
    layers = page.get_by_role("list", name="Layers of the image").get_by_role("listitem")
    expect(layers).to_have_count(2)
    expect(page.locator(".why")).to_contain_text("Pulling the image: 25 %")
    expect(layers.nth(0)).to_have_attribute("data-status", "downloading")
    expect(layers.nth(1)).to_have_attribute("data-status", "waiting")
    bar = page.get_by_role("progressbar", name="Layer aaa111")
    expect(bar).to_have_js_property("value", 25)
    say(
        node,
        started,
        "Pulling the image: 80 %",
        Layer(id="aaa111", status="downloading", current=80, total=100),
        Layer(id="bbb222", status="done"),
    )
    expect(bar).to_have_js_property("value", 80)
    expect(layers.nth(1)).to_have_attribute("data-status", "done")
    begin(node, started)
    expect(page.locator("#job-head")).to_have_attribute("data-state", "RUNNING")
    expect(layers).to_have_count(0)
    end(node, started)
    expect(page.locator("#job-head")).to_have_attribute("data-state", "SUCCEEDED")


def test_gpus_and_disk_are_drawn_and_their_highest_values_stay(
    page: Page, cluster: Cluster, node: Node, started: HeldAttempt
) -> None:
    begin(node, started)
    now = time.time()
    for step in range(8):
        sample = {"t": now - 40 + 5 * step, "attempt": 1, "cpu_millicores": 90, "cpu_seconds": step / 2,
                  "memory_bytes": GB // 2, "peak_memory_bytes": GB // 2, "gpu_percent": 10 * step,
                  "gpu_memory_bytes": step * GB, "read_bytes": step * 1024**2, "written_bytes": 0}  # fmt: skip
        node.client.xadd(cluster.keys.job_samples(started.job_id), sample)  # type: ignore[arg-type]
    page.goto(f"/jobs/{started.job_id}/")
    use = page.locator("#job-usage")
    for chart, words in (("gpu", "at most 70 %"), ("gpu_memory", "at most 7 GB of 40 GB"), ("disk", "7 MB and 0 B")):
        expect(use.locator(f"[data-chart={chart}] canvas")).to_be_visible()
        expect(use.locator(f"[data-chart={chart}] .usage-now")).to_have_text(words)
    end(node, started, Use(samples=8, gpu_percent=71, gpu_memory_bytes=7 * GB, memory_bytes=GB // 2))
    expect(page.locator("#job-head")).to_have_attribute("data-state", "SUCCEEDED")
    page.goto(f"/executors/{NODE}/")
    gpus = page.get_by_role("group", name="GPUs").locator("tbody tr")
    expect(gpus).to_have_count(2)
    expect(gpus.first).to_contain_text("NVIDIA A100")


def test_the_page_of_an_executor_says_how_far_its_agent_is_behind(page: Page, cluster: Cluster, node: Node) -> None:
    node.receive()
    node.held = []
    node.hello(agent_version="0.0.9")
    page.goto(f"/executors/{NODE}/")
    expect(page.locator("#executor-resources")).to_contain_text("0.0.9 (this server has")
    head = page.locator("#executor-head")
    head.locator("time").hover()
    expect(head.locator("time")).to_have_attribute("title", re.compile(r"UTC"))
    expect(head).not_to_contain_text("not yet processed")
    job_id = cluster.submit("true", name="behind")
    expect(head).to_contain_text("1 command not yet processed")
    assert node.receive()
    node.heartbeat()
    expect(head).not_to_contain_text("not yet processed")
    for attempt in node.held:
        end(node, attempt)
    node.held = []
    cluster.wait_final(job_id)


def test_the_form_says_where_a_job_fits_now_and_knows_the_images_seen(
    page: Page, cluster: Cluster, node: Node, started: HeldAttempt
) -> None:
    page.goto("/jobs/new/")
    known = page.locator("#known-images option").evaluate_all("(options) => options.map((option) => option.value)")
    assert cluster.image in known
    page.get_by_label("Image", exact=True).fill("alpine:3.20")
    page.get_by_label("CPU cores").fill("1")
    expect(page.locator("#preview")).to_contain_text("Fits on 1 executor now")
    page.get_by_label("CPU cores").fill("4")
    expect(page.locator("#preview")).to_contain_text("Fits on none now, on 1 executor when idle")
    page.locator("#preview").get_by_text("In Python").click()
    expect(page.get_by_label("In Python")).to_contain_text("alpine:3.20")
    begin(node, started)
    end(node, started)
    cluster.wait_final(started.job_id)
