"""What the system adds to one container: submit to running, and end to final state, beside docker-py in the same run.

    python -m bench.overhead --jobs 100

The two take turns, one container each. Docker-py: `create` and `start` until it returns, then from the container's end
until `wait` returns. The system: from before `POST /jobs` until RUNNING is committed in the database, then from the
container's end until the final state is committed. The database is read directly, so that nothing is hidden by a poll
over HTTP, and the container's end is the engine's own `FinishedAt`.
"""

import argparse
import sqlite3
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import docker

from bench.report import milliseconds, percentile, print_conditions, print_table
from script.sample_image import import_busybox
from tests.cluster import Cluster

COMMAND = ["sleep", "0.3"]
IMAGE = "workload-runner-bench:latest"


def engine_time(text: str) -> float:
    """Seconds since the epoch of the engine's RFC 3339 time, to the microsecond."""
    return datetime.fromisoformat(text[:26].rstrip("Z")).replace(tzinfo=UTC).timestamp()


def bare_container(engine: docker.DockerClient) -> tuple[float, float]:
    """Seconds to running, and from the end until `wait` said so."""
    api = engine.api
    begin = time.time()
    host_config = api.create_host_config(
        mem_limit=64 * 1024**2,
        memswap_limit=64 * 1024**2,
        nano_cpus=100_000_000,
        pids_limit=4096,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        init=True,
    )
    container = api.create_container(IMAGE, COMMAND, host_config=host_config)["Id"]
    api.start(container)
    running = time.time() - begin
    api.wait(container)
    noticed = time.time()
    ended = engine_time(api.inspect_container(container)["State"]["FinishedAt"])
    api.remove_container(container, v=True)
    return running, noticed - ended


def job(cluster: Cluster, database: sqlite3.Connection) -> tuple[float, float]:
    """Seconds from the submission to RUNNING, and from the container's end to the final state, both as committed."""
    begin = time.time()
    job_id = cluster.submit(*COMMAND)
    running = committed(database, job_id, "RUNNING") - begin
    final = committed(database, job_id, "SUCCEEDED")
    ended = datetime.fromisoformat(cluster.job(job_id)["finished_at"]).timestamp()
    return running, final - ended


def committed(database: sqlite3.Connection, job_id: str, state: str) -> float:
    """The time at which the job's row had this state; raises RuntimeError where it ended in another."""
    key = uuid.UUID(job_id).hex
    while True:
        (now,) = database.execute("SELECT state FROM jobs_job WHERE id = ?", [key]).fetchone()
        if now == state:
            return time.time()
        if now in ("FAILED", "ABORTED", "SUCCEEDED"):
            raise RuntimeError(f"job {job_id} is {now}, not {state}")
        time.sleep(0.001)


def measure(jobs: int) -> None:
    engine = docker.from_env()
    import_busybox(engine, IMAGE)
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), IMAGE, engine) as cluster:
        cluster.start_web()
        cluster.start_scheduler()
        cluster.start_agent()
        database = sqlite3.connect(f"file:{folder}/var/db.sqlite3?mode=ro", uri=True, isolation_level=None)
        bare_container(engine), job(cluster, database)  # the first of each warms caches and is not counted
        bare, ours = [], []
        for _ in range(jobs):
            bare.append(bare_container(engine))
            ours.append(job(cluster, database))
        database.close()

    print_conditions("What the system adds to one container", engine, jobs=jobs, database="SQLite")
    rows = []
    for part, name in enumerate(("submit to running", "end to final state")):
        for percent in (50, 95):
            beside = percentile([pair[part] for pair in bare], percent)
            system = percentile([pair[part] for pair in ours], percent)
            rows.append(
                (f"{name}, p{percent}", milliseconds(beside), milliseconds(system), milliseconds(system - beside),
                 f"{system / beside:.2f}")
            )  # fmt: skip
    added = [sum(a) - sum(b) for a, b in zip(ours, bare, strict=True)]
    rows.append(("both together, added, p50", "", "", milliseconds(percentile(added, 50)), ""))
    print_table(("", "docker-py", "the system", "added", "ratio"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100, help="jobs of each kind (default 100)")
    measure(parser.parse_args().jobs)
