"""Scripts, styles and pictures: what a browser gets, keeps, and asks for again."""

import asyncio
import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.templatetags.static import static

from webapp.static_files import StaticFiles


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"from the application"})


def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": named}
    asyncio.run(StaticFiles(application)(scope, receive, send))
    start, body = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]


def on_disk(name: str) -> bytes:
    path = finders.find(name)
    assert path
    return Path(path).read_bytes()


def test_a_file_comes_as_it_is_and_is_kept_for_ever_under_the_address_that_pages_name() -> None:
    status, headers, body = ask(static("js/app.js"))
    assert (status, body) == (200, on_disk("js/app.js"))
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-length"] == str(len(body))
    assert "immutable" in headers["cache-control"]


def test_files_of_other_apps_are_there_too() -> None:
    assert ask(static("admin/css/base.css"))[0] == 200


@pytest.mark.parametrize("version", ["", "v-0123456789ab/"])
def test_under_another_version_or_none_the_file_is_asked_for_again(version: str) -> None:
    status, headers, body = ask(f"/static/{version}js/app.js")
    assert (status, body) == (200, on_disk("js/app.js"))
    assert headers["cache-control"] == "no-cache"


def test_what_a_browser_has_is_not_sent_again() -> None:
    etag = ask("/static/js/app.js")[1]["etag"]
    status, headers, body = ask("/static/js/app.js", if_none_match=f'"other", W/{etag}')
    assert (status, headers["etag"], body) == (304, etag, b"")
    assert ask("/static/js/app.js", if_none_match='"other"')[0] == 200


def test_text_is_sent_compressed_to_who_takes_it() -> None:
    _, headers, body = ask(static("js/app.js"), accept_encoding="gzip, deflate, br")
    assert (headers["content-encoding"], headers["vary"]) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(body) == on_disk("js/app.js")
    assert int(headers["content-length"]) == len(body) < len(on_disk("js/app.js"))


def test_a_style_comes_with_what_it_imports_in_one_piece() -> None:
    body = ask(static("css/app.css"))[2].decode()
    assert "@import" not in body
    pico = on_disk("vendor/pico-2.1.1.min.css").decode()
    assert "@layer pico {" in body and pico in body
    assert body.index(pico) < body.index("--ground:")
    for address in re.findall(r"url\(\s*['\"]?([^'\")]{5})", body):
        assert address == "data:", "an address in an imported style would mean another file"


@pytest.mark.parametrize("path", ["js/none.js", "../manage.py", "v-0123456789ab/", "", "%2e%2e/manage.py", "js"])
def test_nothing_else_is_answered(path: str) -> None:
    assert ask(f"/static/{path}")[0] == 404


def test_files_can_only_be_read() -> None:
    status, headers, _ = ask(static("js/app.js"), "POST")
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    status, headers, body = ask(static("js/app.js"), "HEAD")
    assert (status, body) == (200, b"")
    assert headers["content-length"] == str(len(on_disk("js/app.js")))


def test_everything_else_goes_to_the_application() -> None:
    assert ask("/jobs/")[2] == b"from the application"
