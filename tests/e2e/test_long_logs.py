"""A log much longer than Redis may hold, through real processes, exact to the line."""

import pytest

from tests.cluster import Cluster, wait_for

LINES = 100_000
LIMIT = 512 * 1024
AGENT = {"AGENT_LOG_LIMIT_MB": "0.5", "AGENT_LOG_BUFFER": "131072"}


def numbers(cluster: Cluster, job_id: str) -> list[int]:
    """What the job printed, as the API has it now."""
    answer = cluster.api.get(f"/api/v1/jobs/{job_id}/logs", params={"download": True}).raise_for_status()
    return [int(line.split(" ", 2)[2]) for line in answer.text.splitlines()]


@pytest.mark.parametrize("killed", ["nothing", "scheduler", "agent-a"])
def test_a_long_log_is_whole_and_redis_holds_little_of_it(empty_cluster: Cluster, killed: str) -> None:
    cluster = empty_cluster
    cluster.start_web()
    cluster.start_scheduler(LOG_RETENTION_SECONDS="2")
    cluster.start_agent(**AGENT)
    job_id = cluster.submit("seq", "1", str(LINES))
    if killed != "nothing":
        meta = cluster.keys.job_logs_meta(job_id)
        wait_for("the log to move on", lambda: int(cluster.redis.hget(meta, "dropped") or 0) > 0, timeout=60)
        cluster.kill(killed)
        assert int(cluster.redis.hget(meta, "bytes") or 0) <= 2 * LIMIT
        if killed == "scheduler":
            cluster.start_scheduler(LOG_RETENTION_SECONDS="2")
        else:
            cluster.start_agent(**AGENT)
    assert cluster.wait_final(job_id, timeout=120)["status"] == "SUCCEEDED"
    assert numbers(cluster, job_id) == list(range(1, LINES + 1))
    wait_for("Redis to forget the log", lambda: not cluster.redis.exists(cluster.keys.job_logs(job_id)), timeout=60)
    assert numbers(cluster, job_id) == list(range(1, LINES + 1))
    tail = cluster.api.get(f"/jobs/{job_id}").raise_for_status().json()
    assert (len(tail["logs"]), tail["logs_total"]) == (100, LINES)
    assert tail["logs"][-1].endswith(f" stdout {LINES}")
