"""All executors at a glance: what each has, what live attempts hold of it, what it really uses; and the sums."""

from collections.abc import Sequence
from dataclasses import dataclass

from executors.models import Executor
from executors.usage import Usage, latest_usage

DESCRIPTION = ("labels", "operator_labels", "docker_version", "agent_version", "registered_at", "last_heartbeat_at")


@dataclass(frozen=True, slots=True)
class Shown:
    """An executor, read `with_allocation`, with what it really uses: `usage` is None where no fresh sample is to be
    had."""

    executor: Executor
    usage: Usage | None

    @property
    def gpu_count(self) -> int:
        return len(self.executor.gpus)

    @property
    def live_attempts(self) -> int:
        return int(self.executor.live_attempts)  # type: ignore[attr-defined]

    @property
    def state(self) -> str:
        """One word for all that matters: LOST, UNHEALTHY, else CORDONED, DRAINING or DRAINED, else ONLINE."""
        if self.executor.state != Executor.State.ONLINE:
            return self.executor.state
        return self.duty or self.executor.state

    @property
    def duty(self) -> str:
        return self.executor.duty(self.live_attempts)

    @property
    def jobs_to_drain(self) -> int:
        """How many there were when the drain began, or what came since by a command that was on its way."""
        return max(self.executor.drain_jobs, self.live_attempts)

    @property
    def drained_jobs(self) -> int:
        return self.jobs_to_drain - self.live_attempts

    @property
    def left_to_drain(self) -> str:
        """'2 of 5 jobs still run' while it drains."""
        left, most = self.live_attempts, self.jobs_to_drain
        return f"{left} of {most} {'job' if most == 1 else 'jobs'} still {'runs' if left == 1 else 'run'}"


@dataclass(frozen=True, slots=True)
class Total:
    """One resource over all executors that are there: `used` is None where nobody says."""

    capacity: int
    allocated: int
    used: float | None

    @property
    def free(self) -> int:
        return max(0, self.capacity - self.allocated)


def shown_executors(executors: Sequence[Executor] | None = None) -> list[Shown]:
    """These executors, or all of them (without what is only described), with what live attempts hold and what they
    really use."""
    rows = Executor.objects.defer(*DESCRIPTION).with_allocation() if executors is None else list(executors)
    usage = latest_usage(rows)
    return [Shown(executor, usage.get(executor.id)) for executor in rows]


def totals(shown: list[Shown]) -> dict[str, Total]:
    """Capacity (what may be allocated), allocation and use of the executors that are not lost: cpu, memory, gpu."""
    there = [item for item in shown if item.executor.state != Executor.State.LOST]
    used = [item.usage for item in there if item.usage]
    return {
        "cpu": Total(
            sum(item.executor.allocatable_cpu_millicores for item in there),
            sum(item.executor.allocated_cpu_millicores for item in there),  # type: ignore[attr-defined]
            sum(usage.cpu_millicores for usage in used) if used else None,
        ),
        "memory": Total(
            sum(item.executor.allocatable_memory_bytes for item in there),
            sum(item.executor.allocated_memory_bytes for item in there),  # type: ignore[attr-defined]
            sum(usage.memory_bytes for usage in used) if used else None,
        ),
        "gpu": Total(
            sum(item.gpu_count for item in there),
            sum(item.executor.allocated_gpus for item in there),  # type: ignore[attr-defined]
            sum(gpu.percent or 0 for usage in used for gpu in usage.gpus.values()) / 100 if used else None,
        ),
    }
