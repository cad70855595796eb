"""What the leading scheduler does beside its passes, each in a thread of its own: archiving logs, cleaning up,
recording history.

A chore never holds up a pass and never ends the process: what goes wrong is said once, and tried again after a growing
pause. It needs no lease of its own: two leaders at a chore do no harm (`jobs/archiver.py`, `jobs/retention.py`).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis
from django.db import Error as DatabaseFailure
from django.db import connection

from jobs import archiver, leadership
from jobs.archive import ArchiveUnavailable
from jobs.observing import Recorder
from jobs.retention import Cleaner

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
END_SECONDS = 10.0
"""How long the end of the process waits for chores; what one of them was at is taken up by the next leader."""


class Chore(threading.Thread):
    """Calls `work` again and again; it says in how many seconds it wants to be called next."""

    def __init__(self, name: str, work: Callable[[], float]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._ending = threading.Event()
        self._failures = 0

    def end(self) -> None:
        self._ending.set()

    def run(self) -> None:
        pause = 0.0
        try:
            while not self._ending.wait(pause):
                pause = self._once()
        finally:
            connection.close()

    def _once(self) -> float:
        try:
            leadership.bound_transactions()
            pause = self._work()
        except (redis.RedisError, DatabaseFailure, ArchiveUnavailable) as error:
            return self._failed(" ".join(str(error).split()) or type(error).__name__)
        except Exception as error:
            logger.exception("%s failed", self.name)
            return self._failed(repr(error))
        if self._failures:
            logger.info("%s goes on", self.name)
        self._failures = 0
        return pause

    def _failed(self, why: str) -> float:
        connection.close()
        if not self._failures:
            logger.error("%s waits, and tries again: %s", self.name, why)
        self._failures += 1
        return float(min(LONGEST_PAUSE, 2 ** (self._failures - 1)))


@contextmanager
def chores() -> Iterator[None]:
    """While inside, logs are archived, what is too old is deleted, and the charts' history is recorded."""
    running = [
        Chore("archiving logs", archiver.work),
        Chore("cleaning up", Cleaner().work),
        Chore("recording history", Recorder().work),
    ]
    for chore in running:
        chore.start()
    try:
        yield
    finally:
        deadline = time.monotonic() + END_SECONDS
        for chore in running:
            chore.end()
        for chore in running:
            chore.join(max(0.0, deadline - time.monotonic()))
