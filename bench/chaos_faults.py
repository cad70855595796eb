"""The faults that chaos chooses from: what is killed, paused, cut off, emptied or removed, and for how long."""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import docker
from docker.models.containers import Container

from tests.cluster import Cluster
from tests.evidence import LABEL_JOB
from tests.proxy import Proxy

AGENTS, SCHEDULERS = ("a", "b"), ("s1", "s2")
CORES, MEMORY_GB = 1.0, 1.0
"""Of each agent."""


@dataclass(slots=True)
class Victims:
    """What faults are done to, and what the verdict must know of them.

    `removed` counts containers that a fault removed, by job.
    """

    cluster: Cluster
    proxies: dict[str, Proxy]
    removed: "Counter[str]" = field(default_factory=Counter)


def start_agent(victims: Victims, name: str) -> None:
    victims.cluster.launch_agent(
        name,
        REDIS_URL=victims.proxies[name].url,
        AGENT_CPU_CORES=str(CORES),
        AGENT_MEMORY_GB=str(MEMORY_GB),
        AGENT_SAMPLE_INTERVAL="1",
    )


Fault = Callable[[Victims, random.Random], None]


def kill_agent(victims: Victims, choose: random.Random) -> None:
    name = choose.choice(AGENTS)
    victims.cluster.kill(f"agent-{name}")
    time.sleep(choose.choice([0, 0.5, 2]))
    start_agent(victims, name)


def terminate_agent(victims: Victims, choose: random.Random) -> None:
    name = choose.choice(AGENTS)
    victims.cluster.stop(f"agent-{name}")
    start_agent(victims, name)


def pause_agent(victims: Victims, choose: random.Random) -> None:
    _pause(victims, f"agent-{choose.choice(AGENTS)}", choose.uniform(0.2, 2))


def lose_node(victims: Victims, choose: random.Random) -> None:
    _pause(victims, f"agent-{choose.choice(AGENTS)}", choose.uniform(4, 6))


def partition_agent(victims: Victims, choose: random.Random) -> None:
    proxy = victims.proxies[choose.choice(AGENTS)]
    choose.choice([proxy.hang, proxy.cut])()
    time.sleep(choose.uniform(0.2, 6))
    proxy.heal()


def kill_container(victims: Victims, choose: random.Random) -> None:
    _by_hand(victims, choose, lambda container: container.kill())


def remove_container(victims: Victims, choose: random.Random) -> None:
    def remove(container: Container) -> None:
        victims.removed[container.labels[LABEL_JOB]] += 1
        container.remove(force=True)

    _by_hand(victims, choose, remove)


def _by_hand(victims: Victims, choose: random.Random, act: Callable[[Container], None]) -> None:
    running = [container for container in victims.cluster.containers() if container.status == "running"]
    if running:
        container = choose.choice(running)
        with contextlib.suppress(docker.errors.APIError):
            act(container)


def kill_scheduler(victims: Victims, choose: random.Random) -> None:
    name = choose.choice(SCHEDULERS)
    victims.cluster.kill(name)
    time.sleep(choose.choice([0, 1, 4]))
    victims.cluster.start_scheduler(name)


def terminate_scheduler(victims: Victims, choose: random.Random) -> None:
    name = choose.choice(SCHEDULERS)
    victims.cluster.stop(name)
    victims.cluster.start_scheduler(name)


def pause_scheduler(victims: Victims, choose: random.Random) -> None:
    _pause(victims, choose.choice(SCHEDULERS), choose.uniform(0.5, 6))


def kill_web(victims: Victims, choose: random.Random) -> None:
    victims.cluster.kill("web")
    time.sleep(choose.choice([0, 1]))
    victims.cluster.start_web()


def restart_redis(victims: Victims, choose: random.Random) -> None:
    victims.cluster.kill("redis")
    time.sleep(choose.uniform(0, 3))
    victims.cluster.start_redis(empty=False)


def empty_redis(victims: Victims, choose: random.Random) -> None:
    victims.cluster.kill("redis")
    time.sleep(choose.uniform(0, 2))
    victims.cluster.start_redis(empty=True)


def pause_redis(victims: Victims, choose: random.Random) -> None:
    _pause(victims, "redis", choose.uniform(0.5, 4))


def _pause(victims: Victims, process: str, seconds: float) -> None:
    victims.cluster.pause(process)
    time.sleep(seconds)
    victims.cluster.resume(process)


NODE_FAULTS: list[tuple[str, int, Fault]] = [
    ("agent killed", 4, kill_agent),
    ("agent ended with SIGTERM", 1, terminate_agent),
    ("agent paused", 2, pause_agent),
    ("agent paused past three heartbeats", 1, lose_node),
    ("agent cut off from Redis", 2, partition_agent),
    ("container killed by hand", 1, kill_container),
    ("container removed by hand", 1, remove_container),
]
SERVER_FAULTS: list[tuple[str, int, Fault]] = [
    ("scheduler killed", 3, kill_scheduler),
    ("scheduler ended with SIGTERM", 1, terminate_scheduler),
    ("scheduler paused", 2, pause_scheduler),
    ("web killed", 2, kill_web),
    ("Redis killed, back with its data", 2, restart_redis),
    ("Redis killed, back empty", 1, empty_redis),
    ("Redis paused", 2, pause_redis),
]
