"""An image for the sample job: the real alpine where it can be had quickly, else one made from a static busybox."""

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import docker
import requests

from script import packages
from script.console import Problem, say

ALPINE = "alpine:latest"
BUSYBOX = "workload-runner-busybox:latest"
PULL_SECONDS = 8
CONTENTS = "workload-runner.contents"
"""The label of an image made here: a hash of what it was made from."""
ELF_PROGRAM_HEADER_INTERPRETER = 3
ENGINE_ERRORS = (docker.errors.DockerException, requests.RequestException)


def sample_image(client: docker.DockerClient) -> str | None:
    """The name of an image to run the sample job in; None, having said why, where none can be had."""
    if _has(client, BUSYBOX) and _has(client, ALPINE) and _id(client, ALPINE) == _id(client, BUSYBOX):
        say(f"Sample image: {ALPINE}, which here is the stand-in made from busybox; docker pull {ALPINE} replaces it")
        return ALPINE
    if _has(client, ALPINE):
        say(f"Sample image: {ALPINE}, already here")
        return ALPINE
    say(f"Sample image: trying to pull {ALPINE} for {PULL_SECONDS} seconds")
    if _pull(client, ALPINE):
        say(f"Sample image: {ALPINE}, pulled")
        return ALPINE
    try:
        import_busybox(client, BUSYBOX)
    except Problem as problem:
        say(f"No sample image: {ALPINE} cannot be pulled here. {problem}")
        return None
    client.images.get(BUSYBOX).tag(*ALPINE.split(":"))
    say(
        f"Sample image: {ALPINE} cannot be pulled here, so {BUSYBOX} was made from this machine's static busybox and"
        f" also tagged {ALPINE}; it is NOT Alpine Linux. docker pull {ALPINE} replaces it"
    )
    return ALPINE


def import_busybox(client: docker.DockerClient, name: str) -> None:
    """Makes the image `name`, or leaves it where it is there as it would be made: a static busybox with all its
    applets, a shell among them. No registry is needed. One that was made otherwise goes, where nothing else uses it.

    Raises Problem where this machine has no static busybox and none can be installed, or the engine refuses.
    """
    repository, _, tag = name.rpartition(":")
    archive = _file_system(_static_busybox())
    contents = hashlib.sha256(archive).hexdigest()
    try:
        before = client.images.get(name) if _has(client, name) else None
        if before is not None and before.labels.get(CONTENTS) == contents:
            return
        label = f"LABEL {CONTENTS}={contents}"
        client.api.import_image_from_data(archive, repository=repository, tag=tag, changes=[label])
        if before is not None and before.tags == [name]:
            with contextlib.suppress(docker.errors.APIError):  # A container may use it yet.
                client.images.remove(str(before.id))
    except ENGINE_ERRORS as error:
        raise Problem(f"The engine did not import the image {name}: {error}") from error


def _has(client: docker.DockerClient, name: str) -> bool:
    return bool(client.images.list(name))


def _id(client: docker.DockerClient, name: str) -> str:
    return str(client.images.get(name).id)


def _pull(client: docker.DockerClient, name: str) -> bool:
    """Whether the pull ended well in time. One that is too slow goes on in the background and may serve next time."""
    pulled = threading.Event()

    def pull() -> None:
        try:
            client.images.pull(name)
            pulled.set()
        except ENGINE_ERRORS:
            pass

    thread = threading.Thread(target=pull, daemon=True)
    thread.start()
    thread.join(PULL_SECONDS)
    return pulled.is_set()


def _static_busybox() -> str:
    binary = shutil.which("busybox")
    if (binary is None or not _is_static(binary)) and packages.can_install():
        packages.install("busybox-static")
        binary = shutil.which("busybox")
    if binary is None or not _is_static(binary):
        raise Problem("A static busybox would serve: sudo apt-get install busybox-static")
    return os.path.realpath(binary)


def _is_static(binary: str) -> bool:
    """Whether a 64-bit ELF file names no dynamic loader."""
    with Path(binary).open("rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            return False
        offset = int.from_bytes(header[32:40], "little")
        entry_size, entries = int.from_bytes(header[54:56], "little"), int.from_bytes(header[56:58], "little")
        file.seek(offset)
        table = file.read(entry_size * entries)
    kinds = {int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table), entry_size)}
    return ELF_PROGRAM_HEADER_INTERPRETER not in kinds


def _file_system(busybox: str) -> bytes:
    """A tar archive of the smallest root file system that a shell is at home in."""
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "etc", "root", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(busybox, arcname="bin/busybox")
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        for path, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
            ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
