"""How long until a browser paints a page for the first time, over loopback: with nothing in its cache, and again.

    python -m bench.paint

Real Chromium, one web process, nothing else to do; the time is the browser's own 'first contentful paint', from the
beginning of the navigation. Beside it a picture alone from the same server, which is what the browser itself takes.
"""

import argparse
import os
import tempfile
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page

from bench.demo import Demo
from bench.report import milliseconds, percentile, print_machine, print_table
from script.screenshots import browser

PAINTED = """() => new Promise((tell) => {
    const seen = () => performance.getEntriesByName('first-contentful-paint')[0];
    if (seen()) return tell(seen().startTime);
    new PerformanceObserver(() => seen() && tell(seen().startTime)).observe({type: 'paint', buffered: true});
})"""
LEAST = "a picture", "/static/img/icon.svg"


def pages(job: str, executor: str) -> list[tuple[str, str]]:
    return [
        LEAST,
        ("dashboard", "/"),
        ("jobs", "/jobs/"),
        ("job", f"/jobs/{job}/"),
        ("submit a job", "/jobs/new/"),
        ("executors", "/executors/"),
        ("executor", f"/executors/{executor}/"),
        ("join a node", "/executors/join/"),
    ]


def painted(page: Page, address: str) -> float:
    """Seconds until the first paint of something that can be seen."""
    page.goto(address)
    return float(page.evaluate(PAINTED)) / 1000


def visits(chromium: Browser, address: str, count: int) -> tuple[list[float], list[float]]:
    """So many first visits, each with an empty cache, and the second one of each."""
    first, again = [], []
    for _ in range(count):
        context = chromium.new_context()
        page = context.new_page()
        first.append(painted(page, address))
        again.append(painted(page, address))
        context.close()
    return first, again


def run(executors: int, jobs: int, count: int) -> None:
    with (
        browser() as chromium,
        tempfile.TemporaryDirectory(prefix="workload-runner-bench-") as folder,
        Demo(Path(folder)) as demo,
    ):
        demo.seed(executors, jobs, 1)
        demo.start_web()
        api = httpx.Client(base_url=demo.url, timeout=60)
        job = api.get("/api/v1/jobs?limit=1&status=SUCCEEDED").json()["jobs"][0]["job_id"]
        executor = api.get("/api/v1/executors").json()["executors"][0]["executor_id"]
        visits(chromium, demo.url, 2)  # the browser's and the server's own first
        load, rows = os.getloadavg()[0], []
        for name, path in pages(job, executor):
            columns = [
                milliseconds(percentile(taken, part))
                for taken in visits(chromium, demo.url + path, count)
                for part in (50, 95)
            ]
            rows.append([name, *columns])
    print_machine(
        "First paint", jobs=f"{jobs:,}", executors=f"{executors:,}", visits_each=count, load_before=f"{load:.1f}"
    )
    print_table(("page", "first visit, p50", "p95", "second visit, p50", "p95"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--visits", type=int, default=20, help="of each page")
    arguments = parser.parse_args()
    run(arguments.executors, arguments.jobs, arguments.visits)
