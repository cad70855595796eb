"""What script/server does once .venv exists: Redis, Docker, the Procfile's processes, a sample job; Ctrl-C ends them.

What was running before, containers of running jobs included, goes on.
"""

import fcntl
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from script.console import Problem, say
from script.engine import available_engine
from script.private_redis import available_redis, free_port
from script.processes import running
from script.sample_image import sample_image
from script.sample_job import run_sample_job, wait_for_executor, wait_for_health
from webapp import settings

ROOT = Path(__file__).resolve().parent.parent
VAR = settings.VAR_DIR.resolve()
HONCHO = "import honcho.manager, honcho.command; honcho.manager.KILL_WAIT = 30; honcho.command.main()"
"""By itself it kills after 5 seconds what has not ended: an agent may need more, which removes what it kept ready."""
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class Stopped(BaseException):
    """A signal asked us to stop."""


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with ExitStack() as stack:
            # Runs last to first: a second Ctrl-C must not interrupt the stopping itself.
            returncode = _serve(stack)
            _ignore_signals()
        return returncode
    except Stopped:
        say("Stopped")
        return 0
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr, flush=True)
        return 1


def _serve(stack: ExitStack) -> int:
    host, port = settings.SCHEDULER_API_HOST, settings.SCHEDULER_API_PORT
    is_open = settings.OPEN_TO_LOCAL_USER or ("OPEN_TO_LOCAL_USER" not in os.environ and _is_loopback(host))
    if is_open and not _is_loopback(host):
        raise Problem(
            f"OPEN_TO_LOCAL_USER lets people in without a login, and SCHEDULER_API_HOST={host} is not a loopback"
            " address. Unset one of the two."
        )
    VAR.mkdir(parents=True, exist_ok=True)
    stack.enter_context(_only_one_here())
    _check_that_port_is_free(host, port)
    url = stack.enter_context(available_redis(VAR / "redis"))
    client = stack.enter_context(available_engine(VAR / "dockerd.log"))
    image = sample_image(client)

    say("Starting web, scheduler and one agent")
    env = _environment(host, port, url, is_open)
    honcho = stack.enter_context(running([sys.executable, "-c", HONCHO, "start"], env=env, cwd=ROOT, patience=35))
    address = f"http://{_bracketed(WILDCARDS.get(host, host))}:{port}"

    def still_runs() -> bool:
        return honcho.poll() is None

    wait_for_health(address, still_runs)
    if is_open:
        wait_for_executor(address, still_runs)
        _print_welcome(address, url, _try_a_job(address, image))
    else:
        _print_login_needed(address)
    honcho.wait()
    raise Problem("One of the processes ended, so all were stopped; its lines above say why.")


def _try_a_job(address: str, image: str | None) -> str:
    """The sample job's id, or 'ID' where there is none; what went wrong is said, and the server goes on."""
    if image is not None:
        try:
            return run_sample_job(address, image)
        except Problem as problem:
            say(str(problem))
    return "ID"


def _stop(number: int, frame: FrameType | None) -> None:
    # Stopping is bounded, so a second Ctrl-C has nothing to add but harm.
    _ignore_signals()
    print(flush=True)
    say(f"{signal.Signals(number).name}: stopping what was started here")
    raise Stopped


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _only_one_here() -> Iterator[None]:
    with (VAR / "server.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem(
                f"script/server already runs with the data in {VAR}. Stop that one first, or give this one a folder"
                " and a port of its own: VAR_DIR=/some/folder SCHEDULER_API_PORT=8001 script/server"
            ) from None
        yield


def _check_that_port_is_free(host: str, port: int) -> None:
    try:
        family, kind, _, _, socket_address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(socket_address)
    except PermissionError:
        raise Problem(f"Port {port} needs root. Choose another: SCHEDULER_API_PORT=8000 script/server") from None
    except OSError as error:
        raise Problem(
            f"Cannot listen on port {port} of {host}: {error.strerror}.\n"
            f"Choose another port: SCHEDULER_API_PORT={free_port()} script/server"
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _environment(host: str, port: int, redis_url: str, is_open: bool) -> dict[str, str]:
    """The processes' environment: ours, and what was decided here."""
    env = {
        "AGENT_STATE_DIR": str(VAR / "agent"),
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        "VAR_DIR": str(VAR),
        "SCHEDULER_API_HOST": host,
        "SCHEDULER_API_PORT": str(port),
        "REDIS_URL": redis_url,
    }
    if is_open:
        env["OPEN_TO_LOCAL_USER"] = "1"
    elif "ALLOWED_HOSTS" not in env:
        names = ["localhost", "127.0.0.1", "[::1]", socket.gethostname()]
        env["ALLOWED_HOSTS"] = ",".join(names if host in WILDCARDS else [*names, _bracketed(host)])
    return env


def _print_welcome(address: str, redis_url: str, job_id: str) -> None:
    print(
        f"""
    Open      {address}/
    API       {address}/api/v1/docs
    A log     redis-cli -u {redis_url} lrange job_logs:{job_id} 0 -1
    Stop      Ctrl-C

    Anyone on this machine may use it without a login: it listens on a loopback address only.
""",
        flush=True,
    )


def _print_login_needed(address: str) -> None:
    print(
        f"""
    Open      {address}/
    Stop      Ctrl-C

    Everyone has to log in here, so no sample job was run.
    Create the first user:  .venv/bin/python manage.py createsuperuser
    Names and addresses that browsers may use for this server: ALLOWED_HOSTS=name,address script/server
""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
