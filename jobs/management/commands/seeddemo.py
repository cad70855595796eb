"""A demo: made-up executors and jobs, brought to life with --live, removed without a trace with --clear."""

import signal
import threading
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

import redis
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from executors import broker
from executors.models import Executor
from jobs import demo
from jobs.demo_agents import Agents

HELP = """\
Fill the database with a made-up cluster, to look at the pages at any size.

  manage.py seeddemo --executors 200 --jobs 50000     make it
  manage.py seeddemo --live                           play its agents and submit jobs, until Ctrl-C
  manage.py seeddemo --clear                          remove it

Everything made belongs to the user 'demo' and bears the label demo=yes; the ids of its executors begin with 'demo-'.
Called again after it was stopped half-way, with the same numbers, it goes on from there.
With a scheduler running, executors that nobody plays count as lost after three heartbeats. It is refused beside real
executors: give it a database and a Redis of its own.
"""

TELL_SECONDS = 5.0


class Command(BaseCommand):
    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--executors", type=int, default=40, help="how many, 1,000 at most (default 40)")
        parser.add_argument("--jobs", type=int, default=5000, help="how many, 5,000,000 at most (default 5000)")
        parser.add_argument("--days", type=float, default=7, help="over how many days they were submitted (default 7)")
        parser.add_argument("--live", action="store_true", help="play the agents and submit jobs, until Ctrl-C")
        parser.add_argument(
            "--rate", type=float, help="jobs a second submitted with --live (default: 1 per 40 executors)"
        )
        parser.add_argument("--clear", action="store_true", help="remove what an earlier call made, and do no more")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self._handle(options)
        except redis.RedisError as error:
            raise CommandError(f"Redis does not answer: {error}") from error

    def _handle(self, options: dict[str, Any]) -> None:
        client = broker.client()
        client.ping()
        if options["clear"]:
            jobs, executors = demo.clear(client)
            self.stdout.write(f"Removed {jobs} jobs and {executors} executors of the demo.")
            return
        check(options)
        seeded = list(Executor.objects.filter(id__startswith=demo.PREFIX).order_by("id"))
        made = demo.unfinished() if seeded else 0
        if made is not None and made < options["jobs"] and len(seeded) in (0, options["executors"]):
            self._seed(client, options, seeded, made)
        elif not options["live"]:
            raise CommandError(
                f"There is a demo already, of {len(seeded)} executors. Remove it with --clear, or play it with --live."
            )
        if options["live"]:
            self._play(client, options["rate"])

    def _seed(self, client: redis.Redis, options: dict[str, Any], seeded: list[Executor], made: int) -> None:
        begun, now, jobs = time.monotonic(), timezone.now(), options["jobs"]
        if made:
            self.stdout.write(f"Going on where an earlier call stopped, with {made:,} jobs.")
        executors = seeded or demo.make_executors(options["executors"], now)
        told = begun
        for there in demo.make_jobs(jobs, options["days"], executors, now, made):
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self.stdout.write(f"{there:,} of {jobs:,} jobs, {(there - made) / (told - begun):,.0f} a second")
        demo.make_history(client)
        seconds = time.monotonic() - begun
        self.stdout.write(f"Made {len(executors)} executors and {jobs} jobs in {seconds:.1f} s.")

    def _play(self, client: redis.Redis, rate: float | None) -> None:
        ending = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ending.set())
        count = Executor.objects.filter(id__startswith=demo.PREFIX).count()
        self.stdout.write(f"Playing {count} executors; Ctrl-C ends it.")
        Agents(client, max(0.2, count / 40) if rate is None else rate, ending).play()
        self.stdout.write("The demo's executors are silent now.")


def check(options: dict[str, Any]) -> None:
    """Raises CommandError for numbers that make no sense, and beside real executors."""
    for name, least, most in (("executors", 1, 1000), ("jobs", 0, 5_000_000)):
        if not least <= options[name] <= most:
            raise CommandError(f"--{name} must be from {least} to {most}, not {options[name]}.")
    if not 0 < options["days"] <= 365:
        raise CommandError(f"--days must be above 0 and at most 365, not {options['days']:g}.")
    if options["rate"] is not None and not 0 <= options["rate"] <= 500:
        raise CommandError(f"--rate must be from 0 to 500 jobs a second, not {options['rate']:g}.")
    if why := demo.in_the_way():
        raise CommandError(why)
