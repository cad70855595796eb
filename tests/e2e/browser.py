"""A real browser for the tests of pages, and what must never happen in one."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

WAIT = 30_000
"""Milliseconds to wait for something that takes a container."""
NOT_OURS = "ERR_NETWORK_CHANGED"
"""What Chromium says of what it was loading when a container's network came or went; a page then loads itself again."""


@contextmanager
def chromium() -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("NO CHROMIUM IS INSTALLED, so no page was looked at")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Browser, url: str, *expected: str, **options: Any) -> Iterator[Page]:
    """A page whose console errors and script errors fail the test, but those that match one of `expected`."""
    context = browser.new_context(base_url=url, **{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    page, errors = context.new_page(), list[str]()

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            errors.append(f"{message.text} {message.location['url']}")

    page.on("console", heard)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    unexpected = [error for error in errors if not any(re.search(pattern, error) for pattern in (NOT_OURS, *expected))]
    assert not unexpected, unexpected
