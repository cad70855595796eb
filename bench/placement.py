"""How fast jobs are given executors: a whole pass, and a pass after one event, beside plain NumPy in the same run.

    python -m bench.placement --executors 10000 --jobs 100000

Beside it: for each job in turn one comparison of all executors at once and `argmax`, with the same columns for GPU
models and labels, made beforehand. Both place the same jobs on the same executors with the same GPUs, which is
checked. The three resources are CPU, memory and GPUs (by model, to the device). Nothing else is timed than the
decisions: no database, no Redis.
"""

import argparse
import gc
import random
import statistics
import time
from collections.abc import Sequence

import numpy as np

from bench import mixes
from bench.report import percentile, print_machine, print_table, spread
from jobs.scheduling.cluster import ClusterState, new_state
from jobs.scheduling.placement import PendingJob, Placement
from jobs.scheduling.room import ExecutorView, suitable_gpus


def mask_and_argmax(views: Sequence[ExecutorView], jobs: Sequence[PendingJob]) -> tuple[float, list[Placement]]:
    """Seconds and placements of the plain way; `views` and `jobs` come in their order."""
    cpu = np.array([view.capacity.cpu_millicores for view in views])
    memory = np.array([view.capacity.memory_bytes for view in views])
    free_gpus = [list(view.capacity.gpus) for view in views]
    asked = {job.requirements.gpu_type: job.requirements for job in jobs if job.requirements.gpu_count}
    gpus = {
        gpu_type: np.array([len(suitable_gpus(need, view.capacity)) for view in views])
        for gpu_type, need in asked.items()
    }
    zones = {zone: np.array([view.labels.get("zone") == zone for view in views]) for zone in mixes.ZONES}
    placements = []
    begin = time.perf_counter()
    for job in jobs:
        need = job.requirements
        room = (cpu >= need.cpu_millicores) & (memory >= need.memory_bytes)
        if need.gpu_count:
            room &= gpus[need.gpu_type] >= need.gpu_count
        if need.labels:
            room &= zones[need.labels["zone"]]
        at = room.argmax()
        if not room[at]:
            continue
        cpu[at] -= need.cpu_millicores
        memory[at] -= need.memory_bytes
        indices: list[int] = []
        if need.gpu_count:
            wanted = need.gpu_type.replace("any", "")
            suitable = [gpu for gpu in free_gpus[at] if wanted in gpu.model.lower()]
            indices = [gpu.index for gpu in suitable[: need.gpu_count]]
            free_gpus[at] = [gpu for gpu in free_gpus[at] if gpu.index not in indices]
            for name, column in gpus.items():
                column[at] = sum(name.replace("any", "") in gpu.model.lower() for gpu in free_gpus[at])
        placements.append(Placement(job.id, views[at].id, indices))
    return time.perf_counter() - begin, placements


def whole_pass(
    views: Sequence[ExecutorView], jobs: Sequence[PendingJob]
) -> tuple[float, list[Placement], ClusterState]:
    state = new_state(views, jobs)
    state.place(0)  # what the executors are like is read once, when a scheduler takes the lead
    gc.collect()
    begin = time.perf_counter()
    placements, _ = state.place()
    return time.perf_counter() - begin, placements, state


def passes_after_one_event(state: ClusterState, newcomers: Sequence[PendingJob], events: int) -> list[float]:
    """Seconds of passes, in turn after an attempt ended and after a job was submitted."""
    live = [job_id for job_id, _, _ in state.attempts()]
    ended = random.Random(5).sample(live, min(events, len(live)))
    seconds = []
    for number, job in enumerate(newcomers[:events]):
        for happen in ("submitted", "ended"):
            begin = time.perf_counter()
            if happen == "submitted":
                state.job_added(job)
            elif number < len(ended):
                state.attempt_ended(ended[number])
            state.place()
            seconds.append(time.perf_counter() - begin)
    return seconds


def measure(executor_count: int, job_count: int, rounds: int, events: int) -> None:
    print_machine("Placement", executors=executor_count, pending_jobs=job_count, rounds=rounds)
    rows = []
    for name, (make_executors, make_jobs) in mixes.MIXES.items():
        views, jobs = make_executors(executor_count), make_jobs(job_count + events)
        jobs, newcomers = jobs[:job_count], jobs[job_count:]
        plain, ours, after = [], [], []
        for _ in range(rounds):
            seconds, expected = mask_and_argmax(views, jobs)
            plain.append(seconds)
            seconds, placements, state = whole_pass(views, jobs)
            ours.append(seconds)
            if placements != expected:
                raise RuntimeError(f"{name}: the placements differ")
            after += passes_after_one_event(state, newcomers, events)
        ratios = [a / b for a, b in zip(plain, ours, strict=True)]
        rows.append(
            (name, len({job.shape for job in jobs}), len(placements), spread([1000 * s for s in plain], 0),
             spread([1000 * s for s in ours], 0), spread(ratios, 1), f"{1e6 * statistics.median(after):.0f} µs",
             f"{1e6 * percentile(after, 99):.0f} µs")
        )  # fmt: skip
    print_table(
        ("mix", "shapes", "placed", "mask and argmax, ms", "a whole pass, ms", "times as fast",
         "pass after one event, p50", "p99"),
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=200, help="of each kind, in each round (default 200)")
    arguments = parser.parse_args()
    measure(arguments.executors, arguments.jobs, arguments.rounds, arguments.events)
