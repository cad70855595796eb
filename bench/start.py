"""Starting containers: one node's agent beside `docker run --rm` and docker-py, and what many quiet jobs cost it.

    python -m bench.start --jobs 200 --quiet 100

A real agent gets its commands through a real Redis, as from a scheduler. All containers run `true` (or `sleep`) from
the same image under the same limits. Containers a second: from the first command until the last container is removed,
all commands sent at once; the command line and docker-py at whichever of several concurrencies was best in a short
trial. Placed to running, one job at a time: from the command until the agent's word that it runs; of the command line
and docker-py until the container was started. CPU a job is that of the agent's process, of docker-py's, and of all
`docker` processes.
"""

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import psutil
import redis

from agent.containers import SANDBOX_MEMORY
from agent.protocol import FIELD, AttemptFinished, AttemptRunning, Hello, StartAttempt, decode
from agent.sandboxes import FEW
from bench.report import milliseconds, percentile, print_conditions, print_table
from script.sample_image import import_busybox
from tests.agent.harness import MB, AgentProcess
from tests.parts import free_port, start_redis

IMAGE = "workload-runner-bench:latest"
CORES, MEMORY, PIDS = 0.5, 64 * MB, 4096
TRUE, BRIEFLY = ["true"], ["sleep", "0.2"]
CONCURRENCIES = (2, 4, 8, 16)
POOLS = (("0", "no sandboxes"), ("2", "2 sandboxes at most"), ("", "its own settings"))
"""What AGENT_SANDBOX_POOL is set to."""
PATIENCE = 900
"""Seconds after which something must be wrong."""


# --- Beside it -------------------------------------------------------------------------------------------------


def command_line(command: list[str], *more: str) -> None:
    limits = [
        f"--cpus={CORES}", f"--memory={MEMORY}", f"--memory-swap={MEMORY}", f"--pids-limit={PIDS}", "--cap-drop=ALL",
        "--security-opt=no-new-privileges", "--init",
    ]  # fmt: skip
    subprocess.run(["docker", "run", *limits, *more, IMAGE, *command], check=True, stdout=subprocess.DEVNULL)


def run_rm() -> None:
    command_line(TRUE, "--rm")


_own = threading.local()


def docker_py() -> docker.APIClient:
    """This thread's own client."""
    if not hasattr(_own, "client"):
        _own.client = docker.APIClient(version="auto")
    client: docker.APIClient = _own.client
    return client


def create(api: docker.APIClient, command: list[str]) -> str:
    host_config = api.create_host_config(
        cpu_period=100_000, cpu_quota=int(CORES * 100_000), mem_limit=MEMORY, memswap_limit=MEMORY, pids_limit=PIDS,
        cap_drop=["ALL"], security_opt=["no-new-privileges"], init=True,
    )  # fmt: skip
    return str(api.create_container(IMAGE, command, host_config=host_config)["Id"])


def four_calls() -> None:
    api = docker_py()
    container = create(api, TRUE)
    api.start(container)
    api.wait(container)
    api.remove_container(container, v=True)


def rate(once: Callable[[], None], jobs: int, concurrency: int) -> tuple[float, float]:
    """Containers a second, and seconds of CPU a job of this process and its children."""
    before, begin = _cpu(), time.monotonic()
    with ThreadPoolExecutor(concurrency) as threads:
        for done in [threads.submit(once) for _ in range(jobs)]:
            done.result()
    return jobs / (time.monotonic() - begin), (_cpu() - before) / jobs


def best(once: Callable[[], None], trial: int) -> int:
    """The concurrency at which a trial of so many containers was fastest."""
    return max(CONCURRENCIES, key=lambda concurrency: rate(once, trial, concurrency)[0])


def _cpu() -> float:
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


# --- The agent -------------------------------------------------------------------------------------------------


