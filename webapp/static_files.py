"""Scripts, styles and pictures: out of memory, in the event loop, under addresses that change with what they hold.

A page asks for two dozen at once; a thread and the middleware for each would take longer than the page itself. As with
templates, what is changed on the disk is seen after a restart.
"""

import gzip
import hashlib
import mimetypes
import posixpath
import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from django.conf import settings
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import StaticFilesStorage

FOR_EVER = b"public, max-age=31536000, immutable"
ASK_AGAIN = b"no-cache"
"""For what is asked for under another version: the server it comes from may be older or newer than the page."""

IMPORT = re.compile(rb'@import url\("([^"]+)"\) layer\((\w+)\);')
VERSIONED = re.compile(r"(?:v-([0-9a-f]{12})/)?(.+)")


@dataclass
class File:
    content: bytes
    media_type: str

    @cached_property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'

    @cached_property
    def gzipped(self) -> bytes | None:
        """None where it would not be much smaller."""
        smaller = gzip.compress(self.content, mtime=0)
        return smaller if len(smaller) < 0.9 * len(self.content) else None


@cache
def all_files() -> dict[str, File]:
    """Every file that an app or static/ has, by its name. One of several of the same name is the first, as Django's."""
    contents: dict[str, bytes] = {}
    for finder in finders.get_finders():
        for name, storage in finder.list([]):
            if name not in contents:
                with storage.open(name) as file:
                    contents[name] = file.read()
    return {name: File(with_imports(name, contents), media_type(name)) for name in contents}


def with_imports(name: str, contents: dict[str, bytes]) -> bytes:
    """A style with what it imports into layers in the imports' places: one request instead of one after the other."""
    if not name.endswith(".css"):
        return contents[name]

    def layer(found: re.Match[bytes]) -> bytes:
        imported = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[1].decode()))
        return b"@layer %s {\n%s\n}" % (found[2], contents[imported])

    return IMPORT.sub(layer, contents[name])


def media_type(name: str) -> str:
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    is_text = guessed.startswith("text/") or guessed in ("application/javascript", "application/json")
    return f"{guessed}; charset=utf-8" if is_text else guessed


@cache
def version() -> str:
    """Of all files together, as scripts and styles name each other by relative addresses."""
    names = sorted(all_files().items())
    return hashlib.sha256("".join(f"{name} {file.etag}\n" for name, file in names).encode()).hexdigest()[:12]


class VersionedFiles(StaticFilesStorage):
    """What `{% static %}` asks for addresses."""

    def url(self, name: str | None) -> str:
        return super().url(f"v-{version()}/{name}")


class StaticFiles:
    """ASGI: answers what is below STATIC_URL, and leaves the rest to `application`."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.version, self.files = version(), all_files()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if not scope["path"].startswith(settings.STATIC_URL):
            await self.application(scope, receive, send)
            return
        status, headers, body = self._answer(scope)
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})

    def _answer(self, scope: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        if scope["method"] not in ("GET", "HEAD"):
            return 405, [(b"allow", b"GET, HEAD")], b""
        found = VERSIONED.fullmatch(scope["path"].removeprefix(settings.STATIC_URL))
        file = self.files.get(found[2]) if found else None
        if found is None or file is None:
            return 404, [(b"content-type", b"text/plain")], b"There is no such file."
        asked = dict(scope["headers"])
        headers = [
            (b"content-type", file.media_type.encode()),
            (b"cache-control", FOR_EVER if found[1] == self.version else ASK_AGAIN),
            (b"etag", file.etag.encode()),
            (b"vary", b"Accept-Encoding"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if file.etag.encode() in asked.get(b"if-none-match", b""):
            return 304, headers, b""
        if b"gzip" in asked.get(b"accept-encoding", b"") and (smaller := file.gzipped):
            return 200, [*headers, (b"content-encoding", b"gzip")], smaller
        return 200, headers, file.content
