"""What an operator does in a real browser, against a real agent: drain, cordon, label, forget, join."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cluster import Cluster, wait_for
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]

LONG = "trap exit TERM; sleep 300 & wait"
"""Runs until it is asked to end, and ends then."""


@pytest.fixture(scope="module")
def cluster(whole_cluster: Cluster) -> Cluster:
    return whole_cluster


@pytest.fixture
def page(browser: Browser, cluster: Cluster) -> Iterator[Page]:
    with page_of(browser, cluster.url, "422") as page:  # the answer to labels that cannot be
        yield page


@pytest.fixture
def node(cluster: Cluster) -> str:
    """The address of the executor's page; it takes jobs."""
    executor_id = cluster.executors()[0]["executor_id"]
    cluster.api.post(f"/api/v1/executors/{executor_id}/resume")
    return f"/executors/{executor_id}/"


def press(page: Page, button: str, confirm: str) -> None:
    """A button that asks first, and the answer."""
    page.get_by_role("button", name=button).click()
    page.get_by_role("dialog").get_by_role("button", name=confirm, exact=True).click()


def test_a_drain_waits_for_the_running_job_and_says_when_it_is_over(page: Page, cluster: Cluster, node: str) -> None:
    job_id = cluster.shell(LONG, name="long-one")
    cluster.wait_status(job_id, "RUNNING")
    page.goto(node)
    expect(page.locator("#live-status")).to_have_text("Live")
    press(page, "Drain…", "Drain")
    head = page.locator("#executor-head")
    expect(head).to_contain_text("Draining, closed to new jobs")
    expect(head).to_contain_text("1 of 1 job still runs")
    expect(page.get_by_role("button", name="Drain…")).to_be_hidden()
    expect(page.locator("#executor-running")).to_contain_text("long-one")
    later = cluster.shell("true")
    assert "closed to new jobs" in cluster.job(later)["waiting_reason"]
    cluster.api.post(f"/api/v1/jobs/{job_id}/abort")
    expect(head).to_contain_text("Drained: no job runs here")
    expect(page.locator("#executor-events")).to_contain_text("Drained")
    expect(page.locator("#executor-recent")).to_contain_text("long-one")
    page.get_by_role("button", name="Resume").click()
    expect(head).not_to_contain_text("closed to new jobs")
    cluster.wait_final(later)
    for event in ("Draining", "Drained", "Resumed"):
        expect(page.locator("#executor-events")).to_contain_text(event)


def test_a_cordon_is_asked_for_by_keyboard_and_can_be_called_off(page: Page, node: str) -> None:
    page.goto(node)
    page.get_by_role("button", name="Cordon…").press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Cordon…").press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator("#executor-head")).to_contain_text("Closed to new jobs")
    page.goto("/executors/?state=CLOSED")
    expect(page.locator("#executor-list tbody tr")).to_have_count(1)
    page.goto("/executors/?state=LOST")
    expect(page.locator("#executor-list")).to_contain_text("No executor matches")


def test_the_same_is_done_in_djangos_admin(browser: Browser, cluster: Cluster, node: str) -> None:
    executor_id, job_id = node.split("/")[2], cluster.shell(LONG, name="in-the-admin")
    failed: list[str] = []

    def act(action: str, said: str) -> None:
        page.locator("#result_list tbody").get_by_role("checkbox").check()
        page.get_by_label("Action:").select_option(label=action)
        page.get_by_role("button", name="Go", exact=True).click()
        expect(page.locator(".messagelist")).to_contain_text(said)

    with page_of(browser, cluster.url) as page:
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.goto("/admin/")
        page.get_by_role("link", name="Executors", exact=True).last.click()
        page.get_by_label("Search").fill(cluster.tag)
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#result_list tbody tr")).to_have_count(1)
        act("Cordon: place nothing new", "1 cordoned.")
        assert [item["schedulable"] for item in cluster.executors()] == [False]
        page.locator("#changelist-filter").get_by_role("link", name="No", exact=True).click()
        expect(page.locator("#result_list tbody tr")).to_have_count(1)
        act("Drain: cordon, and wait for jobs to end", "1 draining.")
        page.locator("#result_list tbody").get_by_role("link").click()
        expect(page.locator("#events-group")).to_contain_text("Draining")
        page.goto(f"/admin/executors/executor/?q={executor_id}")
        act("Resume: take jobs again", "1 resumed.")
        cluster.wait_status(job_id, "RUNNING")
        page.goto("/admin/jobs/job/?q=in-the-admin")
        page.locator("#changelist-filter").get_by_role("link", name="Running").click()
        expect(page.locator("#result_list tbody tr")).to_have_count(1)
        act("Abort the selected jobs", "1 asked to abort")
        cluster.wait_final(job_id)
        page.goto(f"/admin/jobs/job/{job_id}/change/")
        expect(page.locator("#attempts-group")).to_contain_text(f"{cluster.tag}-a")
    assert failed == []