class Node:
    """An agent with room for everything, and the Redis between."""

    def __init__(self, folder: Path, engine: docker.DockerClient, **environment: str) -> None:
        port = free_port()
        self.engine = engine
        self._server = start_redis(folder, port)
        settings = {"AGENT_CPU_CORES": "1000", "AGENT_MEMORY_GB": "100", "HEARTBEAT_INTERVAL": "30", **environment}
        settings |= {"JOB_POLL_INTERVAL": "10", "AGENT_SAMPLE_INTERVAL": "10"}
        url = f"redis://127.0.0.1:{port}/0"
        self.agent = AgentProcess(folder / "agent", url, redis.Redis(port=port), **settings).start()
        assert self.agent.process
        self.process = psutil.Process(self.agent.process.pid)
        self._heard, self._last_event = Counter[type](), "-"

    def close(self) -> None:
        if self.agent.process and self.agent.process.poll() is None:
            self.agent.kill()
        with ThreadPoolExecutor(8) as threads:
            for container in self.agent.containers(self.engine):
                threads.submit(docker_py().remove_container, container.id, force=True, v=True)
        self._server.terminate()
        self._server.wait()

    def warm(self, number: int) -> None:
        """Until so many idle sandboxes run."""
        filters = {"label": [f"workload-runner.executor={self.agent.id}", "workload-runner.sandbox"]}
        self._wait(lambda: len(self.engine.api.containers(filters=filters)) >= number, 0.1)

    def start(self, number: int, command: list[str]) -> list[StartAttempt]:
        fields = {"cpu_millicores": int(CORES * 1000), "memory_bytes": MEMORY, "timeout_seconds": PATIENCE}
        return [self.agent.run(IMAGE, command, **fields) for _ in range(number)]

    def gone(self) -> None:
        """Until no attempt has a container."""
        filters = {"label": [f"workload-runner.executor={self.agent.id}", "workload-runner.job"]}
        self._wait(lambda: not self.engine.api.containers(all=True, filters=filters), 0.05)

    def heard(self, kind: type, number: int) -> float:
        """Until so many events of a kind came; the time."""
        self._wait(lambda: self.listen()[kind] >= number, 0.002 if number < 100 else 0.05)
        return time.monotonic()

    def listen(self) -> Counter[type]:
        """How many events of each kind there were. Each is read once: what waits must not take the agent's cores."""
        entries: Any = self.agent.client.xrange(self.agent.keys.events, min=self._last_event)
        for entry_id, fields in entries:
            self._heard[type(decode(fields[FIELD]))] += 1
            self._last_event = f"({entry_id.decode()}"
        return self._heard

    def cpu(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def _wait(self, true: Callable[[], bool], pause: float) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline or not self.process.is_running():
                raise RuntimeError(f"the agent did not get there; its log ends so:\n{self.agent.log[-2000:]}")
            time.sleep(pause)


@contextmanager
def node(engine: docker.DockerClient, **environment: str) -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="workload-runner-bench-") as folder:
        made = Node(Path(folder), engine, **environment)
        try:
            yield made
        finally:
            made.close()


def bursts(engine: docker.DockerClient, jobs: int, pool: str) -> list[tuple[float, float]]:
    """Containers a second, and seconds of the agent's CPU a job: of a first burst and, where sandboxes are kept, of
    another like it, when the agent has made what it wants for that. `pool` is the agent's setting, '' its default."""
    with node(engine, AGENT_SANDBOX_POOL=pool, AGENT_MEMORY_GB="") as here:
        reserve = here.agent.events(Hello)[-1].reserve_memory_bytes
        most = reserve // SANDBOX_MEMORY
        here.warm(min(FEW, most))
        here.start(1, TRUE)
        here.heard(AttemptFinished, 1)  # The first warms caches.
        here.gone()
        found = []
        for sandboxes in (FEW, jobs) if most else (0,):
            here.warm(min(sandboxes, most))
            ended = here.listen()[AttemptFinished]
            before, begin = here.cpu(), time.monotonic()
            here.start(jobs, TRUE)
            here.heard(AttemptFinished, ended + jobs)
            here.gone()
            found.append((jobs / (time.monotonic() - begin), (here.cpu() - before) / jobs))
        return found


# --- Tables ----------------------------------------------------------------------------------------------------


