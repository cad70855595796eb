"""How the cost of scheduling grows: executors and queue are doubled, and the exponent of each part's cost is printed.

    python -m bench.growth

An exponent of 1 means that double the size costs double, 0 that size does not matter. It is fitted over the upper half
of the sizes, where what does not grow hides least. Eight shapes of jobs, of which more than fit wait after the pass;
the event is an attempt that ends, and what follows is one placement among all that wait.
"""

import argparse
import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from bench import mixes
from bench.report import print_machine, print_table
from jobs.scheduling import explain
from jobs.scheduling.cluster import ClusterState, new_state

EXECUTORS_MEANWHILE, JOBS_MEANWHILE = 100, 200_000
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


def measure(most_executors: int, most_jobs: int, rounds: int) -> None:
    print_machine("Growth", mix="eight shapes", rounds=rounds)
    meanwhile = min(JOBS_MEANWHILE, most_jobs)
    print(f"Executors doubled, {meanwhile:,} jobs:\n")
    sweep("executors", doubled(10, most_executors), lambda size: costs(size, meanwhile, rounds))
    print(f"Jobs doubled, {EXECUTORS_MEANWHILE} executors:\n")
    sweep("pending jobs", doubled(1000, most_jobs), lambda size: costs(EXECUTORS_MEANWHILE, size, rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", type=int, default=5_000, help="doubled from 10 up to this")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="doubled from 1,000 up to this")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    measure(arguments.executors, arguments.jobs, arguments.rounds)
