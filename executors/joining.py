"""What a new node needs to join: one command, and the agent itself, which this server hands out."""

import io
import shlex
import tarfile
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings

LOOPBACK = ("localhost", "::1", "0.0.0.0", "::")  # noqa: S104
FOLDER = "workload-agent"


def agent_bundle() -> bytes:
    """The agent as a tar.gz, exactly as this server knows it: no secret is in it."""
    buffer = io.BytesIO()
    agent = settings.BASE_DIR / "agent"
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file in sorted([*agent.glob("*.py"), agent / "requirements.txt"]):
            archive.add(file, arcname=f"agent/{file.name}", filter=_anonymous)
    return buffer.getvalue()


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o644
    return member


def redis_is_local() -> bool:
    """Whether the server reaches Redis by an address that other nodes cannot use."""
    parts = urlsplit(settings.REDIS_URL)
    host = parts.hostname or ""
    return parts.scheme == "unix" or host in LOOPBACK or host.startswith("127.")


def join_command(bundle_url: str, with_password: bool) -> str:
    """What to run on a new node, as one line for a shell; without the password, `…` stands in its place."""
    env = {"REDIS_URL": _redis_url(with_password)}
    if settings.REDIS_KEY_PREFIX:
        env["REDIS_KEY_PREFIX"] = settings.REDIS_KEY_PREFIX
    if settings.HEARTBEAT_INTERVAL != 30:
        env["HEARTBEAT_INTERVAL"] = f"{settings.HEARTBEAT_INTERVAL:g}"
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in env.items())
    return (
        f"mkdir -p {FOLDER} && cd {FOLDER} && curl -fsS {shlex.quote(bundle_url)} | tar xz"
        " && python3 -m venv .venv && .venv/bin/pip install -q -r agent/requirements.txt"
        f" && {variables} .venv/bin/python -m agent"
    )


def has_password() -> bool:
    return bool(urlsplit(settings.REDIS_URL).password)


def _redis_url(with_password: bool) -> str:
    parts = urlsplit(settings.REDIS_URL)
    if parts.password and not with_password:
        user, _, address = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:…@{address}"))
    return settings.REDIS_URL
