"""A first job, submitted as any user would through the public API, its log printed as it streams."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from script.console import Problem, say

COMMAND = "echo Hello from inside a container; for i in 1 2 3; do sleep 0.5; echo step $i of 3; done; uname -a"
READY_SECONDS = 60
JOB_SECONDS = 60

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business on loopback


def wait_for_health(address: str, still_runs: Callable[[], bool]) -> None:
    """Returns when /health says that all is well. Raises Problem where that does not come."""
    _wait("The system is not well", still_runs, lambda: _get(f"{address}/health")["status"] == "ok")


def wait_for_executor(address: str, still_runs: Callable[[], bool]) -> None:
    """Returns when an executor is online. Raises Problem where that does not come."""

    def online() -> bool:
        return any(executor["state"] == "ONLINE" for executor in _get(f"{address}/executors")["executors"])

    _wait("No executor came online", still_runs, online)


def _wait(otherwise: str, still_runs: Callable[[], bool], probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    last = ""
    while still_runs():
        try:
            if probe():
                return
        except urllib.error.HTTPError as error:
            last = f" Last answer: HTTP {error.code}: {error.read().decode(errors='replace')[:500]}"
        except (OSError, ValueError) as error:
            last = f" Last answer: {error}"
        if time.monotonic() > deadline:
            raise Problem(f"{otherwise} within {READY_SECONDS} s; the lines above say why.{last}")
        time.sleep(0.1)
    raise Problem("One of the processes ended while starting, so all were stopped; its lines above say why.")


def run_sample_job(address: str, image: str) -> str:
    """Submits the job, prints its log while it runs and says how it ended; returns its id. Raises Problem."""
    body = {
        "docker_image": image,
        "command": ["sh", "-c", COMMAND],
        "cpu_cores": 0.1,
        "memory_gb": 0.0625,
        "gpu_type": None,
        "name": "sample",
    }
    say(f"Submitting a sample job: POST {address}/jobs")
    try:
        job_id = str(_post(f"{address}/jobs", body)["job_id"])
        _print_log(f"{address}/api/v1/jobs/{job_id}/logs?follow=1")
        job = _final(f"{address}/jobs/{job_id}")
    except urllib.error.HTTPError as error:
        raise Problem(f"The sample job was refused: {error.read().decode(errors='replace')[:1000]}") from error
    except (OSError, ValueError, KeyError) as error:
        raise Problem(f"The sample job went wrong: {error!r}") from error
    say(f"The sample job is {job['status']}. {job.get('reason_text') or ''}".rstrip())
    return job_id


def _print_log(url: str) -> None:
    with _opener.open(url, timeout=JOB_SECONDS) as response:
        for line in response:
            print("    sample job | " + line.decode(errors="replace").rstrip("\n"), flush=True)


def _final(url: str) -> dict[str, Any]:
    """The job when it has ended; as it is after JOB_SECONDS otherwise."""
    deadline = time.monotonic() + JOB_SECONDS
    while True:
        job = _get(url)
        if job["status"] in ("SUCCEEDED", "FAILED", "ABORTED") or time.monotonic() > deadline:
            return job
        time.sleep(0.1)


def _get(url: str) -> dict[str, Any]:
    with _opener.open(url, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with _opener.open(request, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer
