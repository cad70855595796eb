"""What a container of ours looks like to Docker, and what Docker's answers mean.

Pure; `agent/engine.py` does the calls.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent import sandbox_image
from agent.protocol import StartAttempt

LABEL_JOB = "workload-runner.job"
LABEL_ATTEMPT = "workload-runner.attempt"
LABEL_EXECUTOR = "workload-runner.executor"
LABEL_NAME = "workload-runner.name"
LABEL_SANDBOX = "workload-runner.sandbox"
"""Of a network sandbox, which is no attempt's container and has none of its labels but the executor's."""

CAPABILITIES = [
    # What ordinary images need to install packages, own files and drop to another user; nothing that reaches the host.
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
]

MARKED = ("removing", "dead")
"""Docker's words for the state of a container that it removes, or could not remove. It gives out no logs of it."""
ENDED = ("exited", *MARKED)
"""Docker's words for the state of a container that does not run any more."""

LOG_FILE_SIZE, LOG_FILES = "512m", "2"
"""The engine's own copy of the output, from which a log is taken up again after an interruption."""

CPU_PERIOD = 100_000

LONGEST_SETTING, MOST_SETTINGS = 200, 30
"""What is told of a container's settings: characters of a string, items of a list."""


# --- What we ask for -------------------------------------------------------------------------------------------


def container_name(start: StartAttempt) -> str:
    return f"job-{start.job_id}-{start.attempt}"


def container_settings(
    start: StartAttempt,
    *,
    executor_id: str,
    gpu_uuids: list[str],
    pids_limit: int,
    init: bool = True,
    sandbox_id: str = "",
) -> dict[str, Any]:
    """The body of the engine's 'create container' for an attempt, in a network of its own or the sandbox's.

    The CPU limit is a quota, not NanoCpus, because the engine refuses NanoCpus above the cores it sees itself.
    """
    host: dict[str, Any] = {
        "CpuPeriod": CPU_PERIOD,
        "CpuQuota": max(1000, start.cpu_millicores * CPU_PERIOD // 1000),
        "Memory": start.memory_bytes,
        "MemorySwap": start.memory_bytes,
        "PidsLimit": pids_limit,
        "CapDrop": ["ALL"],
        "CapAdd": CAPABILITIES,
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "Init": init,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_FILE_SIZE, "max-file": LOG_FILES}},
        "RestartPolicy": {"Name": "no"},
    }
    if sandbox_id:
        host["NetworkMode"] = _JOINED + sandbox_id
    if gpu_uuids:
        host["DeviceRequests"] = [{"Driver": "", "Count": 0, "DeviceIDs": gpu_uuids, "Capabilities": [["gpu"]]}]
    settings: dict[str, Any] = {
        "Image": start.image,
        "Env": [f"{name}={value}" for name, value in start.env.items()],
        "Labels": {
            LABEL_JOB: start.job_id,
            LABEL_ATTEMPT: str(start.attempt),
            LABEL_EXECUTOR: executor_id,
            LABEL_NAME: start.job_name,
        },
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "OpenStdin": False,
        "HostConfig": host,
    }
    if start.command:
        settings["Cmd"] = start.command
    if start.working_dir:
        settings["WorkingDir"] = start.working_dir
    return settings


_JOINED = "container:"
SANDBOX_MEMORY = 5 * 1024**2
"""What one counts for, in bytes: of 4.4 MiB measured nearly all is the engine's, which looks after it."""
_SANDBOX_LIMIT = 32 * 1024**2
"""Far more than it uses: runc, which starts it, must have room too."""


def sandbox_settings(executor_id: str) -> dict[str, Any]:
    """The body of the engine's 'create container' for a network sandbox."""
    return {
        "Image": sandbox_image.NAME,
        "Cmd": sandbox_image.COMMAND,
        "User": "65534:65534",
        "Labels": {LABEL_SANDBOX: "network", LABEL_EXECUTOR: executor_id},
        "HostConfig": {
            "Memory": _SANDBOX_LIMIT,
            "MemorySwap": _SANDBOX_LIMIT,
            "PidsLimit": 64,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "LogConfig": {"Type": "none"},
            "RestartPolicy": {"Name": "no"},
        },
    }