def throughput(engine: docker.DockerClient, jobs: int) -> None:
    trial = max(4, jobs // 6)
    at = {once: best(once, trial) for once in (run_rm, four_calls)}
    load = os.getloadavg()[0]
    cli, py = (rate(once, jobs, at[once]) for once in (run_rm, four_calls))
    rows: list[list[object]] = [
        [f"docker run --rm, {at[run_rm]} at a time", f"{cli[0]:.1f}", "", milliseconds(cli[1])],
        [f"docker-py, {at[four_calls]} at a time", f"{py[0]:.1f}", "", milliseconds(py[1])],
    ]
    for pool, name in POOLS:
        for here, when in zip(bursts(engine, jobs, pool), ("", ", another such burst"), strict=False):
            ratio = here[0] / max(cli[0], py[0])
            rows.append([f"agent, {name}{when}", f"{here[0]:.1f}", f"{ratio:.2f}", milliseconds(here[1])])
    print_conditions("Containers a second on one node", engine, jobs=jobs, command="true", load_before=f"{load:.1f}")
    print_table(("", "containers/s", "of the better one", "client's CPU a job"), rows)


def one_at_a_time(engine: docker.DockerClient, jobs: int) -> None:
    api = docker_py()
    found: dict[str, list[float]] = {
        "docker run -d": [],
        "docker-py": [],
        "agent, no sandbox": [],
        "agent, sandbox": [],
    }
    with node(engine, AGENT_SANDBOX_POOL="0") as cold, node(engine, AGENT_SANDBOX_POOL="2") as warm:
        for number in range(1, jobs + 1):
            begin = time.monotonic()
            command_line(BRIEFLY, "-d", "--rm")
            found["docker run -d"].append(time.monotonic() - begin)
            time.sleep(0.6)
            begin = time.monotonic()
            container = create(api, BRIEFLY)
            api.start(container)
            found["docker-py"].append(time.monotonic() - begin)
            api.wait(container)
            api.remove_container(container, v=True)
            for name, here, pool in (("agent, no sandbox", cold, 0), ("agent, sandbox", warm, 2)):
                here.warm(pool)
                begin = time.monotonic()
                here.start(1, BRIEFLY)
                found[name].append(here.heard(AttemptRunning, number) - begin)
                here.heard(AttemptFinished, number)
                here.gone()
    print_conditions("Placed to running, one job at a time", engine, jobs=jobs, command="sleep 0.2")
    base = statistics.median(found["docker-py"])
    rows = [
        [name, milliseconds(statistics.median(waits)), milliseconds(percentile(waits, 95)),
         f"{statistics.median(waits) / base:.2f}"]
        for name, waits in found.items()
    ]  # fmt: skip
    print_table(("", "p50", "p95", "of docker-py's p50"), rows)


def quiet(engine: docker.DockerClient, numbers: list[int], seconds: float) -> None:
    """What jobs that run and print nothing cost the agent, from when all of them run."""
    rows = []
    for number in numbers:
        with node(engine, AGENT_SANDBOX_POOL="0") as here:
            idle = here.process.memory_info().rss
            here.start(number, ["sleep", str(PATIENCE)])
            here.heard(AttemptRunning, number)
            time.sleep(5)
            before, begin = here.cpu(), time.monotonic()
            time.sleep(seconds)
            share = (here.cpu() - before) / (time.monotonic() - begin)
            memory, threads = here.process.memory_info().rss, here.process.num_threads()
            rows.append(
                [f"{number:,}", f"{100 * share:.1f} %", f"{memory / MB:.0f}", f"{(memory - idle) / number / 1024:.0f}",
                 threads, here.process.num_fds()]
            )  # fmt: skip
    print_conditions("Quiet jobs on one agent", engine, command="sleep", seconds=f"{seconds:g}")
    print_table(("running jobs", "CPU, of a core", "memory, MiB", "KiB a job", "threads", "open files"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="for containers a second")
    parser.add_argument("--single", type=int, default=30, help="jobs one at a time")
    parser.add_argument("--quiet", type=int, nargs="*", default=[100, 1000], help="numbers of running jobs")
    parser.add_argument("--seconds", type=float, default=30, help="for which quiet jobs are watched")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # What was started is ended and removed.
    here = docker.from_env()
    import_busybox(here, IMAGE)
    if arguments.single:
        one_at_a_time(here, arguments.single)
    if arguments.jobs:
        throughput(here, arguments.jobs)
    if arguments.quiet:
        quiet(here, arguments.quiet, arguments.seconds)
