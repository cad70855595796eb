"""What every benchmark prints: its conditions, and a table of medians and spread."""

import os
import platform
import statistics
from collections.abc import Iterable, Sequence

import docker
import psutil


def print_conditions(title: str, engine: docker.DockerClient, **conditions: object) -> None:
    """A heading, the machine with its engine, and what was varied."""
    print_machine(title, **{"Docker Engine": engine.version()["Version"]}, **conditions)


def print_machine(title: str, **conditions: object) -> None:
    """A heading, the machine, and what was varied."""
    memory = psutil.virtual_memory().total / 1024**3
    facts = [f"{os.cpu_count()} cores", f"{memory:.0f} GiB", f"Python {platform.python_version()}"]
    facts += [f"{name.replace('_', ' ')} {value}" for name, value in conditions.items()]
    print(f"\n## {title}\n\n{', '.join(facts)}\n")


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A Markdown table; the first column is text, the others are figures."""
    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of the values do not exceed; the only value of one."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and minimum to maximum in brackets."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