def joined(container: dict[str, Any]) -> str:
    """The id of the sandbox whose network a container joined, by the engine's inspection or list of it; or ''."""
    mode = str(container.get("HostConfig", {}).get("NetworkMode", ""))
    return mode.removeprefix(_JOINED) if mode.startswith(_JOINED) else ""


# --- What became of it -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """A container's state by the engine. `status` is Docker's word: created, running, paused, exited, dead …"""

    id: str
    status: str
    exit_code: int | None
    oom_killed: bool
    started_at: datetime | None
    finished_at: datetime | None
    error: str
    created_at: datetime | None = None
    applied: dict[str, Any] = field(default_factory=dict)
    """What Docker applied: see `applied`."""
    sandbox_id: str = ""

    @property
    def never_started(self) -> bool:
        return self.status == "created"

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def unborn(self) -> bool:
        """It is being removed, or could not be, and never ran: its exit code is none."""
        return self.status in MARKED and self.started_at is None


def facts(inspected: dict[str, Any]) -> Facts:
    state = inspected["State"]
    ended = state["Status"] in ENDED
    started_at, finished_at = _moment(state["StartedAt"]), _moment(state["FinishedAt"]) if ended else None
    if started_at and finished_at:
        started_at = min(started_at, finished_at)  # Docker notes the start late: a short run may have ended before it.
    return Facts(
        id=inspected["Id"],
        status=state["Status"],
        exit_code=state["ExitCode"] if ended else None,
        oom_killed=bool(state["OOMKilled"]),
        started_at=started_at,
        finished_at=finished_at,
        error=state.get("Error", ""),
        created_at=_moment(inspected.get("Created", "")),
        applied=applied(inspected),
        sandbox_id=joined(inspected),
    )


_CONFIG = ("Entrypoint", "Cmd", "User", "WorkingDir", "Env", "Labels", "StopSignal")
_HOST = (
    "CpuPeriod", "CpuQuota", "CpusetCpus", "Memory", "MemorySwap", "PidsLimit", "ShmSize", "Ulimits", "DeviceRequests",
    "Runtime", "NetworkMode", "Dns", "ExtraHosts", "Binds", "Mounts", "Tmpfs", "StorageOpt", "ReadonlyRootfs",
    "Privileged", "CapAdd", "CapDrop", "SecurityOpt", "UsernsMode", "IpcMode", "Init", "LogConfig", "RestartPolicy",
)  # fmt: skip


def applied(inspected: dict[str, Any]) -> dict[str, Any]:
    """How Docker runs the container, by its own names: of environment variables the names alone, and all of it bounded
    in size."""
    config, host = inspected.get("Config", {}), inspected.get("HostConfig", {})
    config = {**config, "Env": [variable.partition("=")[0] for variable in config.get("Env") or ()]}
    parts = {
        "Config": {name: config.get(name) for name in _CONFIG},
        "HostConfig": {name: host.get(name) for name in _HOST},
    }
    return {
        "Image": inspected.get("Image", ""),
        **{
            part: {name: _short(value) for name, value in values.items() if value not in (None, "", [], {})}
            for part, values in parts.items()
        },
    }


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST_SETTING else f"{value[:LONGEST_SETTING]}…"
    if isinstance(value, dict):
        return {str(name): _short(item) for name, item in list(value.items())[:MOST_SETTINGS]}
    if isinstance(value, list):
        more = [f"… {len(value) - MOST_SETTINGS} more"] if len(value) > MOST_SETTINGS else []
        return [_short(item) for item in value[:MOST_SETTINGS]] + more
    return value


