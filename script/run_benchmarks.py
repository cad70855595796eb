"""Runs the benchmarks, one process each, and puts what they print between their markers in docs/benchmarks.md."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

REPORT = Path("docs/benchmarks.md")

BENCHMARKS: dict[str, list[str]] = {
    "placement": ["--executors", "1000", "--jobs", "10000", "--rounds", "1", "--events", "20"],
    "growth": ["--executors", "100", "--jobs", "8000", "--rounds", "1"],
    "lifecycle": ["--quick"],
    "overhead": ["--jobs", "5"],
    "waterfall": ["--jobs", "5"],
    "start": ["--jobs", "8", "--single", "3", "--quiet", "5", "--seconds", "3"],
    "logs": ["--lines", "20000", "--rounds", "1", "--readers", "0", "3"],
    "chaos": ["--minutes", "0.2", "--seed", "7"],
    "web": ["--executors", "50", "--jobs", "5000", "--requests", "5"],
    "paint": ["--executors", "10", "--jobs", "200", "--visits", "2"],
    "sockets": ["--dashboards", "1", "20", "--readers", "10", "--seconds", "5"],
}
"""The modules of `bench/`, and the arguments of a short run of each."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="benchmark", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a short run of each; docs/benchmarks.md is left alone")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.benchmarks if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    failed = [name for name in arguments.benchmarks or BENCHMARKS if not run(name, quick=arguments.quick)]
    if failed:
        print(f"Failed: {', '.join(failed)}. Their tables are as they were.", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, quick: bool) -> bool:
    """Run one and keep its tables; False where it failed, which it then has said itself."""
    print(f"==> {name}", flush=True)
    command = [sys.executable, "-m", f"bench.{name}", *(BENCHMARKS[name] if quick else [])]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(result.stdout, flush=True)
    if result.returncode == 0 and not quick:
        REPORT.write_text(with_tables(REPORT.read_text(), name, result.stdout))
    return result.returncode == 0


def with_tables(text: str, name: str, printed: str) -> str:
    """The report with what a benchmark printed between its markers. Raises LookupError where it has none."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    between = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    if not between.search(text):
        raise LookupError(f"{REPORT} lacks the markers {begin} and {end}.")
    return between.sub(lambda _: f"\n\n{printed.strip()}\n\n", text)


if __name__ == "__main__":
    sys.exit(main())
