"""How the cost of scheduling grows: executors and queue are doubled, and the exponent of each part's cost is printed.

    python -m bench.growth

An exponent of 1 means that double the size costs double, 0 that size does not matter. It is fitted over the upper half
of the sizes, where what does not grow hides least. Eight shapes of jobs, of which more than fit wait after the pass;
the event is an attempt that ends, and what follows is one placement among all that wait.

Twice: the decisions alone, and the leader's passes as they are, with SQLite and Redis.
"""

import argparse
import gc
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from bench import mixes
from bench.demo import Demo
from bench.report import print_machine, print_table
from jobs.scheduling import explain
from jobs.scheduling.cluster import ClusterState, new_state
from tests.cluster import ROOT

EXECUTORS_MEANWHILE, JOBS_MEANWHILE = 100, 200_000
EVENTS = 100
NOW = datetime(2026, 11, 24, tzinfo=UTC)

PARTS = ("whole pass", "pass after one event", "why one job waits")


def doubled(least: int, most: int) -> list[int]:
    """From `least` up to `most`, the last step perhaps a shorter one."""
    sizes = [least]
    while sizes[-1] * 2 < most:
        sizes.append(sizes[-1] * 2)
    return [*sizes, most]


def costs(executor_count: int, job_count: int, rounds: int) -> tuple[float, float, float]:
    """Median seconds of each part, over as many rounds."""
    views, jobs = mixes.executors(executor_count), mixes.eight_shapes(job_count)
    passes, after, explained = [], [], []
    for number in range(rounds):
        state = new_state(views, jobs)
        state.place(0)
        gc.collect()
        passes.append(_seconds(state.place))
        live = [job_id for job_id, _, _ in state.attempts()]
        ending = random.Random(number).sample(live, min(100, len(live)))
        after += [_seconds(_end_and_place, state, job_id) for job_id in ending]
        executors = state.executors()
        explained += [_seconds(explain.why_waiting, jobs[0].requirements, executors, {}, NOW) for _ in range(5)]
    return statistics.median(passes), statistics.median(after), statistics.median(explained)


def _end_and_place(state: ClusterState, job_id: UUID) -> None:
    state.attempt_ended(job_id)
    state.place()


def _seconds(what: Callable[..., object], *arguments: object) -> float:
    begin = time.perf_counter()
    what(*arguments)
    return time.perf_counter() - begin


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of the line through the logarithms, over the upper half of the sizes."""
    half = min(len(sizes) // 2, len(sizes) - 2)
    slope, _ = statistics.linear_regression(
        [math.log(size) for size in sizes[half:]], [math.log(cost) for cost in seconds[half:]]
    )
    return slope


def sweep(what: str, sizes: Sequence[int], cost: Callable[[int], tuple[float, float, float]]) -> None:
    found = [cost(size) for size in sizes]
    rows = [
        (f"{size:,}", *(f"{1000 * seconds:.3f} ms" for seconds in costs))
        for size, costs in zip(sizes, found, strict=True)
    ]
    by_part = list(zip(*found, strict=True))
    rows.append(("**exponent**", *(f"**{exponent(sizes, seconds):.2f}**" for seconds in by_part)))
    print_table((what, *PARTS), rows)


# --- The leader's passes -----------------------------------------------------------------------------------------


def leaders_costs(sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """As `bench.leader.Costs`, one for each number of executors and pending jobs, which never fall."""
    found, had = [], (0, 0)
    with tempfile.TemporaryDirectory() as folder, Demo(Path(folder), LOG_LEVEL="WARNING") as demo:
        for number, wanted in enumerate(sizes):
            _in_system(demo, f"fill({had}, {wanted})")
            found.append(json.loads(_in_system(demo, f"measure({10**7 + number * EVENTS}, {EVENTS})")))
            had = wanted
    return found


def _in_system(demo: Demo, call: str) -> str:
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", f"from bench import leader; leader.{call}"]
    return subprocess.run(command, cwd=ROOT, env=demo.env, check=True, stdout=subprocess.PIPE, text=True).stdout


def sweep_leader(what: str, sizes: Sequence[tuple[int, int]], varied: Sequence[int]) -> None:
    found = leaders_costs(sizes)
    rows = [
        (f"{size:,}", f"{1000 * item['after_submission']:.2f} ms", f"{1000 * item['after_end']:.2f} ms",
         f"{item['first']:.2f} s", f"{item['whole']:.2f} s", f"{item['memory'] / 1024**2:.0f} MiB")
        for size, item in zip(varied, found, strict=True)
    ]  # fmt: skip
    parts = ("after_submission", "after_end", "first", "whole", "memory")
    exponents = [exponent(varied, [item[part] for item in found]) for part in parts]
    rows.append(("**exponent**", *(f"**{number:.2f}**" for number in exponents)))
    header = ("pass after a submission", "after an end", "taking the lead, first pass", "until all is read", "memory")
    print_table((what, *header), rows)


def measure(most_executors: int, most_jobs: int, rounds: int) -> None:
    print_machine("Growth", mix="eight shapes", rounds=rounds)
    meanwhile = min(JOBS_MEANWHILE, most_jobs)
    print(f"Executors doubled, {meanwhile:,} jobs:\n")
    sweep("executors", doubled(10, most_executors), lambda size: costs(size, meanwhile, rounds))
    print(f"Jobs doubled, {EXECUTORS_MEANWHILE} executors:\n")
    sweep("pending jobs", doubled(1000, most_jobs), lambda size: costs(EXECUTORS_MEANWHILE, size, rounds))
    print(f"The leader's passes with SQLite and Redis. Executors doubled, {meanwhile:,} jobs:\n")
    executors = doubled(10, most_executors)
    sweep_leader("executors", [(size, meanwhile) for size in executors], executors)
    print(f"Jobs doubled, {EXECUTORS_MEANWHILE} executors:\n")
    jobs = doubled(1000, most_jobs)
    sweep_leader("pending jobs", [(EXECUTORS_MEANWHILE, size) for size in jobs], jobs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", type=int, default=5_000, help="doubled from 10 up to this")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="doubled from 1,000 up to this")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    measure(arguments.executors, arguments.jobs, arguments.rounds)
