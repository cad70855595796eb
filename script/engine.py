"""The Docker Engine: the one that answers, else, as root on Debian or Ubuntu, the distribution's, started by us.

A dockerd that we started may come to serve other clones as well. Each user of it holds a shared lock for as long as it
runs, and the last one to leave stops it.
"""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import docker
import psutil
import requests

from script import packages
from script.console import Problem, say

SOCKET = Path("/var/run/docker.sock")
OURS = Path("/run/workload-runner-dockerd")
"""Holds the pid and start time of the dockerd that a script started; locked shared by all who use the engine."""
LEFT_OVERS = {Path("/var/run/docker.pid"): "dockerd", Path("/var/run/docker/containerd/containerd.pid"): "containerd"}
START_SECONDS = 60
STOP_SECONDS = 30


@contextmanager
def available_engine(log: Path) -> Iterator[docker.DockerClient]:
    """A client of an engine that answers; a dockerd of our own writes to `log`.

    Raises Problem where there is none and none can be had. Running containers outlive a dockerd of ours.
    """
    client = _client()
    if client is None:
        _check_that_we_may_start_one()
        if not shutil.which("dockerd"):
            packages.install("docker.io")
        client = _client(patience=3) or _start(log)
    say(f"Docker Engine {client.version()['Version']}")
    lock = _join()
    try:
        yield client
    finally:
        client.close()
        if lock is not None:
            _leave(lock)


def _client(patience: float = 0) -> docker.DockerClient | None:
    deadline = time.monotonic() + patience
    while True:
        try:
            client = docker.from_env()
            client.ping()
            return client
        except (docker.errors.DockerException, requests.RequestException):
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.1)


def _check_that_we_may_start_one() -> None:
    if host := os.environ.get("DOCKER_HOST"):
        raise Problem(f"No Docker Engine answers at DOCKER_HOST={host}. Start it, or unset DOCKER_HOST.")
    if SOCKET.exists() and not os.access(SOCKET, os.R_OK | os.W_OK):
        raise Problem(
            f"A Docker Engine is here, but you may not use {SOCKET}.\n"
            "Join its group with: sudo usermod -aG docker $USER, then log in again."
        )
    if not packages.can_install():
        raise Problem(
            "No Docker Engine answers, and only root on Debian or Ubuntu can have it installed and started here.\n"
            "Start it with: sudo systemctl start docker, or install it: sudo apt-get install docker.io\n"
            "(other systems: https://docs.docker.com/engine/install/), and run this again."
        )


def _start(log: Path) -> docker.DockerClient:
    say(f"No Docker Engine answers: starting dockerd, which logs to {log}")
    _remove_left_overs()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["dockerd", "--live-restore"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = psutil.Process(process.pid).create_time()
    deadline = time.monotonic() + START_SECONDS
    while (client := _client()) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise Problem(f"dockerd did not start; the end of its log, {log}:\n{tail}")
        time.sleep(0.1)
    if process.poll() is None:  # else another clone was quicker to start one
        OURS.write_text(f"{process.pid} {started}")
    return client


def _remove_left_overs() -> None:
    """Pid files of a dead daemon whose number another process has meanwhile: they keep a new dockerd from starting."""
    for path, name in LEFT_OVERS.items():
        try:
            alive = psutil.Process(int(path.read_text())).name() == name
        except (OSError, ValueError, psutil.NoSuchProcess):
            alive = False
        if not alive:
            path.unlink(missing_ok=True)


def _join() -> TextIO | None:
    """The shared lock on a dockerd that a script started; None where the engine is somebody else's."""
    if _our_dockerd() is None:
        return None
    lock = OURS.open()
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _leave(lock: TextIO) -> None:
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("dockerd goes on: another script still uses it and will stop it")
            return
        process = _our_dockerd()
        if process is None or os.geteuid() != 0:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
        OURS.unlink(missing_ok=True)


def _our_dockerd() -> psutil.Process | None:
    try:
        pid, started = OURS.read_text().split()
        process = psutil.Process(int(pid))
        return process if process.create_time() == float(started) else None
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
