"""How long every page and every list of the API takes with a million jobs and a thousand executors.

    python -m bench.web
    python -m bench.web --postgres postgres://user:password@host/empty-database

One request at a time over loopback to one web process, until the answer is complete; 'static' is a small file from the
same server. With --data the seeded database is kept and used again.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.demo import Demo
from bench.report import milliseconds, percentile, print_machine, print_table

DAYS = 30
STATIC = "a static file", "/static/img/icon.svg"
HTML = {"Accept": "text/html"}


def pages(job: str, old_job: str, executor: str) -> list[tuple[str, str]]:
    return [
        ("dashboard", "/"),
        ("dashboard's charts, 24 h", "/history?range=24h"),
        ("jobs", "/jobs/"),
        ("jobs, half a million further", f"/jobs/?before={old_job}"),
        ("jobs, one state", "/jobs/?state=FAILED"),
        ("jobs, a rare state", "/jobs/?state=PENDING"),
        ("jobs, an executor's", f"/jobs/?executor={executor}"),
        ("jobs, an owner's", "/jobs/?owner=demo"),
        ("jobs, an image's", "/jobs/?image=registry.demo/train"),
        ("jobs, a label's", "/jobs/?label=demo%3Dyes"),
        ("jobs, of a time", "/jobs/?since=20d&until=10d"),
        ("jobs, words", "/jobs/?text=nightly+migrate"),
        ("jobs, words that nothing has", "/jobs/?text=nosuchword"),
        ("jobs, state, image and words", "/jobs/?state=FAILED&image=registry.demo/train&text=large"),
        ("jobs, sorted by priority", "/jobs/?sort=-priority"),
        ("submit a job", "/jobs/new/"),
        ("job", f"/jobs/{job}/"),
        ("executors", "/executors/"),
        ("executors, the tenth page", "/executors/?page=10"),
        ("executors, words", "/executors/?text=H100"),
        ("executor", f"/executors/{executor}/"),
        ("executor's charts, 24 h", f"/executors/{executor}/history/?range=24h"),
        ("join a node", "/executors/join/"),
        ("admin's jobs", "/admin/jobs/job/"),
    ]


def api_lists(job: str, old_job: str, executor: str) -> list[tuple[str, str]]:
    return [
        ("API jobs", "/api/v1/jobs"),
        ("API jobs, 1,000 at once", "/api/v1/jobs?limit=1000"),
        ("API jobs, half a million further", f"/api/v1/jobs?cursor={old_job}"),
        ("API jobs, one state", "/api/v1/jobs?status=FAILED"),
        ("API jobs, an executor's", f"/api/v1/jobs?executor={executor}"),
        ("API jobs, words", "/api/v1/jobs?q=nightly+migrate"),
        ("API job", f"/api/v1/jobs/{job}"),
        ("API executors, all", "/api/v1/executors"),
        ("API executor", f"/api/v1/executors/{executor}"),
        ("API stats", "/api/v1/stats"),
    ]


def times(client: httpx.Client, path: str, requests: int) -> list[float]:
    """Seconds of each request, after two that warm up. Raises httpx.HTTPStatusError where one is not answered."""
    taken = []
    for _ in range(requests + 2):
        begun = time.perf_counter()
        client.get(path).raise_for_status()
        taken.append(time.perf_counter() - begun)
    return taken[2:]


def measure(demo: Demo, executors: int, jobs: int, requests: int, database: str) -> None:
    demo.seed(executors, jobs, DAYS)
    demo.start_web()
    with httpx.Client(base_url=demo.url, timeout=60) as api, httpx.Client(base_url=demo.url, timeout=60) as browser:
        browser.headers.update(HTML)
        job = api.get("/api/v1/jobs?limit=1&status=SUCCEEDED").json()["jobs"][0]["job_id"]
        old_job = api.get(f"/api/v1/jobs?limit=1&until={DAYS // 2}d").json()["jobs"][0]["job_id"]
        executor = api.get("/api/v1/executors").json()["executors"][0]["executor_id"]
        load = os.getloadavg()[0]
        static = times(api, STATIC[1], requests)
        static_p95 = percentile(static, 95)
        rows = [(STATIC[0], milliseconds(percentile(static, 50)), milliseconds(static_p95), "1.0")]
        wanted = [(browser, *page) for page in pages(job, old_job, executor)]
        wanted += [(api, *page) for page in api_lists(job, old_job, executor)]
        for client, name, path in wanted:
            taken = times(client, path, requests)
            p95 = percentile(taken, 95)
            rows.append((name, milliseconds(percentile(taken, 50)), milliseconds(p95), f"{p95 / static_p95:.1f}"))
    print_machine(
        f"Pages and lists, {database}",
        jobs=f"{jobs:,}",
        executors=f"{executors:,}",
        requests_each=requests,
        load_before=f"{load:.1f}",
        load_after=f"{os.getloadavg()[0]:.1f}",
    )
    print_table(("page", "p50", "p95", "× static"), rows)


@contextmanager
def folder(kept: Path | None) -> Iterator[Path]:
    if kept:
        yield kept.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="workload-runner-bench-") as made:
            yield Path(made)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=100, help="of each page (default 100)")
    parser.add_argument("--postgres", metavar="URL", help="an empty PostgreSQL database instead of SQLite")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep what is seeded here, and use it again")
    arguments = parser.parse_args()
    env = {"DATABASE_URL": arguments.postgres} if arguments.postgres else {}
    with folder(arguments.data) as directory, Demo(directory, keep=bool(arguments.data), **env) as cluster:
        name = "PostgreSQL" if arguments.postgres else "SQLite"
        measure(cluster, arguments.executors, arguments.jobs, arguments.requests, name)