def test_labels_set_here_place_jobs_and_what_is_wrong_is_said_with_what_was_typed(
    page: Page, cluster: Cluster, node: str
) -> None:
    page.goto(node)
    page.get_by_role("button", name="Labels…").click()
    page.get_by_label("Labels, one a line").fill("rack=7\ntwo words=x")
    page.get_by_role("button", name="Save").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".errorlist")).to_contain_text("'two words' is no name for a label")
    expect(page.get_by_label("Labels, one a line")).to_have_value("rack=7\ntwo words=x")
    page.get_by_label("Labels, one a line").fill("rack=7")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#executor-resources")).to_contain_text("rack=7")
    cluster.wait_final(cluster.shell("true", labels={"rack": "7"}))


def test_the_page_shows_charts_images_and_versions(page: Page, cluster: Cluster, node: str) -> None:
    page.goto(node)
    expect(page.locator(".chart canvas")).to_have_count(3)
    expect(page.locator("#executor-images")).to_contain_text("workload-runner-test:latest")
    expect(page.locator("#executor-events")).to_contain_text("Joined")
    expect(page.locator("[data-chart=cpu] .chart-values")).to_contain_text("in use", timeout=40_000)


def test_a_new_node_joins_with_the_commands_parts_and_shows_on_the_page(
    page: Page, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page.goto("/executors/join/")
    expect(page.locator("main")).to_contain_text("Only this machine can join for now")
    expect(page.locator("#live-status")).to_have_text("Live")
    command = page.locator("#join-command").inner_text()
    assert f"REDIS_URL=redis://127.0.0.1:{cluster.redis_port}/0" in command
    assert "HEARTBEAT_INTERVAL=1" in command
    bundle = re.search(r"curl -fsS (\S+)", command)
    assert bundle is not None
    folder = tmp_path_factory.mktemp("node")
    archive = cluster.api.get(bundle[1])
    (folder / "agent.tar.gz").write_bytes(archive.content)
    subprocess.run(["tar", "xzf", "agent.tar.gz"], cwd=folder, check=True)
    # As the command goes on, with this test's Python in place of a new environment: no packages are installed.
    cluster.processes["agent-joined"] = subprocess.Popen(
        [sys.executable, "-m", "agent"],
        cwd=folder,
        env={**cluster.env, "PYTHONPATH": "", "AGENT_NAME": f"{cluster.tag}-joined", "LOG_DIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    expect(page.locator("#join-title")).to_have_text(f"{cluster.tag}-joined joined")
    expect(page.locator(".arrivals [data-new]")).to_contain_text("Online")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#join-copy")).not_to_have_text("Copy")


def test_the_list_narrows_while_one_types_and_the_address_leads_back(page: Page, cluster: Cluster, node: str) -> None:
    page.goto("/executors/")
    expect(page.locator("#live-status")).to_have_text("Live")
    page.keyboard.press("/")
    page.keyboard.type("no such node")
    expect(page.locator("#executor-list")).to_contain_text("No executor matches")
    expect(page).to_have_url(re.compile(r"/executors/\?text=no\+such\+node$"))
    page.go_back()
    expect(page.locator("#executor-list .row-link")).to_have_count(len(cluster.executors()))
    expect(page).to_have_url(re.compile(r"/executors/$"))
    page.get_by_label("Name, address, GPU or label").fill(cluster.tag)
    expect(page).to_have_url(re.compile(rf"text={cluster.tag}$"))
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("d")
    expect(page).to_have_url(re.compile(r"/$"))


def test_an_executor_is_forgotten_once_nothing_runs_there(page: Page, cluster: Cluster) -> None:
    executor_id = cluster.start_agent("b")
    job_id = cluster.shell("sleep 300", labels={})
    page.goto(f"/executors/{executor_id}/")
    cluster.kill("agent-b")
    expect(page.locator("#executor-head")).to_contain_text("Lost")
    press(page, "Forget…", "Forget")
    expect(page.locator("main")).to_contain_text("The executor was forgotten.")
    assert executor_id not in {item["executor_id"] for item in cluster.executors()}
    assert not cluster.redis.keys(f"executor:{executor_id}:*")
    cluster.api.post(f"/api/v1/jobs/{job_id}/abort")
    cluster.start_agent("b")
    wait_for("it to be back", lambda: executor_id in {item["executor_id"] for item in cluster.executors()})
