"""The real parts that tests and benchmarks start: a Redis and a registry of their own."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import redis


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