def _moment(text: str) -> datetime | None:
    """Docker's time (nanoseconds, year 1 for 'never') to the microsecond."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", text)
    if not match or text.startswith("0001-"):
        return None
    whole, fraction, zone = match.groups()
    micros = (fraction or "0").ljust(6, "0")[:6]
    return datetime.fromisoformat(f"{whole}.{micros}{'+00:00' if zone == 'Z' else zone}").astimezone(UTC)


def as_text(moment: datetime | None) -> str | None:
    """RFC 3339, as messages have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


# --- Why it failed ---------------------------------------------------------------------------------------------


class StartFailed(Exception):
    """An attempt could not be started. `reason` is a code of `jobs.lifecycle.EndReason`, `message` a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


FULL_DISK = "The executor's disk is full."


def start_failure(status: int | None, said: str) -> StartFailed:
    """What the engine's refusal to create or start a container means."""
    said = said.strip()
    if "no space left on device" in said.lower():
        return StartFailed("engine_error", f"{FULL_DISK} Docker said: {said}")
    if "executable file not found" in said or re.search(r"exec: .*no such file or directory", said):
        return StartFailed("command_not_found", f"The command does not exist in the image. Docker said: {said}")
    if re.search(r"exec: .*permission denied|exec format error", said):
        return StartFailed(
            "command_not_executable", f"The command exists in the image but cannot be executed. Docker said: {said}"
        )
    if status == 400:
        return StartFailed("invalid_settings", f"Docker refused the container's settings: {said}")
    return StartFailed("engine_error", f"Docker could not start the container: {said}")


def pull_failure(image: str, said: str) -> StartFailed:
    """What the engine's refusal to pull an image means."""
    said = said.strip()
    words = said.lower()
    if "no space left on device" in words:
        return StartFailed("image_pull_failed", f"{FULL_DISK} Docker said: {said}")
    if "invalid reference format" in words:
        return StartFailed("invalid_settings", f"{image!r} is not an image name that Docker accepts: {said}")
    if re.search(r"pull access denied|unauthorized|denied|no basic auth|authentication required|forbidden", words):
        return StartFailed("image_access_denied", f"The registry does not give out {image}. Docker said: {said}")
    if re.search(r"manifest unknown|not found|does not exist|no matching manifest|name unknown", words):
        return StartFailed("image_not_found", f"There is no image {image}. Docker said: {said}")
    return StartFailed("image_pull_failed", f"{image} could not be pulled. Docker said: {said}")


def init_missing(said: str) -> bool:
    """Whether the engine lacks its init process (a package of its own in some distributions)."""
    return "docker-init" in said or "init binary" in said.lower()


def exec_failure(exit_code: int | None, first_stderr: bytes, last_stderr: bytes) -> StartFailed | None:
    """With an init process a command that cannot be run is no error of the start: whoever tried says why on stderr.

    That is the init, or, for a file of an unknown format, the shell of the image, to which the init gives it next.
    """
    if match := _SAID_BY_INIT.match(last_stderr):
        command, why = (part.decode("utf-8", "replace") for part in match.groups())
        if exit_code == 127:
            return StartFailed("command_not_found", f"The command {command!r} does not exist in the image ({why}).")
        if exit_code == 126:
            return StartFailed("command_not_executable", f"The command {command!r} cannot be executed ({why}).")
    if not exit_code:
        return None
    for said, line in ((_FORMAT_SAID, last_stderr), (_FORMAT_SEEN, first_stderr)):
        if match := said.match(line):
            command = match[1].decode("utf-8", "replace")
            why = "exec format error: a program for another kind of processor, or a script without '#!'"
            return StartFailed("command_not_executable", f"The command {command!r} cannot be executed ({why}).")
    return None


_SAID_BY_INIT = re.compile(rb"\[FATAL tini \(\d+\)\] exec (.*) failed: (.*)")
_FORMAT_SAID = re.compile(rb"(?:\[FATAL tini \(\d+\)\] )?exec (.*?)(?: failed)?: [Ee]xec format error$")
_FORMAT_SEEN = re.compile(rb"(/\S+): (?:(?:line )?\d+: \x7fELF|.*cannot execute binary file$)")
