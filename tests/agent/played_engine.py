"""A Docker Engine that is played: a real HTTP server on a real socket, which answers what a real one was heard to."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

CONTAINER = "0c56a7322cd73b5cf7c243e68624060e0163afd13d841a1aa45e7cd7acc9ac73"
VERSION = {"Version": "20.10.24+dfsg1", "ApiVersion": "1.41", "Arch": "amd64"}
NO_LOGS = "can not get logs from container which is dead or marked for removal"

REMOVING: dict[str, Any] = {
    "Id": CONTAINER,
    "Created": "2026-11-26T08:11:28.380746991Z",
    "State": {
        "Status": "removing",
        "Running": False,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": True,
        "Pid": 0,
        "ExitCode": 3,
        "Error": "",
        "StartedAt": "2026-11-26T08:11:28.57633986Z",
        "FinishedAt": "2026-11-26T08:11:34.73541804Z",
    },
    "Image": "sha256:de91fb13e74d92e05f2dba837908db5e12bdac0ff3a33bd97bfbee9aeef64c25",
    "Config": {"Cmd": ["sh", "-c", "exit 3"], "Labels": {}},
    "HostConfig": {"NetworkMode": "default"},
}
"""What Docker 20.10 says of a container of 120,000 files, which takes it a second to remove; its settings left out."""


class PlayedEngine(ThreadingUnixStreamServer):
    """`container` is all it has; every call to change something is refused as the real one does then."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.container: dict[str, Any] | None = None
        self.ended = threading.Event()
        super().__init__(str(path), _Handler)

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        if path == "/version":
            return 200, VERSION
        if path == "/_ping":
            return 200, "OK"
        if path in ("/containers/json", "/images/json"):
            return 200, []
        if self.container is None or CONTAINER not in path:
            return 404, {"message": f"No such container: {path}"}
        if method == "DELETE":
            return 409, {"message": f"removal of container {CONTAINER} is already in progress"}
        if path.endswith("/json"):
            return 200, self.container
        return 409, {"message": NO_LOGS}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PlayedEngine

    def do_GET(self) -> None:
        path = re.sub(r"^/v[\d.]+", "", self.path.partition("?")[0])
        if path == "/events":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            self.server.ended.wait()
            return
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, said = self.server.answer(self.command, path)
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def address_string(self) -> str:
        return "agent"

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def played_engine(path: Path) -> Iterator[PlayedEngine]:
    with PlayedEngine(path) as engine:
        thread = threading.Thread(target=engine.serve_forever, name="played engine")
        thread.start()
        yield engine
        engine.ended.set()
        engine.shutdown()
        thread.join()
