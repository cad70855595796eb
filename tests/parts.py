"""The real parts that tests and benchmarks start: a Redis of their own, and a small image made without a registry."""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import docker
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
