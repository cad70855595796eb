"""Pictures every page of a lively demo in a real browser; see script/screenshots."""

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from bench.demo import Demo
from script import packages
from script.console import Problem, say

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "screenshots"
EXECUTORS, JOBS, DAYS, JOBS_PER_SECOND = 120, 20_000, 2, 2.5
LIVELY_SECONDS = 75
"""How long the demo plays first: the charts of use and the events want something to show."""
COLOURS = 256
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PROXIED = {"X-Forwarded-For": "192.0.2.1"}
"""Makes the server take the browser for a foreign one, which has to log in."""


def main() -> int:
    try:
        with (
            browser() as chromium,
            tempfile.TemporaryDirectory(prefix="workload-runner-screenshots-") as scratch,
            Demo(Path(scratch)) as demo,
        ):
            shown = play(demo)
            FOLDER.mkdir(exist_ok=True)
            for theme in ("light", "dark"):
                for size, viewport in (("wide", WIDE), ("phone", PHONE)):
                    shoot(chromium, demo, shown, theme, size, viewport)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    say(f"{sum(file.stat().st_size for file in FOLDER.glob('*.png')) / 1024**2:.1f} MB in {FOLDER}")
    return 0


@contextmanager
def browser() -> Iterator[Browser]:
    """Raises Problem where there is no Chromium and none can be installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if not any(map(shutil.which, names)):
        if not packages.can_install():
            raise Problem("The screenshots need Chromium: install it so that `chromium` is on PATH.")
        packages.install("chromium")
    binary = next(filter(None, map(shutil.which, names)))
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


def play(demo: Demo) -> dict[str, str]:
    """Bring the demo to life; the name of each picture and the page's address."""
    say(f"Seeding {EXECUTORS} executors and {JOBS:,} jobs")
    demo.seed(EXECUTORS, JOBS, DAYS)
    demo.start_web()
    demo.start_scheduler()
    demo.play(JOBS_PER_SECOND)
    say(f"Letting it play for {LIVELY_SECONDS} s")
    time.sleep(LIVELY_SECONDS)

    def newest(**query: str) -> str:
        return str(demo.api.get("/api/v1/jobs", params={"limit": "20", **query}).json()["jobs"][-1]["job_id"])

    busy = next(executor for executor in demo.executors() if executor["state"] == "ONLINE" and executor["gpus"])
    return {
        "dashboard": "/",
        "jobs": "/jobs/",
        "jobs-filtered": "/jobs/?state=FAILED&since=24h",
        "submit": "/jobs/new/",
        "job": f"/jobs/{newest(status='RUNNING')}/",
        "job-failed": f"/jobs/{newest(status='FAILED')}/",
        "executors": "/executors/",
        "executor": f"/executors/{busy['executor_id']}/",
        "join": "/executors/join/",
        "login": "/login/",
        "admin": "/admin/jobs/job/",
        "api": "/api/v1/docs",
    }


def shoot(
    chromium: Browser, demo: Demo, shown: dict[str, str], theme: str, size: str, viewport: dict[str, int]
) -> None:
    say(f"{theme}, {size}")
    for name, path in shown.items():
        context = chromium.new_context(
            base_url=demo.url,
            viewport=viewport,  # type: ignore[arg-type]
            color_scheme=theme,  # type: ignore[arg-type]
            reduced_motion="reduce",
            extra_http_headers=PROXIED if name == "login" else {},
        )
        page = context.new_page()
        page.goto(path)
        settle(page)
        keep(page.screenshot(animations="disabled"), FOLDER / f"{name}-{size}-{theme}.png")
        context.close()


def settle(page: Page) -> None:
    """Until scripts, charts and the first of what is live are there."""
    page.wait_for_load_state("networkidle")
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(1500)


def keep(picture: bytes, path: Path) -> None:
    """As a PNG with a palette, a third of the size; rare colours, as of small marks, are kept."""
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


if __name__ == "__main__":
    sys.exit(main())
