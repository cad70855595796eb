"""The scheduler process: stands by until it holds the lease, then leads, pass after pass, until it is told to stop."""

import logging
import logging.handlers
import signal
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import redis
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseFailure
from django.db import connection

from jobs import leadership
from jobs.background import chores
from jobs.leadership import LostLeadership
from jobs.logformat import EachLine
from jobs.scheduler import Scheduler, WrongMemory
from jobs.trouble import Trouble, one_line

logger = logging.getLogger("jobs.scheduler")

RETRY_SECONDS = 1.0
"""Between tries while the database or Redis is away."""

HELP = """\
Place jobs on executors, and take in what their agents report.

Any number of schedulers may run against the same database: one holds the lease and leads, the others stand by and take
over when it stops or dies. SIGTERM and Ctrl-C finish the pass that is running and release the lease, so that a standby
takes over at once; containers are not touched.

What it does is logged to the console and to scheduler.log, one line an action. Settings come from the environment:
  DATABASE_URL, REDIS_URL       where the database and Redis are
  PLACEMENT_STRATEGY            first-fit (default), best-fit or spread
  HEARTBEAT_INTERVAL            seconds; an executor is lost after three without a heartbeat (default 30)
  JOB_POLL_INTERVAL             seconds; the longest wait between passes, should a wake-up get lost (default 10)
  LEASE_SECONDS                 how long after a leader's death a standby takes over at the latest (default 15)
  LOG_DIR                       where scheduler.log is written
"""


class Stopped(BaseException):
    """The process was told to stop while it waited. Like KeyboardInterrupt it is no Exception, so that no library on
    the way swallows it."""


class StopSignal:
    """SIGTERM and SIGINT: noted at any time, and at once where the process only waits."""

    def __init__(self) -> None:
        self.received = False
        self._waiting = False

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around a wait: raises Stopped in it when told to stop. What was read from Redis in that very moment is not
        acknowledged, so the next leader reads it again."""
        self._waiting = True
        try:
            if self.received:
                raise Stopped
            yield
        finally:
            self._waiting = False

    def wait(self, seconds: float) -> None:
        with self.interruptible():
            time.sleep(seconds)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if self._waiting:
            self._waiting = False
            raise Stopped


class Command(BaseCommand):
    help = HELP
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--once", action="store_true", help="apply what is waiting, place what fits, and exit; 1 if another leads"
        )

    def handle(self, *args: Any, once: bool = False, **options: Any) -> None:
        log_to_file()
        stop = StopSignal()
        stop.install()
        try:
            if once:
                run_once(stop)
            else:
                stand_by(stop)
        except Stopped:
            pass
        logger.info("scheduler stopped")


def log_to_file() -> None:
    """Everything the console shows goes to scheduler.log too, which may be rotated by moving it away."""
    settings.LOG_DIR.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.WatchedFileHandler(settings.LOG_DIR / "scheduler.log", encoding="utf-8")
    handler.setFormatter(EachLine("{asctime} {levelname} {name}: {message}", style="{"))
    logging.getLogger().addHandler(handler)


def run_once(stop: StopSignal) -> None:
    """Passes until nothing more is to be done. Raises CommandError where another scheduler leads or a store is away."""
    holder = leadership.new_holder()
    try:
        term = leadership.acquire(holder)
        if term is None:
            raise CommandError("Another scheduler leads; it has the lease.")
        try:
            scheduler = Scheduler(holder, term)
            while not stop.received and scheduler.run_pass().more:
                pass
        finally:
            leadership.release(holder, term)
    except (redis.RedisError, DatabaseFailure, LostLeadership, WrongMemory) as error:
        raise CommandError(f"The pass was not finished: {one_line(error)}") from error


def stand_by(stop: StopSignal) -> None:
    """Take the lease whenever it is free, and lead; returns, or raises Stopped, when told to stop."""
    holder = leadership.new_holder()
    trouble = Trouble(logger, RETRY_SECONDS)
    announced = False
    while not stop.received:
        try:
            leadership.bound_transactions()
            term = leadership.acquire(holder)
        except DatabaseFailure as error:
            trouble.met("the database", error)
            connection.close()
            stop.wait(RETRY_SECONDS)
            continue
        trouble.over("the database")
        if term is not None:
            announced = False
            with chores(), ThreadPoolExecutor(1, "redis") as beside:
                lead(Scheduler(holder, term, interruptible=stop.interruptible, beside=beside), stop, trouble)
            continue
        if not announced:
            logger.info("standing by, another scheduler leads")
            announced = True
        stop.wait(settings.LEASE_SECONDS / 3)


def lead(scheduler: Scheduler, stop: StopSignal, trouble: Trouble) -> None:
    """Pass after pass until told to stop, or until another scheduler leads."""
    logger.info("leading as %s, term %d, %s", scheduler.holder, scheduler.term, settings.PLACEMENT_STRATEGY)
    block = 0.0
    try:
        while not stop.received:
            try:
                block = 0.0 if scheduler.run_pass(block).more else settings.JOB_POLL_INTERVAL
                trouble.over("the database")
                trouble.over("Redis")
                trouble.over("what this process remembers")
                continue
            except redis.RedisError as error:
                trouble.met("Redis", error)
            except DatabaseFailure as error:
                trouble.met("the database", error)
                connection.close()
            except WrongMemory as error:
                trouble.met("what this process remembers", error)
            block = 0.0
            scheduler.start_over()
            stop.wait(RETRY_SECONDS)
            while not lease_kept(scheduler, trouble):
                stop.wait(RETRY_SECONDS)
    except LostLeadership as error:
        logger.warning("%s", error)
    finally:
        scheduler.finish()
        give_up(scheduler)


def lease_kept(scheduler: Scheduler, trouble: Trouble) -> bool:
    """Keeps leading while Redis is away: a standby would not see more of it. False where the database is away too.

    Raises LostLeadership.
    """
    try:
        leadership.bound_transactions()
        leadership.renew(scheduler.holder, scheduler.term)
    except DatabaseFailure as error:
        trouble.met("the database", error)
        connection.close()
        return False
    return True


def give_up(scheduler: Scheduler) -> None:
    """Let a standby take over at once; where the database is away, it will when the lease runs out."""
    try:
        leadership.release(scheduler.holder, scheduler.term)
    except DatabaseFailure as error:
        logger.warning("the lease was not released: %s", one_line(error))
