"""A Docker Engine of the test's own, which it may kill: own data, sockets, containerd and network."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import docker
import psutil

REGISTRY_PORT = 5000


class PrivateEngine:
    """A dockerd in `directory`, which must have a short path. Use as a context manager."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory, self._options = directory, options
        self.host = f"unix://{directory}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None
        self.client = docker.DockerClient(self.host, version="1.41")

    def __enter__(self) -> Self:
        (self._directory / "containerd.toml").write_text(
            'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        )
        self._start_containerd()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.resume()
        if not self._answers():
            self.end(signal.SIGKILL)
            self.start()
        for container in self.client.containers.list(all=True, ignore_removed=True):
            container.remove(force=True, v=True)
        self.client.close()
        self.end(signal.SIGTERM)
        if self._containerd is not None:
            self._containerd.terminate()
            self._containerd.wait(30)
        self._unmount()

    def _start_containerd(self) -> None:
        """As where systemd runs both: a containerd that dockerd does not take with it."""
        folder = self._directory
        command = [
            "containerd", f"--config={folder}/containerd.toml", f"--address={folder}/containerd.sock",
            f"--root={folder}/containerd", f"--state={folder}/containerd-state",
        ]  # fmt: skip
        with (folder / "containerd.log").open("ab") as output:
            self._containerd = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def _unmount(self) -> None:
        """dockerd mounts its data on itself, and containers' file systems below; one that was killed leaves that."""
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if Path(mount).is_relative_to(self._directory)]):
            subprocess.run(["umount", "--lazy", mount], check=True)

    def reboot(self) -> None:
        """Everything is gone at once, the containers too, and with it what lies in memory; then both start again."""
        self.end(signal.SIGKILL)
        assert self._containerd is not None
        self._containerd.kill()
        self._containerd.wait()
        for process in psutil.process_iter(["cmdline"]):
            if f"{self._directory}/containerd.sock" in (process.info["cmdline"] or []):
                for other in [process, *process.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        other.kill()
        self._unmount()
        for folder in ("exec", "containerd-state"):
            shutil.rmtree(self._directory / folder)
        self._start_containerd()
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        (self._directory / "docker.pid").unlink(missing_ok=True)  # one that was killed left it
        folder = self._directory
        command = [
            # In a network namespace of its own: started without a bridge, dockerd removes the host's docker0.
            "unshare", "--net", "dockerd", f"--host={self.host}", f"--pidfile={folder}/docker.pid",
            f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--containerd={folder}/containerd.sock",
            "--bridge=none", "--iptables=false", "--ip-forward=false", *self._options,
        ]  # fmt: skip
        with (folder / "dockerd.log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 30
        while not self._answers():
            tail = (folder / "dockerd.log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None and time.monotonic() < deadline, f"dockerd does not start:\n{tail}"
            time.sleep(0.1)

    def end(self, number: int) -> None:
        """Returns when it has ended."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    @contextlib.contextmanager
    def silent_registry(self) -> Iterator[str]:
        """The address of a registry that takes connections and says nothing; in the network that the engine has until
        it is started again."""
        assert self._process is not None
        inside = ["nsenter", "--target", str(self._process.pid), "--net"]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        listen = f"import socket, time; it = socket.create_server(('127.0.0.1', {REGISTRY_PORT})); print(flush=True)"
        registry = subprocess.Popen(
            [*inside, sys.executable, "-c", f"{listen}; time.sleep(600)"], stdout=subprocess.PIPE
        )
        assert registry.stdout is not None
        try:
            registry.stdout.readline()  # A pull before it listens is refused at once.
            yield f"127.0.0.1:{REGISTRY_PORT}"
        finally:
            registry.kill()
            registry.wait()
            registry.stdout.close()

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            return self._process is not None and bool(self.client.ping())
        except (docker.errors.DockerException, OSError):
            return False


def available() -> bool:
    return all(map(shutil.which, ("dockerd", "containerd", "unshare")))
