"""The API's documentation in a real browser: what is filled in is sent, and the answer shown."""

import json
import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.cluster import Cluster
from tests.e2e.browser import page_of

pytestmark = [pytest.mark.docker, pytest.mark.browser]


def opened(page: Page, title: str) -> Locator:
    """The operation of this title, unfolded."""
    item = page.locator("details.api-item", has_text=title).first
    item.locator("summary").first.click()
    return item


def sent(item: Locator, status: str) -> str:
    """The answer to what is filled in."""
    item.get_by_role("button", name="Send").click()
    expect(item.get_by_role("status")).to_have_text(status)
    answer = item.get_by_role("region", name="Answer")
    expect(answer).to_have_text(re.compile(r"\S"))
    return answer.inner_text()


def test_a_job_is_submitted_found_and_followed_from_the_page(browser: Browser, web_alone: Cluster) -> None:
    with page_of(browser, web_alone.url, "status of (404|422)") as page:
        page.goto("/api/v1/docs")
        submit = opened(page, "Submit a job")
        submit.get_by_label("Idempotency-Key").fill("mine")
        job_id = json.loads(sent(submit, "Answered 201"))["job_id"]
        assert json.loads(sent(submit, "Answered 201"))["job_id"] == job_id, "under the same key"
        submit.get_by_label("Body").fill('{"docker_image": ""}')
        assert "docker_image" in json.loads(sent(submit, "Answered 422"))["error"]["fields"]
        listed = opened(page, "List jobs, newest first")
        listed.get_by_label("status").fill("PENDING, RUNNING")
        assert [job["job_id"] for job in json.loads(sent(listed, "Answered 200"))["jobs"]] == [job_id]
        listed.get_by_text("The same with curl").click()
        expect(listed.get_by_role("region", name="The same with curl")).to_contain_text(
            "status=PENDING&status=RUNNING'"
        )
        look = opened(page, "Look at a job")
        look.get_by_label("job_id").fill("no such job")
        assert json.loads(sent(look, "Answered 404"))["error"]["code"] == "job_not_found"
        submit.get_by_role("link", name="JobSubmission").click()
        expect(page.locator("#JobSubmission")).to_contain_text("[registry/]name[:tag][@digest]")
        expect(page.locator("#JobSubmission table")).to_be_visible()
