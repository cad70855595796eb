"""What is done to a system: each function one fault, from which the system has to recover by itself."""

import time
from collections.abc import Callable

from tests.faults.system import System

Fault = Callable[[System], None]


def agent_killed(system: System) -> None:
    system.restart_agent()


def agent_ended(system: System) -> None:
    system.cluster.stop("agent-a")
    system.cluster.launch_agent("a")


def agent_away_at_the_end(system: System) -> None:
    system.cluster.kill("agent-a")
    _wait_for_the_end(system)
    system.cluster.launch_agent("a")


def scheduler_away_at_the_end(system: System) -> None:
    system.cluster.kill("scheduler")
    _wait_for_the_end(system)
    system.cluster.start_scheduler()


def redis_emptied_at_the_end(system: System) -> None:
    system.cluster.kill("redis")
    _wait_for_the_end(system)
    system.cluster.start_redis(empty=True)


def _wait_for_the_end(system: System) -> None:
    (container,) = system.cluster.containers()
    container.wait()


def scheduler_killed(system: System) -> None:
    system.cluster.kill("scheduler")
    system.cluster.start_scheduler()


def web_killed(system: System) -> None:
    system.cluster.kill("web")
    system.cluster.start_web()


def redis_restarted(system: System) -> None:
    system.cluster.kill("redis")
    system.cluster.start_redis(empty=False)


def redis_emptied(system: System) -> None:
    system.cluster.kill("redis")
    system.cluster.start_redis(empty=True)


def redis_flushed(system: System) -> None:
    """Emptied with every connection kept, so that nothing but its content tells."""
    system.cluster.redis.flushall()


def redis_away(system: System) -> None:
    system.cluster.pause("redis")
    time.sleep(3)
    system.cluster.resume("redis")


def everything_killed(system: System) -> None:
    for name in ("agent-a", "scheduler", "web", "redis"):
        system.cluster.kill(name)
    system.start()


def killed_by_hand(system: System) -> None:
    (container,) = system.cluster.containers()
    container.kill()


def removed_by_hand(system: System) -> None:
    (container,) = system.cluster.containers()
    container.remove(force=True)
