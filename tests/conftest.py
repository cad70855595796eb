"""Real parts for the tests: a private Redis, the Docker Engine, an image made from a static busybox."""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import redis
from pytest_django.fixtures import SettingsWrapper

from executors import broker

TEST_IMAGE = "workload-runner-test:latest"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def start_redis(directory: Path, port: int) -> subprocess.Popen[bytes]:
    """A Redis server of our own on loopback, answering when this returns."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    assert binary, "The tests need redis-server or valkey-server; script/test installs it."
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while True:
        try:
            redis.Redis(port=port).ping()
            return process
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis that belongs to this test run alone."""
    port = free_port()
    process = start_redis(tmp_path_factory.mktemp("redis"), port)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait()


@pytest.fixture
def redis_client(redis_server: str, settings: SettingsWrapper) -> Iterator[redis.Redis]:
    """An empty Redis that the server's code uses too (`executors.broker`)."""
    settings.REDIS_URL = redis_server
    client = broker.client()
    client.flushall()
    yield client


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The real engine. Tests that need it are skipped by name where none answers."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"NO DOCKER ENGINE ANSWERS, so this test proves nothing here: {error}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def test_image(docker_client: docker.DockerClient) -> str:
    """The name of a small image with a shell, made from Debian's static busybox: no registry is needed."""
    return make_busybox_image(docker_client, TEST_IMAGE)


def make_busybox_image(client: docker.DockerClient, name: str) -> str:
    busybox = shutil.which("busybox")
    assert busybox, "The tests need Debian's busybox-static; script/test installs it."
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "root"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(os.path.realpath(busybox), arcname="bin/busybox")
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        passwd = b"root:x:0:0:root:/root:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(passwd)
        tar.addfile(entry, io.BytesIO(passwd))
    repository, _, tag = name.partition(":")
    client.api.import_image_from_data(buffer.getvalue(), repository=repository, tag=tag or "latest")
    return name
