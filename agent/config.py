"""The agent's settings, from the environment and the command line; the command line wins."""

import argparse
import json
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil

from agent.containers import SANDBOX_MEMORY

GB = 1024**3
MOST_SANDBOXES, SANDBOXES_SHARE = 200, 32
"""Where nothing else is said: at most, and the part of the node's memory, one in so many."""


class BadSetting(ValueError):
    """A setting that cannot be used; the text names it and says what to write instead."""


@dataclass(frozen=True, slots=True)
class Config:
    """CPU in millicores, memory and buffers in bytes, durations in seconds."""

    name: str
    state_dir: Path
    redis_url: str
    cpu_millicores: int
    memory_bytes: int
    start_concurrency: int
    redis_key_prefix: str = ""
    address: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    reserve_cpu_millicores: int = 0
    reserve_memory_bytes: int = 0
    heartbeat_interval: float = 30
    poll_interval: float = 10
    sample_interval: float = 10
    log_dir: Path = Path()
    sandbox_pool: int = 0
    pids_limit: int = 4096
    pull_timeout: int = 300
    registry_auth_file: Path | None = None
    log_buffer_bytes: int = 1024**2
    log_limit_bytes: int = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class _Setting:
    variable: str
    help: str
    default: str = ""

    @property
    def option(self) -> str:
        return "--" + self.variable.removeprefix("AGENT_").lower().replace("_", "-")


_SETTINGS = [
    _Setting("AGENT_NAME", "the node's name on the pages (default: its host name)"),
    _Setting("AGENT_STATE_DIR", "folder for the agent's id and what it holds; one for each agent", "var/agent"),
    _Setting("EXECUTOR_IP", "address shown for this node (default: the one by which it reaches Redis)"),
    _Setting("AGENT_LABELS", "what jobs may ask for, as zone=eu,disk=ssd"),
    _Setting("AGENT_CPU_CORES", "cores to offer (default: all that the node has)"),
    _Setting("AGENT_MEMORY_GB", "memory to offer, 1 GB = 1024³ bytes (default: all that the node has)"),
    _Setting("AGENT_RESERVE_CPU", "cores of these kept free for the node itself", "0"),
    _Setting("AGENT_RESERVE_MEMORY_GB", "memory of this kept free for the node itself", "0"),
    _Setting(
        "AGENT_START_CONCURRENCY", "containers started at the same time (default: four times the cores, at most 8)"
    ),
    _Setting(
        "AGENT_SANDBOX_POOL",
        "warm network sandboxes at most, with which jobs start sooner; 0 for none"
        f" (default: as many as 1/{SANDBOXES_SHARE} of the memory holds, at most {MOST_SANDBOXES})",
    ),
    _Setting("AGENT_PIDS_LIMIT", "processes and threads that one container may have", "4096"),
    _Setting("AGENT_PULL_TIMEOUT", "seconds without a word from the registry after which a pull has failed", "300"),
    _Setting("AGENT_REGISTRY_AUTH_FILE", "logins for registries, as docker login writes them (default: Docker's own)"),
    _Setting("AGENT_LOG_BUFFER", "bytes of one attempt's output kept in memory while Redis is slow", "1048576"),
    _Setting(
        "AGENT_LOG_LIMIT_MB",
        "size of one job's log in Redis, beyond which its oldest lines are in the archive alone",
        "64",
    ),
    _Setting("AGENT_SAMPLE_INTERVAL", "seconds between utilisation samples", "10"),
    _Setting("HEARTBEAT_INTERVAL", "seconds between heartbeats", "30"),
    _Setting("JOB_POLL_INTERVAL", "longest wait for a command before asking again, in seconds", "10"),
    _Setting("REDIS_URL", "the Redis that scheduler and agents share; wins over the four below"),
    _Setting("REDIS_HOST", "Redis host", "localhost"),
    _Setting("REDIS_PORT", "Redis port", "6379"),
    _Setting("REDIS_PASSWORD", "Redis password"),
    _Setting("REDIS_DB", "Redis database number", "0"),
    _Setting("REDIS_KEY_PREFIX", "put before every Redis key, as the server's setting of this name"),
    _Setting("LOG_DIR", "folder of executor.log (default: the current one)", "."),
]


