"""Whether this node has room for an attempt: the last guard against over-commit, whatever the scheduler believed."""

from collections.abc import Collection

from agent.config import GB, Config
from agent.protocol import StartAttempt


def no_room(start: StartAttempt, held: Collection[StartAttempt], config: Config, gpus: Collection[int]) -> str:
    """Why `start` does not fit beside what is `held` on a node with the GPUs of these indices, or ''."""
    cpu = config.cpu_millicores - config.reserve_cpu_millicores - sum(item.cpu_millicores for item in held)
    memory = config.memory_bytes - config.reserve_memory_bytes - sum(item.memory_bytes for item in held)
    taken = {index for item in held for index in item.gpu_indices}
    if start.cpu_millicores > cpu:
        return f"It needs {start.cpu_millicores / 1000:g} cores and {cpu / 1000:g} are free on {config.name}."
    if start.memory_bytes > memory:
        needs, free = f"{start.memory_bytes / GB:.3g} GB", f"{memory / GB:.3g} GB"
        return f"It needs {needs} of memory and {free} are free on {config.name}."
    for index in start.gpu_indices:
        if index not in gpus:
            return f"There is no GPU {index} on {config.name}."
        if index in taken:
            return f"GPU {index} on {config.name} is taken by another job."
    return ""
