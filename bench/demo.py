"""The demo of `manage.py seeddemo` as real processes of its own: for what measures or pictures the pages. No Docker."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.cluster import ROOT, Cluster, wait_for
from tests.parts import free_port

SEEDED = "seeded"


class Demo(Cluster):
    """A private Redis and database, and on demand the web, the scheduler and the demo's agents. A context manager.

    With `keep`, a directory that was seeded earlier is used as it is, whatever numbers `seed` then gets.
    """

    def __init__(self, directory: Path, keep: bool = False, **env: str) -> None:
        super().__init__(directory, "", None, **{"HEARTBEAT_INTERVAL": "10", "LEASE_SECONDS": "15", **env})  # type: ignore[arg-type]
        self._keep = keep

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start_redis(empty=not self._keep)
        self._run("migrate", "-v0")
        return self

    def _everything(self) -> list[Any]:
        """No container: the demo's agents run nothing."""
        return []

    def seed(self, executors: int, jobs: int, days: float) -> None:
        """Raises subprocess.CalledProcessError where seeddemo refuses; it then has said why."""
        stamp = self.directory / SEEDED
        if self._keep and stamp.exists():
            return
        self._run("seeddemo", "--executors", str(executors), "--jobs", str(jobs), "--days", str(days))
        stamp.touch()

    def play(self, rate: float) -> None:
        """Bring the executors to life, and submit as many jobs a second."""
        self._start("demo", ["manage.py", "seeddemo", "--live", "--rate", str(rate)])

    def start_second_web(self) -> str:
        """Another web server on the same data; returns its address when it answers."""
        port = free_port()
        self._start("web2", ["-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "webapp.asgi:application"])
        address = f"http://127.0.0.1:{port}"
        wait_for("the second web server", lambda: "Listening on TCP" in self.output("web2"), timeout=60)
        return address

    def _run(self, *arguments: str) -> None:
        command = [sys.executable, "manage.py", *arguments]
        subprocess.run(command, cwd=ROOT, env=self.env, check=True, stdout=sys.stderr)
