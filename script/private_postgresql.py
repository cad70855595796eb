"""A PostgreSQL of a test run's or a benchmark's own, where the machine has one installed; thrown away afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from script.console import Problem
from script.private_redis import free_port

USER = "tests"


@dataclass(frozen=True, slots=True)
class Server:
    """`url` leads to an empty database on loopback, without a password; `pid` is that of the server's first process."""

    url: str
    port: int
    pid: int


@contextmanager
def private_postgresql(*settings: str) -> Iterator[Server]:
    """A running server, with `settings` such as `fsync=off` besides those it comes with. Raises Problem where there can
    be none."""
    programs = find_programs()
    if programs is None:
        raise Problem("initdb and pg_ctl were not found.")
    # The server refuses to run as root; Debian's package brings the user postgres.
    account = _account("postgres") if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="workload-runner-postgresql-") as folder:
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        data, port = f"{folder}/data", free_port()
        _quietly(account, programs / "initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        options += "".join(f" -c {setting}" for setting in settings)
        _quietly(account, programs / "pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            pid = int(Path(data, "postmaster.pid").read_text().split()[0])
            yield Server(f"postgres://{USER}@127.0.0.1:{port}/postgres", port, pid)
        finally:
            _quietly(account, programs / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


def find_programs() -> Path | None:
    """The newest folder with initdb and pg_ctl; Debian keeps them off PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    on_path = shutil.which("pg_ctl")
    if debian:
        return debian[-1].parent
    if on_path and shutil.which("initdb"):
        return Path(on_path).resolve().parent
    return None


def _account(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise Problem(f"PostgreSQL does not run as root, and there is no user {name}.") from None


def _quietly(account: pwd.struct_passwd | None, *command: str | Path) -> None:
    """Runs a command as `account`, or as ourselves; raises Problem with what it printed where it fails."""
    # To a file: the server that pg_ctl starts would keep a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        result = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=account and account.pw_uid,
            group=account and account.pw_gid,
            extra_groups=account and [],
        )
        if result.returncode != 0:
            output.seek(0)
            raise Problem(f"{Path(command[0]).name} failed: {output.read().decode(errors='replace').strip()}")
