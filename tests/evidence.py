"""What is believed of a run: the engine's own record of its containers, and jobs whose every line is known."""

import contextlib
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import docker
import requests

LABEL_JOB, LABEL_EXECUTOR = "workload-runner.job", "workload-runner.executor"
READY_SECONDS = 0.2
LAST = "the last"
"""In place of a host name: that of the log's last line."""


# --- Containers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moment:
    """One event of the engine: `action` is create, start, die or destroy; `at` its time in nanoseconds."""

    at: int
    action: str
    container: str
    name: str
    job_id: str
    executor_id: str
    exit_code: int | None


class Witness:
    """Writes down what the engine says happens to the containers of executors whose ids begin with `prefix`."""

    def __init__(self, engine: docker.DockerClient, prefix: str) -> None:
        self.moments: list[Moment] = []
        self._engine, self._prefix = engine, prefix
        self._hosts: dict[str, str] = {}
        wanted = {"type": "container", "event": ["create", "start", "die", "destroy"], "label": LABEL_JOB}
        # Beginning a little earlier makes the engine answer at once, so that nothing from here on is missed.
        self._events = engine.api.events(filters=wanted, decode=True, since=int(time.time()) - 1)
        self._thread = threading.Thread(target=self._listen, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        time.sleep(READY_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def _listen(self) -> None:
        for event in self._events:
            labels: dict[str, str] = event["Actor"]["Attributes"]
            if labels[LABEL_EXECUTOR].startswith(self._prefix):
                if event["Action"] == "create":
                    self._note_host(event["Actor"]["ID"])
                code = labels.get("exitCode")
                self.moments.append(
                    Moment(
                        at=event["timeNano"],
                        action=event["Action"],
                        container=event["Actor"]["ID"],
                        name=labels["name"],
                        job_id=labels[LABEL_JOB],
                        executor_id=labels[LABEL_EXECUTOR],
                        exit_code=int(code) if code is not None else None,
                    )
                )

    def _note_host(self, container: str) -> None:
        """A container that joins the network of a sandbox has the sandbox's host name."""
        with contextlib.suppress(docker.errors.DockerException, requests.RequestException):
            mode = self._engine.api.inspect_container(container)["HostConfig"]["NetworkMode"]
            self._hosts[container] = mode.removeprefix("container:") if mode.startswith("container:") else container

    def host(self, container: str) -> str:
        """The host name that a container had, by which it calls itself in `numbered` lines; LAST where it was gone
        before it could be asked."""
        return self._hosts.get(container, LAST)[:12]

    def died(self, container: str) -> bool:
        return any(m.action == "die" and m.container == container for m in list(self.moments))

    def attempt(self, container: str) -> str:
        """The number of the attempt whose container it is, '' where it was not seen."""
        return next((m.name.rpartition("-")[2] for m in list(self.moments) if m.container == container), "")

    def starts(self, job_id: str = "") -> Counter[str]:
        """How often each container name (of one job) was started."""
        return Counter(m.name for m in list(self.moments) if m.action == "start" and job_id in ("", m.job_id))

    def exit_codes(self, job_id: str) -> dict[str, int | None]:
        """The exit code of each container of the job that ended, by name."""
        return {m.name: m.exit_code for m in list(self.moments) if m.action == "die" and m.job_id == job_id}

    def most(self, requests: dict[str, int]) -> dict[str, int]:
        """The largest sum of `requests` (by job id) that ran at the same instant on each executor."""
        running: dict[str, dict[str, int]] = defaultdict(dict)
        most: dict[str, int] = defaultdict(int)
        for moment in sorted(self.moments, key=lambda m: m.at):
            held = running[moment.executor_id]
            if moment.action == "start":
                held[moment.container] = requests.get(moment.job_id, 0)
                most[moment.executor_id] = max(most[moment.executor_id], sum(held.values()))
            elif moment.action == "die":
                held.pop(moment.container, None)
        return dict(most)


# --- Lines -------------------------------------------------------------------------------------------------------

_CUT_OFF = re.compile(
    r"^\S+ stderr \[workload-runner\] (Attempt \d+) was cut off here; whatever else it printed is missing$"
)
_REMOVED = re.compile(
    r"^\S+ stderr \[workload-runner\] The container was removed before all of its output had been read: "
    r"any further lines are missing$"
)
_LINE = re.compile(r"^\S+ (stdout|stderr) ([0-9a-f]{12}) (\d+)$")


def numbered(lines: int, pause: float = 0.05, then: str = "") -> str:
    """A shell script that prints numbered lines on both streams, each with the container's host name, then `then`."""
    wait = f"sleep {pause};" if pause else ""
    loop = f'i=0; while [ $i -lt {lines} ]; do echo "$HOSTNAME $i"; echo "$HOSTNAME $i" >&2; {wait} i=$((i+1)); done'
    return f"{loop}; {then}" if then else loop


@dataclass(slots=True)
class LogFaults:
    """What is wrong with a log; nothing where it is exact."""

    missing: int = 0
    doubled: int = 0
    foreign: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.doubled or self.foreign)


def check_lines(log: Sequence[str], whole: Iterable[str], lines: int, removed: int = 0) -> LogFaults:
    """What a log of `numbered` lines, as it lies in Redis, lacks or has twice.

    Of each container the lines of each stream must begin at 0 and go up by one; of the containers in `whole` (host
    names) all must be there. A line out of order counts as missing where it should be and doubled where it is. The
    system's own word on an attempt that was lost is not one of them, once for each, nor is its word on a container that
    was removed, where so many of the job's were `removed` by somebody else.
    """
    faults = LogFaults()
    cut_off = set[str]()
    own = [found[2] for line in log if (found := _LINE.match(line))]
    whole = [own[-1] if host == LAST and own else host for host in whole]
    seen: dict[tuple[str, str], int] = {(container, stream): 0 for container in whole for stream in _STREAMS}
    for line in log:
        found = _LINE.match(line)
        if (cut := _CUT_OFF.match(line)) and cut[1] not in cut_off:
            cut_off.add(cut[1])
            continue
        if _REMOVED.match(line) and removed:
            removed -= 1
            continue
        if not found:
            faults.foreign.append(line)
            continue
        stream, container, number = found[1], found[2], int(found[3])
        expected = seen.get((container, stream), 0)
        faults.missing += max(0, number - expected)
        faults.doubled += number < expected
        seen[container, stream] = max(expected, number + 1)
    for container in whole:
        faults.missing += sum(lines - seen[container, stream] for stream in _STREAMS)
    return faults


_STREAMS = ("stdout", "stderr")
