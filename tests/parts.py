"""The parts that tests and benchmarks start, each of their own: a Redis, a registry, a database with its tables."""

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import redis

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def start_redis(directory: Path, port: int, *options: str) -> subprocess.Popen[bytes]:
    """A Redis server of our own on loopback, answering when this returns; it forgets everything when it ends, unless
    `options` say otherwise."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    assert binary, "The tests need redis-server or valkey-server; script/test installs it."
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while True:
        try:
            redis.Redis(port=port).ping()
            return process
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)


def start_registry(directory: Path, port: int, more: str = "") -> subprocess.Popen[bytes] | None:
    """An image registry on loopback, answering when this returns, with `more` in its configuration; None where Debian's
    docker-registry is missing."""
    binary = shutil.which("docker-registry") or shutil.which("registry")
    if binary is None:
        return None
    config = directory / "config.yml"
    storage = f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}"
    config.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{more}")
    process = subprocess.Popen([binary, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/v2/")
            return process
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the registry did not start"
            time.sleep(0.02)


def write_database(path: Path) -> None:
    """An SQLite database with all tables and no rows. Made once a process, as that takes a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty_database())


@functools.cache
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "db.sqlite3")
        env = {**os.environ, "VAR_DIR": folder, "LOG_DIR": folder, "DATABASE_URL": f"sqlite:///{path}"}
        command = [sys.executable, "manage.py", "migrate", "-v0", "--skip-checks"]
        subprocess.run(command, cwd=ROOT, env=env, check=True)
        return path.read_bytes()
