"""What a `docker run …` line asks for, as the fields of a submission. Pure.

What a job cannot have, such as a volume or a port, is left out and said in words, so that nobody finds out later.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SWITCHES = {
    "detach", "init", "interactive", "quiet", "rm", "sig-proxy", "tty", "disable-content-trust", "no-healthcheck",
    "oom-kill-disable", "privileged", "publish-all", "read-only", "use-api-socket",
}  # fmt: skip
"""Options that take no value."""

SHORT = {
    "a": "attach", "c": "cpu-shares", "d": "detach", "e": "env", "h": "hostname", "i": "interactive", "l": "label",
    "m": "memory", "P": "publish-all", "p": "publish", "q": "quiet", "t": "tty", "u": "user", "v": "volume",
    "w": "workdir",
}  # fmt: skip

NEEDLESS = {
    "attach", "detach", "disable-content-trust", "init", "interactive", "memory-swap", "oom-kill-disable", "pull",
    "quiet", "rm", "sig-proxy", "stop-timeout", "tty",
}  # fmt: skip
"""What every job has anyway, or what makes no difference to one."""

UNSUPPORTED = {
    **dict.fromkeys(("add-host", "dns", "dns-option", "dns-search", "domainname", "hostname"), "names of hosts"),
    **dict.fromkeys(("annotation", "label", "label-file"), "container labels"),
    **dict.fromkeys(("blkio-weight", "cgroup-parent", "cgroupns", "cpuset-cpus", "cpuset-mems"), "cgroup settings"),
    **dict.fromkeys(("cap-add", "cap-drop", "security-opt"), "security settings: an administrator decides those"),
    **dict.fromkeys(("cpu-period", "cpu-quota", "cpu-shares"), "CPU shares: use --cpus"),
    **dict.fromkeys(("device", "privileged", "use-api-socket"), "access to the host"),
    **dict.fromkeys(("expose", "publish", "publish-all"), "ports"),
    **dict.fromkeys(("health-cmd", "health-interval", "health-retries", "health-timeout"), "health checks"),
    **dict.fromkeys(("health-start-period", "no-healthcheck"), "health checks"),
    **dict.fromkeys(("ip", "ip6", "link", "mac-address", "net", "network", "network-alias"), "networks of their own"),
    **dict.fromkeys(("ipc", "pid", "isolation", "userns", "uts", "runtime"), "namespaces and runtimes to choose"),
    **dict.fromkeys(("log-driver", "log-opt"), "log drivers: all output is kept anyway"),
    **dict.fromkeys(("memory-reservation", "memory-swappiness", "oom-score-adj", "pids-limit"), "further limits"),
    **dict.fromkeys(("shm-size", "storage-opt", "sysctl", "ulimit"), "further limits"),
    **dict.fromkeys(("mount", "tmpfs", "volume"), "volumes: bring files with the image, or fetch them"),
    **dict.fromkeys(("volume-driver", "volumes-from", "read-only"), "volumes: bring files with the image"),
    "cidfile": "files for their ids",
    "detach-keys": "terminals",
    "env-file": "files of variables: copy its lines into the environment",
    "group-add": "groups",
    "platform": "platforms: ask for an executor's label",
    "stop-signal": "stop signals",
    "user": "users: the image's own is taken",
}
"""Options of `docker run` that a job has no counterpart for, and what of."""

_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


class NotDockerRun(ValueError):
    """The line is no `docker run`, or cannot be read; the message says why and what to do."""


@dataclass(slots=True)
class DockerRun:
    """`fields` by the API's names; `notes` are sentences on what was left out or may need a look."""

    fields: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def parse_docker_run(line: str) -> DockerRun:
    """What the line asks for. Raises NotDockerRun."""
    words = iter(_after_run(line))
    found, entrypoint, left_out = DockerRun(), None, dict[str, str]()
    for word in words:
        if not word.startswith("-") or word == "-":
            found.fields["docker_image"] = word
            break
        if word == "--":
            continue
        for name, value in _options(word, words):
            if name == "entrypoint":
                entrypoint = value
            elif name in _TAKERS:
                _TAKERS[name](found, value)
            elif name in UNSUPPORTED:
                left_out[name] = UNSUPPORTED[name]
    if "docker_image" not in found.fields:
        raise NotDockerRun("The line names no image: it ends with its options.")
    command = list(words)
    if entrypoint:
        command.insert(0, entrypoint)
        found.notes.append("--entrypoint now begins the command; that is the same unless the image has one of its own.")
    if command:
        found.fields["command"] = command
    found.notes += [f"--{name} was left out: jobs have no {what}." for name, what in left_out.items()]
    return found


