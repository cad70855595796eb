"""A stream of jobs of known output while everything else is killed, paused, partitioned and emptied at random.

    python -m bench.chaos --minutes 10 --seed 1

Real web, two schedulers, Redis and two agents, each agent's way to Redis through a forwarder that can be cut. Two
threads do harm: one to stores and servers, one to nodes and containers, so faults of the two kinds overlap. The seed
decides jobs and faults; how they meet is the machine's. At the moment of each fault a small job is submitted: how long
after the fault's end that job took to its own end is the recovery time.

What is believed is the engine's own event stream, the database read directly, and the logs: as they lie in Redis when a
job has ended, and at the end each once more as users get it, out of archive and Redis. Exits with 1 where anything that
must be 0 is not; what the processes printed is then kept.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import docker

from bench.chaos_run import Chaos, run
from bench.report import percentile, print_conditions, print_table
from script.sample_image import import_busybox
from tests.cluster import FINAL, Cluster

IMAGE = "workload-runner-bench:latest"
SETTINGS = {"ABORT_GRACE_SECONDS": "2"}
"""Of the whole cluster, besides the short intervals of `tests.cluster`."""
MUST_BE_0 = [
    "submissions answered with an error",
    "jobs lost",
    "jobs that ended wrongly",
    "attempts run twice",
    "over-commit instants",
    "final states that changed",
    "ends that differ from the engine's",
    "log lines missing",
    "log lines doubled",
    "log lines garbled",
    "logs never complete",
    "containers left",
    "stream entries left",
    "what checkinvariants finds",
]


def report(chaos: Chaos) -> None:
    """The tables, and every finding in words."""
    ended = Counter(f"{state} ({reason})" for state, reason, _, _ in chaos.states.values())
    rows: list[tuple[str, object]] = [
        ("jobs accepted", len(chaos.jobs) + len(chaos.probes)),
        (
            "jobs final, with those whose acceptance a killed web server could not tell",
            sum(state[0] in FINAL for state in chaos.states.values()),
        ),
        ("containers started", sum(chaos.witness.starts().values())),
        ("logs read and checked, in Redis and in the end", chaos.logs_read),
        ("lines of them", chaos.lines_read),
    ]
    findings = chaos.findings.by_kind
    rows += [(f"**{kind}**", f"**{len(findings.get(kind, []))}**") for kind in MUST_BE_0]
    print_table(("", "count"), rows)
    print_table(("ended as", "jobs"), ended.most_common())
    by_fault = defaultdict(list)
    for harm in chaos.harms:
        by_fault[harm.fault].append(harm)
    times = []
    for fault, harms in sorted(by_fault.items()):
        took = [max(0.0, harm.recovered - harm.ended) for harm in harms if harm.recovered]
        figures = (f"{percentile(took, 50):.2f} s", f"{max(took):.2f} s") if took else ("", "")
        times.append((fault, len(harms), *figures))
    print_table(("fault", "times", "recovery p50", "max"), times)
    for kind, sentences in findings.items():
        for sentence in sentences[:20]:
            print(f"{kind}: {sentence}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long faults go on (default 10)")
    parser.add_argument("--seed", type=int, default=1, help="decides jobs and faults (default 1)")
    arguments = parser.parse_args()
    engine = docker.from_env()
    import_busybox(engine, IMAGE)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with Cluster(folder, IMAGE, engine, **SETTINGS) as cluster:
        chaos = run(cluster, arguments.minutes * 60, arguments.seed)
    print_conditions("Chaos", engine, minutes=arguments.minutes, seed=arguments.seed, database="SQLite")
    report(chaos)
    if chaos.findings.by_kind:
        print(f"What the processes printed is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