def load(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The settings. Raises BadSetting for a value that cannot be used; `--help` prints them all and exits."""
    parser = argparse.ArgumentParser(
        prog="python -m agent",
        description="Runs this node's share of the jobs in Docker. Every option is also an environment variable.",
    )
    for setting in _SETTINGS:
        shown = f"{setting.help}{f' (default: {setting.default})' if setting.default else ''} [{setting.variable}]"
        parser.add_argument(setting.option, dest=setting.variable, metavar="VALUE", help=shown.replace("%", "%%"))
    given = vars(parser.parse_args(arguments))
    values = {
        item.variable: _first(given[item.variable], environ.get(item.variable), item.default) for item in _SETTINGS
    }
    return _config(values)


def _first(*values: str | None) -> str:
    return next((value.strip() for value in values if value and value.strip()), "")


def _config(values: Mapping[str, str]) -> Config:
    cores, total = psutil.cpu_count() or 1, psutil.virtual_memory().total
    cpu = round(_number(values, "AGENT_CPU_CORES", minimum=0.1, default=cores) * 1000)
    memory = int(_number(values, "AGENT_MEMORY_GB", minimum=0.01, default=total / GB) * GB)
    reserve_cpu = round(_number(values, "AGENT_RESERVE_CPU", minimum=0) * 1000)
    reserve_memory = int(_number(values, "AGENT_RESERVE_MEMORY_GB", minimum=0) * GB)
    if reserve_cpu >= cpu:
        raise BadSetting(f"AGENT_RESERVE_CPU leaves no core for jobs: give less than the node's {cpu / 1000:g}.")
    if reserve_memory >= memory:
        raise BadSetting(
            f"AGENT_RESERVE_MEMORY_GB leaves no memory for jobs: give less than the node's {memory / GB:.1f}."
        )
    usual = min(MOST_SANDBOXES, memory // SANDBOXES_SHARE // SANDBOX_MEMORY)
    sandbox_pool = _integer(values, "AGENT_SANDBOX_POOL", minimum=0, default=usual)
    if sandbox_pool * SANDBOX_MEMORY >= memory:
        raise BadSetting(
            f"AGENT_SANDBOX_POOL leaves no memory for jobs: {sandbox_pool} sandboxes count for"
            f" {sandbox_pool * SANDBOX_MEMORY / GB:.2g} GB of {memory / GB:.2g} GB. Give less, or 0 for none."
        )
    return Config(
        name=values["AGENT_NAME"] or socket.gethostname(),
        state_dir=Path(values["AGENT_STATE_DIR"]),
        redis_url=redis_url(values),
        redis_key_prefix=values["REDIS_KEY_PREFIX"],
        address=values["EXECUTOR_IP"],
        labels=parse_labels(values["AGENT_LABELS"]),
        cpu_millicores=cpu,
        memory_bytes=memory,
        reserve_cpu_millicores=reserve_cpu,
        reserve_memory_bytes=max(reserve_memory, sandbox_pool * SANDBOX_MEMORY),
        start_concurrency=_integer(values, "AGENT_START_CONCURRENCY", minimum=1, default=min(8, 4 * cores)),
        heartbeat_interval=_number(values, "HEARTBEAT_INTERVAL", minimum=0.1),
        poll_interval=_number(values, "JOB_POLL_INTERVAL", minimum=0.1),
        sample_interval=_number(values, "AGENT_SAMPLE_INTERVAL", minimum=0.1),
        log_dir=Path(values["LOG_DIR"]),
        sandbox_pool=sandbox_pool,
        pids_limit=_integer(values, "AGENT_PIDS_LIMIT", minimum=1),
        pull_timeout=_integer(values, "AGENT_PULL_TIMEOUT", minimum=1),
        registry_auth_file=_auth_file(values["AGENT_REGISTRY_AUTH_FILE"]),
        log_buffer_bytes=_integer(values, "AGENT_LOG_BUFFER", minimum=64 * 1024),
        log_limit_bytes=int(_number(values, "AGENT_LOG_LIMIT_MB", minimum=0.1) * 1024**2),
    )


def _number(
    values: Mapping[str, str],
    variable: str,
    *,
    minimum: float,
    default: float | None = None,
    kind: Callable[[str], float] = float,
) -> float:
    text = values[variable]
    if not text and default is not None:
        return default
    try:
        number = kind(text)
    except ValueError:
        number = float("nan")
    if not minimum <= number < float("inf"):
        what = "a whole number" if kind is int else "a number"
        raise BadSetting(f"{variable} must be {what} of at least {minimum:g}, not {text!r}.")
    return number


def _integer(values: Mapping[str, str], variable: str, *, minimum: int, default: int | None = None) -> int:
    return int(_number(values, variable, minimum=minimum, default=default, kind=int))


def _auth_file(text: str) -> Path | None:
    if not text:
        return None
    try:
        known = isinstance(json.loads(Path(text).read_bytes()), dict)
    except OSError as error:
        raise BadSetting(f"AGENT_REGISTRY_AUTH_FILE {text} cannot be read: {error.strerror}.") from None
    except ValueError:
        known = False
    if not known:
        raise BadSetting(f"AGENT_REGISTRY_AUTH_FILE {text} is no JSON object: make it with docker login.")
    return Path(text)


def parse_labels(text: str) -> dict[str, str]:
    """`zone=eu,disk=ssd` as a dict. Raises BadSetting."""
    labels = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z0-9._/-]{1,63}", name):
            raise BadSetting(f"AGENT_LABELS must look like zone=eu,disk=ssd; {item!r} is not name=value.")
        if name in labels:
            raise BadSetting(f"AGENT_LABELS names {name!r} twice; keep one.")
        labels[name] = value
    return labels


def redis_url(values: Mapping[str, str]) -> str:
    """REDIS_URL, or one made from REDIS_HOST, REDIS_PORT, REDIS_PASSWORD and REDIS_DB. Raises BadSetting."""
    url = values["REDIS_URL"]
    if url:
        if not re.match(r"(rediss?|unix)://", url):
            raise BadSetting("REDIS_URL must begin with redis://, rediss:// or unix://, as redis://localhost:6379/0.")
        return url
    port, database = _integer(values, "REDIS_PORT", minimum=1), _integer(values, "REDIS_DB", minimum=0)
    if port > 65535:
        raise BadSetting(f"REDIS_PORT must be at most 65535, not {port}.")
    password = f":{quote(values['REDIS_PASSWORD'], safe='')}@" if values["REDIS_PASSWORD"] else ""
    return f"redis://{password}{values['REDIS_HOST']}:{port}/{database}"
