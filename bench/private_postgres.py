"""A PostgreSQL of a benchmark's own, where the machine has one installed; with the settings it comes with."""

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from tests.parts import free_port

USER = "postgres"


def binary(name: str) -> str | None:
    """The newest of Debian's, which are on no PATH, or what PATH has."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    return str(debian[-1]) if debian else shutil.which(name)


class PrivatePostgres:
    """A server on loopback that trusts this machine, with an empty database. A context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"postgres://{USER}@127.0.0.1:{self.port}/{USER}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.directory.mkdir()
        # It refuses to run as root.
        user = USER if os.getuid() == 0 else None
        if user:
            shutil.chown(self.directory, user, pwd.getpwnam(user).pw_gid)
        data = self.directory / "data"
        initdb = [binary("initdb") or "initdb", "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8"]
        subprocess.run(initdb, user=user, cwd=self.directory, check=True, stdout=subprocess.DEVNULL)
        server = [binary("postgres") or "postgres", "-D", str(data), "-p", str(self.port), "-k", str(self.directory)]
        with (self.directory / "postgres.out").open("wb") as output:
            self._process = subprocess.Popen(
                server, user=user, cwd=self.directory, stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url).close()
                return self
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
