"""Jobs from the public API to real containers and back, every process real."""

import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster, wait_for

pytestmark = pytest.mark.docker


def memory_gb(megabytes: int) -> float:
    return megabytes / 1024


def test_a_job_runs_and_its_log_lies_in_redis_as_the_seed_promises(cluster: Cluster) -> None:
    job_id = cluster.shell("echo out; sleep 0.2; echo err >&2", env={"A": "b"}, working_dir="/tmp")
    job = cluster.wait_final(job_id)
    assert (job["status"], job["exit_code"]) == ("SUCCEEDED", 0)
    assert [line.split(" ", 1)[1] for line in cluster.log(job_id)] == ["stdout out", "stderr err"]
    assert job["logs_total"] == 2


def test_what_is_asked_for_reaches_the_container(cluster: Cluster) -> None:
    job_id = cluster.shell(
        'echo "$GREETING from $(pwd)"; sleep 30', env={"GREETING": "hello"}, working_dir="/tmp", cpu_cores=0.5
    )
    cluster.wait_status(job_id, "RUNNING")
    (container,) = cluster.containers()
    settings = container.attrs["HostConfig"]
    assert container.name == f"job-{job_id}-1"
    assert settings["Memory"] == settings["MemorySwap"] == 64 * 1024**2
    assert settings["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in settings["SecurityOpt"][0]
    assert settings["PidsLimit"] > 0
    assert not settings["Privileged"]
    assert container.labels["workload-runner.job"] == job_id
    assert container.labels["workload-runner.attempt"] == "1"
    wait_for("the line", lambda: cluster.log_text(job_id) == ["hello from /tmp"])


def test_a_job_that_fails_says_how(cluster: Cluster) -> None:
    job = cluster.wait_final(cluster.shell("exit 3"))
    assert (job["status"], job["reason"], job["exit_code"]) == ("FAILED", "exit_nonzero", 3)
    assert "3" in job["reason_text"]


def test_a_job_that_takes_more_memory_than_it_asked_for_is_oom_killed(cluster: Cluster) -> None:
    job = cluster.wait_final(cluster.shell("tail /dev/zero", memory_gb=memory_gb(32)))
    assert (job["status"], job["reason"]) == ("FAILED", "oom_killed")


def test_a_busy_loop_is_held_to_its_cpu_limit(cluster: Cluster) -> None:
    job_id = cluster.shell("while :; do :; done", cpu_cores=0.5)
    cluster.wait_status(job_id, "RUNNING")
    (container,) = cluster.containers()

    def look() -> tuple[datetime, float, int]:
        stats = container.stats(stream=False)
        cpu = stats["cpu_stats"]
        when = datetime.fromisoformat(stats["read"][:26] + "+00:00")
        return when, cpu["cpu_usage"]["total_usage"] / 1e9, cpu["throttling_data"]["throttled_periods"]

    begin, used_before, throttled_before = look()
    time.sleep(4)
    end, used_after, throttled_after = look()
    cores = (used_after - used_before) / (end - begin).total_seconds()
    assert cores < 0.55, f"{cores} cores used under a limit of 0.5"
    assert throttled_after > throttled_before, "it was something else that held it back"


def test_a_job_over_its_time_out_is_stopped_and_says_so(cluster: Cluster) -> None:
    job = cluster.wait_final(cluster.shell("sleep 60", timeout_seconds=1))
    assert (job["status"], job["reason"]) == ("FAILED", "timeout")


def test_a_failing_job_is_retried_as_often_as_it_asked(cluster: Cluster) -> None:
    job_id = cluster.shell("exit 1", max_retries=2)
    job = cluster.wait_final(job_id)
    assert job["status"] == "FAILED"
    assert [attempt["status"] for attempt in job["attempts"]] == ["FAILED"] * 3


def test_an_image_from_a_registry_that_is_down_is_tried_again_and_named_meanwhile(cluster: Cluster) -> None:
    job_id = cluster.submit("true", docker_image="127.0.0.1:1/no-such-image:1")
    job = wait_for("a second attempt", lambda: (job := cluster.job(job_id))["attempts"][1:] and job)
    assert job["attempts"][0]["reason"] == "image_pull_failed"
    assert "127.0.0.1:1" in job["attempts"][0]["reason_text"]
    cluster.api.delete(f"/jobs/{job_id}")
    assert cluster.wait_final(job_id)["status"] == "ABORTED"


def test_a_command_that_does_not_exist_is_named_as_the_reason(cluster: Cluster) -> None:
    job = cluster.wait_final(cluster.submit("no-such-command"))
    assert (job["status"], job["reason"]) == ("FAILED", "command_not_found")


def test_a_running_job_is_aborted_with_its_children_and_leaves_nothing(cluster: Cluster) -> None:
    job_id = cluster.shell("trap '' TERM; sleep 300 & sleep 301 & echo up; wait; wait; sleep 302")
    wait_for("the job's line", lambda: cluster.log(job_id))
    (container,) = cluster.containers()
    pid = container.attrs["State"]["Pid"]
    response = cluster.api.post(f"/api/v1/jobs/{job_id}/abort")
    assert response.status_code == 200, response.text
    job = cluster.wait_final(job_id)
    assert (job["status"], job["reason"]) == ("ABORTED", "aborted_by_user")
    wait_for("the container to be gone", lambda: not cluster.containers())
    wait_for("its processes to be gone", lambda: not _alive(pid))
    assert cluster.api.delete(f"/jobs/{job_id}").status_code == 409


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_agents_share_the_work_and_are_never_over_committed(empty_cluster: Cluster) -> None:
    cluster = empty_cluster
    cluster.start_web()
    cluster.start_scheduler()
    first = cluster.start_agent("a", AGENT_CPU_CORES="1", AGENT_MEMORY_GB="0.5")
    second = cluster.start_agent("b", AGENT_CPU_CORES="1", AGENT_MEMORY_GB="0.5")

    small = cluster.submit("sleep", "300", cpu_cores=0.5)
    assert cluster.wait_status(small, "RUNNING")["executor"]["executor_id"] == first
    large = cluster.submit("sleep", "300", cpu_cores=0.75)
    assert cluster.wait_status(large, "RUNNING")["executor"]["executor_id"] == second

    waiting = cluster.submit("true", cpu_cores=0.75)
    answer = cluster.api.post("/schedule").json()
    assert [item["job_id"] for item in answer["waiting"]] == [waiting]
    assert "0.75 cores" in answer["waiting"][0]["reason"]
    for executor in cluster.executors():
        assert executor["allocated"]["cpu_cores"] <= executor["capacity"]["cpu_cores"]

    cluster.api.delete(f"/jobs/{large}")
    assert cluster.wait_final(waiting)["status"] == "SUCCEEDED"


def test_a_flood_of_jobs_all_end_and_the_node_never_holds_more_than_it_has(empty_cluster: Cluster) -> None:
    cluster = empty_cluster
    cluster.start_web()
    cluster.start_scheduler()
    cluster.start_agent("a", AGENT_CPU_CORES="1", AGENT_MEMORY_GB="0.5")
    jobs = [cluster.submit("true", cpu_cores=0.25) for _ in range(20)]
    most = 0

    def all_final() -> bool:
        nonlocal most
        running = [c for c in cluster.containers() if c.status == "running"]
        most = max(most, len(running))
        return cluster.api.get("/stats").json()["jobs"]["SUCCEEDED"] == len(jobs)

    wait_for("all jobs to succeed", all_final, timeout=90)
    assert most <= 4
    wait_for("all containers to be gone", lambda: not cluster.containers())


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_running_job_outlives_every_process_of_the_system(cluster: Cluster, signal_number: int) -> None:
    job_id = cluster.shell("for i in $(seq 1 60); do echo line $i; sleep 0.1; done")
    wait_for("some lines", lambda: len(cluster.log(job_id)) > 5)
    for name in ("agent-a", "scheduler", "web"):
        cluster.stop(name, signal_number)
    time.sleep(1)
    cluster.start_web()
    cluster.start_scheduler()
    cluster.start_agent()
    job: dict[str, Any] = cluster.wait_final(job_id)
    assert (job["status"], len(job["attempts"])) == ("SUCCEEDED", 1)
    assert cluster.log_text(job_id) == [f"line {i}" for i in range(1, 61)]