def _after_run(line: str) -> list[str]:
    """The words after 'docker run', split as a shell would."""
    joined = re.sub(r"\\\r?\n", " ", line.strip()).replace("\r\n", "\n")
    try:
        words = shlex.split(joined, comments=False)
    except ValueError as error:
        raise NotDockerRun(f"The line cannot be split as a shell would: {str(error).lower()}.") from None
    while words and words[0] in ("$", "#", "sudo"):
        words.pop(0)
    if not words or words[0].rpartition("/")[2] not in ("docker", "podman", "nerdctl"):
        raise NotDockerRun("The line must begin with: docker run.")
    words.pop(0)
    if words[:1] == ["container"]:
        words.pop(0)
    if words[:1] not in (["run"], ["create"]):
        raise NotDockerRun("The line must begin with: docker run. Other commands of Docker are no jobs.")
    return words[1:]


def _options(word: str, words: Iterator[str]) -> Iterator[tuple[str, str]]:
    """The options in one word, such as --cpus=2, -it or -eA=1, by their long names; values may be the next word."""
    if word.startswith("--"):
        name, has_value, value = word[2:].partition("=")
        if name in SWITCHES:
            if value.lower() not in ("false", "0"):
                yield name, ""
            return
        if name not in UNSUPPORTED and name not in NEEDLESS and name not in _TAKERS and name != "entrypoint":
            raise NotDockerRun(f"--{name} is no option of docker run that is known here: remove it.")
        yield name, value if has_value else _next(f"--{name}", words)
        return
    letters = word[1:]
    for position, letter in enumerate(letters):
        if letter not in SHORT:
            raise NotDockerRun(f"-{letter} is no option of docker run that is known here: remove it.")
        name = SHORT[letter]
        if name not in SWITCHES:
            rest = letters[position + 1 :].removeprefix("=")
            yield name, rest or _next(f"-{letter}", words)
            return
        yield name, ""


def _next(option: str, words: Iterator[str]) -> str:
    value = next(words, None)
    if value is None:
        raise NotDockerRun(f"{option} has no value: the line ends with it.")
    return value


# --- What a job can have ---------------------------------------------------------------------------------------


def _env(found: DockerRun, text: str) -> None:
    name, has_value, value = text.partition("=")
    found.fields.setdefault("env", {})[name] = value
    if not has_value:
        found.notes.append(f"{name} would come from your own shell: fill in its value.")


def _cpus(found: DockerRun, text: str) -> None:
    try:
        found.fields["cpu_cores"] = float(text)
    except ValueError:
        raise NotDockerRun(f"--cpus must be a number such as 0.5 or 2, not {text}.") from None


def memory_bytes(text: str) -> int:
    """Docker's way of writing a size: 512m, 1.5g, 2GiB, 1048576. Raises NotDockerRun."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise NotDockerRun(f"--memory must be a size such as 512m or 2g, not {text}.")
    return int(float(match[1]) * _UNITS[match[2]])


def _memory(found: DockerRun, text: str) -> None:
    found.fields["memory_gb"] = round(memory_bytes(text) / 1024**3, 6)


def _gpus(found: DockerRun, text: str) -> None:
    wanted = dict(part.partition("=")[::2] for part in re.split(r",(?=\w+=)", text.strip('"')))
    count = wanted.get("count", "") or (text if text.isdecimal() else "")
    found.fields["gpu_type"] = "any"
    if "device" in wanted:
        found.fields["gpu_count"] = len(wanted["device"].strip('"').split(","))
        found.notes.append("--gpus names devices; a job gets as many, but which ones is chosen where it runs.")
    elif count.isdecimal():
        found.fields["gpu_count"] = int(count)
    else:
        found.fields["gpu_count"] = 1
        found.notes.append("--gpus all became one GPU: say how many the job needs.")


def _restart(found: DockerRun, text: str) -> None:
    policy, _, times = text.partition(":")
    if policy == "on-failure":
        found.fields["max_retries"] = min(100, int(times)) if times.isdecimal() else 3
        found.notes.append(f"--restart {text} became {found.fields['max_retries']} retries.")
    elif policy != "no":
        found.notes.append(f"--restart {text} was left out: a job ends when its command does.")


def _plain(name: str) -> Callable[[DockerRun, str], None]:
    def take(found: DockerRun, text: str) -> None:
        found.fields[name] = text

    return take


_TAKERS: dict[str, Callable[[DockerRun, str], None]] = {
    "env": _env,
    "cpus": _cpus,
    "memory": _memory,
    "gpus": _gpus,
    "restart": _restart,
    "name": _plain("name"),
    "workdir": _plain("working_dir"),
}
