"""Starting containers: one node's agent beside `docker run --rm` and docker-py, and what many quiet jobs cost it.

    python -m bench.start --jobs 200 --quiet 100

A real agent gets its commands through a real Redis, as from a scheduler. All containers run `true` (or `sleep`) from
the same image under the same limits. Containers a second: from the first command until the last container is removed,
all commands sent at once; the command line and docker-py at whichever of several concurrencies was best in a short
trial. An agent has two sandboxes at its node's first burst; after one, and a restart of the agent in between, as many
as came, or as its memory is enough for. Placed to running, one job at a time: from the command until the agent's word
that it runs; of the command line and docker-py until the container was started. CPU a job is that of the agent's
process, of docker-py's, and of all `docker` processes.
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
from dataclasses import dataclass
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
PATIENCE = 900
"""Seconds after which something must be wrong."""


@dataclass
class Burst:
    """Containers a second, and seconds of the client's CPU a job: this process and its children, or the agent."""

    rate: float
    cpu: float


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


def rate(once: Callable[[], None], jobs: int, concurrency: int) -> Burst:
    before, begin = _cpu(), time.monotonic()
    with ThreadPoolExecutor(concurrency) as threads:
        for done in [threads.submit(once) for _ in range(jobs)]:
            done.result()
    return Burst(jobs / (time.monotonic() - begin), (_cpu() - before) / jobs)


def best(once: Callable[[], None], trial: int) -> int:
    """The concurrency at which a trial of so many containers was fastest."""
    return max(CONCURRENCIES, key=lambda concurrency: rate(once, trial, concurrency).rate)


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
        self.agent = AgentProcess(folder / "agent", url, redis.Redis(port=port), **settings)
        self.launch()
        self._heard, self._last_event = Counter[type](), "-"

    def launch(self) -> None:
        self.agent.start()
        assert self.agent.process
        self.process = psutil.Process(self.agent.process.pid)

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


def burst(here: Node, jobs: int) -> Burst:
    ended = here.listen()[AttemptFinished]
    before, begin = here.cpu(), time.monotonic()
    here.start(jobs, TRUE)
    here.heard(AttemptFinished, ended + jobs)
    here.gone()
    return Burst(jobs / (time.monotonic() - begin), (here.cpu() - before) / jobs)


@contextmanager
def warmed(engine: docker.DockerClient, pool: str) -> Iterator[tuple[Node, int]]:
    """A node that has run one job, with its few sandboxes, and how many it may have at most."""
    with node(engine, AGENT_SANDBOX_POOL=pool, AGENT_MEMORY_GB="") as here:
        most = here.agent.events(Hello)[-1].reserve_memory_bytes // SANDBOX_MEMORY
        here.warm(min(FEW, most))
        here.start(1, TRUE)
        here.heard(AttemptFinished, 1)  # The first warms caches.
        here.gone()
        here.warm(min(FEW, most))
        yield here, most


@dataclass
class Pool:
    """A full one: sandboxes, seconds from the agent's start until it was full; its cost while nothing happens: CPU of
    the engine and the agent as parts of a core, bytes of memory. (Every ten minutes one is replaced, with 0.3 s.)"""

    sandboxes: int
    filled: float
    engine: float
    agent: float
    memory: int


def fill(here: Node, sandboxes: int, seconds: float) -> Pool:
    """Restart the agent and wait until it has made what it remembers that it needs; then watch it."""
    here.agent.terminate()
    free, begin = psutil.virtual_memory().available, time.monotonic()
    here.launch()
    here.warm(sandboxes)
    filled = time.monotonic() - begin
    time.sleep(5)
    memory = free - psutil.virtual_memory().available
    before, agent, begin = engine_cpu(), here.cpu(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    return Pool(sandboxes, filled, (engine_cpu() - before) / took, (here.cpu() - agent) / took, memory)


def engine_cpu() -> float:
    """Seconds of the engine's processes on this machine, and of what they ran."""
    names = ("dockerd", "containerd", "containerd-shim")
    return sum(
        sum(process.info["cpu_times"][:4])
        for process in psutil.process_iter(["name", "cpu_times"])
        if process.info["name"].startswith(names)
    )


# --- Tables ----------------------------------------------------------------------------------------------------


def throughput(engine: docker.DockerClient, jobs: int, seconds: float) -> None:
    trial = max(4, jobs // 6)
    at = {once: best(once, trial) for once in (run_rm, four_calls)}
    load = os.getloadavg()[0]
    cli, py = (rate(once, jobs, at[once]) for once in (run_rm, four_calls))
    found = [("docker run --rm", cli), ("docker-py", py)]
    with warmed(engine, "0") as (here, _):
        found.append(("agent without sandboxes", burst(here, jobs)))
    with warmed(engine, "") as (here, most):
        found.append(("agent, the node's first burst", burst(here, jobs)))
        pool = fill(here, min(jobs, most), seconds)
        found.append(("agent, restarted since a burst", burst(here, jobs)))
    rows = [
        [name, f"{one.rate:.1f}", f"{one.rate / max(cli.rate, py.rate):.2f}", milliseconds(one.cpu)]
        for name, one in found
    ]
    print_conditions(
        "Containers a second on one node",
        engine,
        jobs=jobs,
        command="true",
        at_a_time=f"docker run {at[run_rm]}, docker-py {at[four_calls]}",
        load_before=f"{load:.1f}",
    )
    print_table(("", "containers/s", "of the better client", "client's CPU a job"), rows)
    print_conditions("A full pool of sandboxes while nothing happens", engine, seconds=f"{seconds:g}")
    share = [f"{100 * share:.2f} %" for share in (pool.engine, pool.agent)]
    print_table(
        (
            "sandboxes",
            "full after the agent's start",
            "engine's CPU, of a core",
            "agent's CPU, of a core",
            "memory, MiB",
        ),
        [[pool.sandboxes, f"{pool.filled:.0f} s", *share, f"{pool.memory / MB:.0f}"]],
    )


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
    parser.add_argument("--seconds", type=float, default=60, help="for which quiet jobs and sandboxes are watched")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # What was started is ended and removed.
    here = docker.from_env()
    import_busybox(here, IMAGE)
    if arguments.single:
        one_at_a_time(here, arguments.single)
    if arguments.jobs:
        throughput(here, arguments.jobs, arguments.seconds)
    if arguments.quiet:
        quiet(here, arguments.quiet, arguments.seconds)
