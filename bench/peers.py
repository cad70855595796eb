"""What is run beside `bench.lifecycle`: Celery over Redis and HyperQueue, with tasks that do nothing."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis
from celery import Celery, Task

try:
    from hyperqueue import Job
    from hyperqueue.cluster import LocalCluster, WorkerConfig
except ImportError:  # its wheel is not made for every machine
    Job = None

from tests.parts import free_port, start_redis

app = Celery("bench.peers", broker=os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0"))
app.conf.update(result_backend=os.environ.get("CELERY_BROKER_URL"), worker_hijack_root_logger=False)


@app.task(ignore_result=True)
def nothing() -> None:
    """A task whose outcome nobody keeps."""


@app.task
def nothing_kept() -> None:
    """A task whose outcome is kept in Redis."""


def celery_rate(tasks: int, keep_results: bool) -> float:
    """Tasks a second, from the first that is submitted to the last that ended; a worker with a process a core."""
    with tempfile.TemporaryDirectory(prefix="workload-runner-bench-") as directory:
        port = free_port()
        server = start_redis(Path(directory), port)
        env = {**os.environ, "CELERY_BROKER_URL": f"redis://127.0.0.1:{port}/0"}
        command = [sys.executable, "-m", "celery", "-A", "bench.peers", "worker", "--loglevel=ERROR"]
        command += ["-c", str(os.cpu_count() or 1)]
        worker = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return _rate("celery-kept" if keep_results else "celery", tasks, env)
        finally:
            worker.terminate()
            worker.wait(30)
            server.terminate()
            server.wait(30)


def hyperqueue_rate(tasks: int) -> float | None:
    """Tasks of `true` a second, submitted together to a local server with one worker of all cores; None where there is
    no HyperQueue for this machine."""
    return _rate("hyperqueue", tasks, dict(os.environ)) if Job is not None else None


def _rate(peer: str, tasks: int, env: dict[str, str]) -> float:
    """What a process of its own measures: Celery reads its settings once, and HyperQueue prints all sorts of things."""
    command = [sys.executable, "-m", "bench.peers", peer, str(tasks)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


# --- In that process ---------------------------------------------------------------------------------------------


def _through_celery(tasks: int, task: Task) -> float:
    client = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"])
    task.delay()
    _wait_until_idle(client)  # the worker is up
    begin = time.perf_counter()
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(tasks):
            task.apply_async(producer=producer)
    _wait_until_idle(client)
    return tasks / (time.perf_counter() - begin)


def _wait_until_idle(client: redis.Redis) -> None:
    while client.llen("celery") or client.hlen("unacked"):
        time.sleep(0.01)


def _through_hyperqueue(tasks: int) -> float:
    true = shutil.which("true") or "true"
    with (
        tempfile.TemporaryDirectory(prefix="workload-runner-bench-") as directory,
        LocalCluster(worker_config=WorkerConfig(cores=os.cpu_count())) as cluster,
    ):
        client = cluster.client()
        job = Job(default_workdir=directory)
        for _ in range(tasks):
            job.program([true])
        begin = time.perf_counter()
        client.wait_for_jobs([client.submit(job)])
        return tasks / (time.perf_counter() - begin)


if __name__ == "__main__":
    name, count = sys.argv[1], int(sys.argv[2])
    if name == "hyperqueue":
        print(_through_hyperqueue(count))
    else:
        print(_through_celery(count, nothing_kept if name == "celery-kept" else nothing))
