"""One process stands still at a named point of the code while another is harmed, so that both meet in that moment."""

import pytest

from tests.evidence import check_lines
from tests.faults.harm import Fault, redis_emptied, redis_restarted, scheduler_killed
from tests.faults.system import System

pytestmark = pytest.mark.docker

MOMENTS = {
    "between commit and send": ("scheduler", "placing-before-send"),
    "while starting": ("agent-a", "container-created"),
    "at the exit": ("agent-a", "output-unshipped"),
    "while removing": ("agent-a", "attempt-forgotten"),
}
TABLE: list[tuple[Fault, str]] = [
    *((fault, moment) for fault in (redis_restarted, redis_emptied) for moment in MOMENTS),
    *((scheduler_killed, moment) for moment in ("while starting", "at the exit", "while removing")),
]


@pytest.mark.parametrize(("fault", "moment"), TABLE, ids=[f"{fault.__name__}, {moment}" for fault, moment in TABLE])
def test_1_2_5_7_9_a_job_ends_in_its_first_attempt_after(system: System, fault: Fault, moment: str) -> None:
    process, point = MOMENTS[moment]
    restart = system.restart_scheduler if process == "scheduler" else system.restart_agent
    restart(CRASH_POINT=f"{point}:SIGSTOP")
    job_id = system.submit_numbered(5, pause=0.02)
    system.cluster.wait_stopped(process)
    fault(system)
    system.cluster.resume(process)
    if (fault, moment) == (redis_emptied, "while removing"):  # The log is in the archive alone.
        job = system.cluster.wait_final(job_id)
        assert (job["status"], len(job["attempts"])) == ("SUCCEEDED", 1)
        assert set(system.witness.starts(job_id).values()) == {1}
        host = system.witness.host(job["attempts"][0]["container_id"])
        assert not (faults := check_lines(system.stored_log(job_id), [host], 5)), faults
        system.nothing_left_of(job_id)
    else:
        system.ends_exactly(job_id, 5)
