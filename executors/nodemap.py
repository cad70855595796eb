"""The node map's data: two short texts, a line an executor, that the browser draws as tiles (`static/js/nodemap.js`).

What seldom changes (names, capacity) and what often does (state, allocation, use) are apart, so that a change among a
thousand executors sends a few kilobytes.
"""

from collections.abc import Sequence

from executors.overview import Shown


def names(shown: Sequence[Shown]) -> str:
    """`id|cores|GB|GPUs|name` a line."""
    lines = []
    for item in shown:
        executor = item.executor
        cores = executor.allocatable_cpu_millicores / 1000
        gigabytes = executor.allocatable_memory_bytes / 1024**3
        name = " ".join(executor.name.split())
        lines.append(f"{executor.id}|{cores:g}|{gigabytes:.4g}|{len(executor.gpus)}|{name}")
    return "\n".join(lines)


def figures(shown: Sequence[Shown]) -> str:
    """`state|jobs|CPU allocated|CPU used|memory allocated|memory used|GPUs allocated|GPUs used` a line, in the order of
    `names`; shares in percent, empty where unknown."""
    lines = []
    for item in shown:
        executor, usage = item.executor, item.usage
        busy = sum(gpu.percent or 0 for gpu in usage.gpus.values()) if usage else None
        shares = [
            _percent(executor.allocated_cpu_millicores, executor.allocatable_cpu_millicores),  # type: ignore[attr-defined]
            _percent(usage.cpu_millicores if usage else None, executor.cpu_millicores),
            _percent(executor.allocated_memory_bytes, executor.allocatable_memory_bytes),  # type: ignore[attr-defined]
            _percent(usage.memory_bytes if usage else None, executor.memory_bytes),
            _percent(executor.allocated_gpus, len(executor.gpus)),  # type: ignore[attr-defined]
            _percent(busy, 100 * len(executor.gpus)),
        ]
        lines.append("|".join([item.state, str(item.live_attempts), *shares]))
    return "\n".join(lines)


def _percent(part: float | None, whole: float) -> str:
    return "" if part is None or not whole else f"{min(100, 100 * part / whole):.0f}"
