"""What an agent keeps on disk, so that a new one takes up where it was: its id, the last command, what it holds.

executor_id          made once: the node's name and six random digits
last_command         the number of the last command processed, overwritten in place: that needs no room on a full disk
attempts/JOB-N.json  each attempt accepted whose end was not reported, or whose container is kept for its log
bursts               the largest bursts of jobs lately: how many sandboxes to keep ready
lock                 held while an agent runs
"""

import fcntl
import json
import logging
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from agent.bursts import Bursts, dumped, loaded
from agent.config import BadSetting
from agent.protocol import AttemptFinished, MalformedMessage, StartAttempt, StopAttempt, UnknownMessage, decode, encode

logger = logging.getLogger(__name__)

PROBE = "x" * 64 * 1024
"""Written to see whether there is room for more than a record or two."""


@dataclass(frozen=True, slots=True)
class Record:
    """An accepted attempt. `container_id` is set once its container was created; `stop` once it is to be stopped.

    `accepted_at` and `pulled_at`, where its image had to be, are RFC 3339 or ''; so is `first_line`, the time of a long
    or adopted log's first line. `finished` is its last event, once that was sent and only its container is kept.
    """

    start: StartAttempt
    container_id: str = ""
    stop: StopAttempt | None = None
    accepted_at: str = ""
    pulled_at: str = ""
    first_line: str = ""
    finished: AttemptFinished | None = None


class State:
    """The state folder, locked for this process until it ends. `problem` says why it cannot be written, or ''.

    Raises BadSetting where the folder cannot be used or another agent runs with it.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.problem = ""
        self._unsaved: dict[Path, Record] = {}
        self._directory, self._attempts = directory, directory / "attempts"
        try:
            self._attempts.mkdir(parents=True, exist_ok=True)
            self._lock = _open(directory / "lock")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._last_command = _open(directory / "last_command")
            self.executor_id = self._read("executor_id") or self._new_id(name)
        except BlockingIOError:
            os.close(self._lock)
            raise BadSetting(
                f"Another agent already runs with the state folder {directory}. "
                "Set AGENT_STATE_DIR to another folder to run several on one machine."
            ) from None
        except OSError as error:
            raise BadSetting(
                f"AGENT_STATE_DIR {directory} cannot be used: {error.strerror}. Name a folder this user can write to."
            ) from None
        held = [record.start.seq for record in self.records()]
        self.last_command = max([int(self._read("last_command") or 0), *held])
        self.passed(self.last_command)
        self.check()

    def close(self) -> None:
        os.close(self._last_command)
        os.close(self._lock)

    def passed(self, seq: int) -> None:
        """Remember that the command was processed; called before acting on it."""
        self.last_command = max(self.last_command, seq)
        try:
            os.pwrite(self._last_command, b"%020d\n" % self.last_command, 0)
        except OSError as error:
            self._note(error)

    def records(self) -> list[Record]:
        """The attempts that were accepted and not forgotten, in the order of their commands."""
        records = []
        for path in self._attempts.glob("*.json"):
            try:
                records.append(_load(path.read_bytes()))
            except (ValueError, TypeError, KeyError, MalformedMessage, UnknownMessage) as error:
                logger.error("%s is unreadable and is set aside: %s", path, error)
                path.rename(path.with_suffix(".unreadable"))
        return sorted(records, key=lambda record: record.start.seq)

    def save(self, record: Record) -> None:
        """Raises OSError, with `problem` set, where it cannot be written."""
        try:
            self._write(self._path(record.start), json.dumps(_dump(record)))
        except OSError as error:
            self._note(error)
            raise

    def update(self, record: Record) -> None:
        """Save what is there already; where it cannot be written now, `check` does it as soon as it can."""
        try:
            self.save(record)
        except OSError:
            self._unsaved[self._path(record.start)] = record

    def forget(self, start: StartAttempt) -> None:
        self._unsaved.pop(self._path(start), None)
        try:
            self._path(start).unlink(missing_ok=True)
        except OSError as error:
            self._note(error)

    def keeps(self, job_id: str, attempt: int | str) -> bool:
        """Whether the attempt was accepted and not forgotten."""
        return (self._attempts / f"{job_id}-{attempt}.json").exists()

    def load_bursts(self) -> Bursts:
        """Those last saved; none where they cannot be read."""
        path = self._directory / "bursts"
        try:
            return loaded(path.read_text(), time.time()) if path.exists() else ()
        except (OSError, ValueError) as error:
            logger.warning("%s is unreadable, no burst of jobs is remembered: %s", path, error)
            return ()

    def save_bursts(self, bursts: Bursts) -> None:
        try:
            self._write(self._directory / "bursts", dumped(bursts))
        except OSError as error:
            self._note(error)

    def check(self) -> str:
        """Try to write, also what could not be written before: the problem with it, or ''."""
        try:
            for path, record in list(self._unsaved.items()):
                self._write(path, json.dumps(_dump(record)))
                self._unsaved.pop(path, None)
            self._write(self._directory / "probe", PROBE)
        except OSError as error:
            self._note(error)
        else:
            self.problem = ""
        return self.problem

    def _note(self, error: OSError) -> None:
        problem = f"The agent cannot write its state folder {self._directory}: {error.strerror}."
        if problem != self.problem:
            self.problem = problem
            logger.error("%s", problem)

    def _path(self, start: StartAttempt) -> Path:
        return self._attempts / f"{start.job_id}-{start.attempt}.json"

    def _new_id(self, name: str) -> str:
        slug = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.")[:50] or "node"
        executor_id = f"{slug}-{secrets.token_hex(3)}"
        self._write(self._directory / "executor_id", executor_id)
        return executor_id

    def _read(self, name: str) -> str:
        try:
            return (self._directory / name).read_text().strip()
        except FileNotFoundError:
            return ""

    def _write(self, path: Path, text: str) -> None:
        fresh = path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _dump(record: Record) -> dict[str, object]:
    return {
        "start": json.loads(encode(record.start)),
        "container_id": record.container_id,
        "stop": json.loads(encode(record.stop)) if record.stop else None,
        "accepted_at": record.accepted_at,
        "pulled_at": record.pulled_at,
        "first_line": record.first_line,
        "finished": json.loads(encode(record.finished)) if record.finished else None,
    }


def _load(data: bytes) -> Record:
    body = json.loads(data)
    start = decode(json.dumps(body["start"]).encode())
    stop = decode(json.dumps(body["stop"]).encode()) if body["stop"] else None
    finished = decode(json.dumps(body["finished"]).encode()) if body.get("finished") else None
    if not isinstance(start, StartAttempt) or not (stop is None or isinstance(stop, StopAttempt)):
        raise TypeError("not an attempt")
    if not (finished is None or isinstance(finished, AttemptFinished)):
        raise TypeError("not an attempt's end")
    accepted_at, pulled_at, first_line = (
        str(body.get(name, "")) for name in ("accepted_at", "pulled_at", "first_line")
    )
    return Record(start, str(body["container_id"]), stop, accepted_at, pulled_at, first_line, finished)
