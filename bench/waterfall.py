"""Where the time of one job goes: from before `POST /jobs` to its final state in the database, step by step.

    python -m bench.waterfall --jobs 50

One job at a time, on one agent with a real Docker Engine, all on this machine, so that one clock tells all times. They
are those that the system itself notes with every job (its page shows them), and the client's around them.
docs/waterfall.md explains the steps.
"""

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import docker

from bench.overhead import COMMAND, IMAGE, committed
from bench.report import milliseconds, percentile, print_conditions, print_table
from script.sample_image import import_busybox
from tests.cluster import Cluster

NOTED = "accepted_at, created_at, started_at, running_since, finished_at, placed_at"
STEPS = [
    ("request sent → job accepted", "sent", "submitted"),
    ("job accepted → placed", "submitted", "placed"),
    ("placed → taken by the agent", "placed", "accepted"),
    ("taken → container created", "accepted", "created"),
    ("created → command runs", "created", "started"),
    ("command runs → RUNNING by the scheduler", "started", "running"),
    ("command runs → it ended", "started", "ended"),
    ("it ended → final state committed", "ended", "final"),
    ("request sent → answered", "sent", "answered"),
    ("request sent → command runs", "sent", "started"),
]


def waterfall(cluster: Cluster, database: sqlite3.Connection) -> dict[str, float]:
    """When each moment of one job's life was, in seconds since the epoch."""
    moments = {"sent": time.time()}
    job_id = cluster.submit(*COMMAND)
    moments["answered"] = time.time()
    moments["final"] = committed(database, job_id, "SUCCEEDED")
    key = uuid.UUID(job_id).hex
    (submitted,) = database.execute("SELECT submitted_at FROM jobs_job WHERE id = ?", [key]).fetchone()
    noted = database.execute(f"SELECT {NOTED} FROM jobs_attempt WHERE job_id = ?", [key]).fetchone()  # noqa: S608
    names = ("accepted", "created", "started", "running", "ended", "placed")
    times = zip(("submitted", *names), (submitted, *noted), strict=True)
    return moments | {name: datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for name, text in times}


def measure(jobs: int) -> None:
    engine = docker.from_env()
    import_busybox(engine, IMAGE)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), IMAGE, engine) as cluster:
        cluster.start_web()
        cluster.start_scheduler()
        cluster.start_agent()
        database = sqlite3.connect(f"file:{folder}/var/db.sqlite3?mode=ro", uri=True, isolation_level=None)
        waterfall(cluster, database)  # the first warms caches and is not counted
        found = [waterfall(cluster, database) for _ in range(jobs)]
        database.close()
    print_conditions("Where the time of one job goes", engine, jobs=jobs, database="SQLite", load_before=f"{load:.1f}")
    rows = []
    for name, begin, end in STEPS:
        taken = [moments[end] - moments[begin] for moments in found]
        rows.append((name, milliseconds(statistics.median(taken)), milliseconds(percentile(taken, 95))))
    print_table(("step", "p50", "p95"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50)
    measure(parser.parse_args().jobs)
