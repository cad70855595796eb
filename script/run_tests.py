"""What script/test does once .venv exists: what the tests need, the linters, the tests on PostgreSQL and on SQLite.

Those with containers mostly wait, so they run beside the others; those with a browser run alone, as they look at time.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from script import packages
from script.console import Problem, say
from script.engine import available_engine
from script.private_postgresql import private_postgresql

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

NEEDED = {
    "redis-server": "redis-server",
    "dockerd": "docker.io",
    "busybox": "busybox-static",
    "docker-registry": "docker-registry",
    "chromium": "chromium",
    "psql": "postgresql",
}
"""Commands that the tests look for on PATH, and the Debian packages that have them."""

CHECKS: tuple[tuple[str, list[str | Path]], ...] = (
    ("Formatting", [BIN / "ruff", "format", "--check", "."]),
    ("Lint", [BIN / "ruff", "check", "."]),
    ("Types", [BIN / "mypy"]),
    ("Import direction", [BIN / "lint-imports"]),
    ("Migrations complete", [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"]),
)

POSTGRESQL_TESTS = ("tests/jobs", "tests/executors")
BROWSER_TESTS = "tests/e2e"


def main(arguments: Sequence[str]) -> int:
    # A kill must unwind as Ctrl-C does, or the dockerd we started would stay.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    os.chdir(ROOT)
    if not arguments and not _checks_pass():
        return 1
    _install_what_is_missing()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workload-runner-tests-")))
        try:
            stack.enter_context(available_engine(scratch / "dockerd.log"))
        except Problem as problem:
            say(f"NO DOCKER ENGINE: the tests that need one are skipped, and prove nothing. {problem}")
        if arguments:
            return _pytest(arguments)
        return _run_everything(scratch)


def _checks_pass() -> bool:
    failed = []
    for name, command in CHECKS:
        say(name)
        if subprocess.run(command).returncode != 0:
            failed.append(name)
    if failed:
        say(f"FAILED: {', '.join(failed)}. The tests were not run; script/test tests runs them alone.")
    return not failed


def _install_what_is_missing() -> None:
    missing = {command: package for command, package in NEEDED.items() if not shutil.which(command)}
    if not missing:
        return
    if not packages.can_install():
        say(f"Not on PATH, so the tests that need them fail or are skipped: {', '.join(missing)}")
        return
    try:
        packages.install(*missing.values())
    except Problem as problem:
        say(str(problem))


def _run_everything(scratch: Path) -> int:
    """0 where all passed, else the exit code of the first run that did not."""
    but_browser = f"--ignore={BROWSER_TESTS}"
    output = scratch / "docker-tests"
    with output.open("wb") as file, _running(("-m", "docker", "tests", but_browser), file) as beside:
        results = [_run_on_postgresql()]
        say("Tests without Docker")
        results.append(_pytest(("-m", "not docker", "tests", but_browser)))
        say("Tests with Docker, which have run beside those")
        results.append(_show(beside, output))
    say("Tests with a browser")
    results.append(_pytest((BROWSER_TESTS,)))
    return next(filter(None, results), 0)


def _run_on_postgresql() -> int:
    """pytest's exit code; 0 where there is no PostgreSQL to run on."""
    try:
        with private_postgresql("fsync=off") as server:
            say(f"Tests on PostgreSQL: {' '.join(POSTGRESQL_TESTS)}")
            return _pytest(("-m", "database and not docker", *POSTGRESQL_TESTS), DATABASE_URL=server.url)
    except Problem as problem:
        say(f"NO POSTGRESQL: nothing was tested on it. {problem}")
        return 0


def _pytest(arguments: Sequence[str], **env: str) -> int:
    with _running(arguments, None, **env) as process:
        return process.wait()


def _show(process: subprocess.Popen[bytes], output: Path) -> int:
    """What the process has written and still writes to `output`, until it ends; its exit code."""
    with output.open("rb") as file:
        ended = False
        while not ended:
            ended = process.poll() is not None
            sys.stdout.buffer.write(file.read())
            sys.stdout.buffer.flush()
            time.sleep(0 if ended else 0.5)
    return process.returncode


@contextmanager
def _running(arguments: Sequence[str], output: IO[bytes] | None, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """pytest, which ends when the context does."""
    command = [sys.executable, "-m", "pytest", *arguments]
    process = subprocess.Popen(command, env={**os.environ, **env}, stdout=output, stderr=output)
    try:
        yield process
    finally:
        # Ctrl-C reaches pytest too, which then tells what it had done so far; a kill reaches only us.
        if process.poll() is None:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
