"""What must hold when the agent or Redis is killed: no attempt lost or run twice, no log line lost or doubled."""

import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import docker
import psutil
import pytest
import redis

from agent.containers import container_name, container_settings
from agent.protocol import AttemptFinished, AttemptRunning, HeldAttempt, Hello, StartAttempt
from agent.state import Record, State
from tests.agent.harness import MB, AgentProcess, wait_for
from tests.parts import free_port, start_redis

pytestmark = pytest.mark.docker
MakeAgent = Callable[..., AgentProcess]

COUNT = 'i=0; while [ $i -lt 3000 ]; do echo "line $i"; echo "err $i" >&2; i=$((i+1)); done; printf rest'
SLOWLY = 'i=0; while [ $i -lt 60 ]; do echo "line $i"; echo "err $i" >&2; i=$((i+1)); sleep 0.05; done; printf rest'
LONG_LINE = 'yes é | tr -d "\\n" | head -c 300000; sleep 2; yes z | tr -d "\\n" | head -c 100000; echo; echo end'


def assert_exact(agent: AgentProcess, start: object, lines: int) -> None:
    assert agent.texts(start, "stdout") == [*(f"line {i}" for i in range(lines)), "rest"]  # type: ignore[arg-type]
    assert agent.texts(start, "stderr") == [f"err {i}" for i in range(lines)]  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [0.3, 0.9, 1.7])
def test_a_killed_agent_loses_and_doubles_no_line(agent: AgentProcess, test_image: str, after: float) -> None:
    start = agent.run(test_image, ["sh", "-c", SLOWLY])
    agent.running(start)
    time.sleep(after)
    agent.kill()
    agent.start()
    assert agent.finished(start).reason == "completed"
    assert_exact(agent, start, 60)
    assert agent.log_meta(start)["complete"] == "1"


def test_a_progress_bar_goes_on_moving_under_the_next_agent_and_is_one_line_at_the_end(
    agent: AgentProcess, test_image: str
) -> None:
    bar = r"i=10; while [ $i -lt 60 ]; do printf '\r%d %%' $i >&2; i=$((i+1)); sleep 0.1; done; echo >&2"
    start = agent.run(test_image, ["sh", "-c", f"echo begin; {bar}; echo end"])

    def shown() -> int:
        """The bar's newest number, 0 where none is shown."""
        numbers = re.findall(r"\d+", agent.log_meta(start).get("tail_stderr", ""))
        return int(numbers[-1]) if numbers else 0

    wait_for(lambda: shown() > 10, what="the bar to move")
    agent.kill()
    agent.start()
    before = shown()
    wait_for(lambda: shown() > before, what="the bar to move on")
    assert agent.texts(start) == ["begin"], "it has no end yet"
    assert agent.finished(start).reason == "completed"
    assert agent.texts(start, "stdout") == ["begin", "end"]
    assert agent.texts(start, "stderr") == ["".join(f"\r{number} %" for number in range(10, 60))]
    assert shown() == 0


def test_an_agent_killed_again_and_again_under_fast_output_loses_nothing(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["sh", "-c", "for n in 1 2 3 4 5 6; do seq 20000; sleep 0.7; done"])
    for _ in range(3):
        seen = len(agent.log_lines(start))
        wait_for(lambda seen=seen: len(agent.log_lines(start)) > seen)
        agent.kill()
        agent.start()
    record = agent.directory / "state" / "attempts" / f"{start.job_id}-1.json"
    wait_for(lambda: json.loads(record.read_text())["first_line"], what="the time of its first line to be kept")
    assert agent.finished(start, 60).reason == "completed"
    assert agent.texts(start) == [str(number) for number in range(1, 20001)] * 6


def test_a_line_longer_than_the_limit_survives_a_restart(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["sh", "-c", LONG_LINE])
    wait_for(lambda: len(agent.texts(start)) >= 4)
    agent.kill()
    agent.start()
    agent.finished(start)
    *pieces, end = agent.texts(start)
    assert end == "end"
    text = "".join(pieces)
    assert text.endswith("z" * 100_000)
    assert set(text) <= {"é", "z", "\N{REPLACEMENT CHARACTER}"}
    raw = sum(1 if char in "z\N{REPLACEMENT CHARACTER}" else 2 for char in text)
    assert raw == 400_000


def test_an_attempt_that_ends_while_no_agent_runs_is_reported_later(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    start = agent.run(test_image, ["sh", "-c", f"sleep 1; {COUNT}; exit 5"])
    container_id = agent.running(start).container_id
    agent.kill()
    docker_client.containers.get(container_id).wait()
    agent.start()
    finished = agent.finished(start)
    assert (finished.reason, finished.exit_code) == ("exit_nonzero", 5)
    assert_exact(agent, start, 3000)
    wait_for(lambda: agent.cleared(docker_client))


def test_a_terminated_agent_leaves_its_containers_running(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    start = agent.run(test_image, ["sh", "-c", SLOWLY])
    container_id = agent.running(start).container_id
    assert agent.terminate() == 0
    assert docker_client.containers.get(container_id).status == "running"
    agent.start()
    assert agent.events(Hello)[-1].held == [HeldAttempt(start.job_id, 1)]
    assert agent.finished(start).reason == "completed"
    assert_exact(agent, start, 60)


def test_a_terminated_agent_first_removes_the_containers_of_what_it_reported(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    starts = [agent.run(test_image, ["true"], cpu_millicores=100) for _ in range(5)]
    for start in starts:
        agent.finished(start)
    assert agent.terminate() == 0
    assert not agent.containers(docker_client)


def test_a_time_out_and_a_stop_hold_across_a_restart(agent: AgentProcess, test_image: str) -> None:
    late = agent.run(test_image, ["sleep", "60"], timeout_seconds=3)
    stopped = agent.run(test_image, ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    agent.running(late)
    agent.running(stopped)
    agent.stop(stopped, grace_seconds=3)
    wait_for(lambda: "Stopping" in agent.log)
    agent.kill()
    agent.start()
    assert agent.finished(late).reason == "timeout"
    assert agent.finished(stopped).reason == "stopped"


def test_a_stop_that_took_effect_while_no_agent_ran_is_reported_as_one(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["sh", "-c", "trap 'sleep 1; exit 143' TERM; while :; do sleep 0.1; done"])
    agent.running(start)
    agent.stop(start, grace_seconds=30)
    wait_for(lambda: "Stopping" in agent.log)
    time.sleep(0.3)
    agent.kill()
    time.sleep(1.5)
    agent.start()
    assert agent.finished(start).reason == "stopped"


def test_commands_sent_while_the_agent_is_down_are_carried_out_once(agent: AgentProcess, test_image: str) -> None:
    first = agent.run(test_image, ["echo", "first"])
    agent.finished(first)
    agent.kill()
    second = agent.run(test_image, ["echo", "second"])
    agent.start()
    assert agent.finished(second).reason == "completed"
    assert agent.texts(first) == ["first"] and agent.texts(second) == ["second"]
    assert len(agent.events(AttemptRunning, first)) <= 1


def test_a_leftover_of_a_reported_attempt_is_removed(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    agent.kill()
    labels = {"workload-runner.executor": agent.id, "workload-runner.job": "gone", "workload-runner.attempt": "1"}
    docker_client.containers.create(test_image, ["true"], labels=labels)
    agent.start()
    wait_for(lambda: agent.cleared(docker_client))


def test_a_container_created_and_not_started_is_started_by_the_next_agent(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    start = accept_without_starting(agent, test_image, docker_client, "echo late")
    agent.start()
    assert agent.finished(start).reason == "completed"
    assert agent.texts(start) == ["late"]
    assert "left-over" not in agent.log


def accept_without_starting(
    agent: AgentProcess, image: str, engine: docker.DockerClient, script: str, log_size: str = "1m"
) -> StartAttempt:
    """What an agent leaves that is killed between creating a container and starting it."""
    agent.kill()
    agent.seq += 1
    start = StartAttempt(
        seq=agent.seq,
        job_id=str(uuid.uuid4()),
        attempt=1,
        image=image,
        command=[],
        cpu_millicores=500,
        memory_bytes=64 * MB,
        timeout_seconds=120,
    )
    settings = container_settings(start, executor_id=agent.id, gpu_uuids=[], pids_limit=100)
    settings["Cmd"] = ["sh", "-c", script]
    settings["HostConfig"]["LogConfig"]["Config"]["max-size"] = log_size
    engine.api.create_container_from_config(settings, container_name(start))
    state = State(agent.directory / "state", "test")
    state.save(Record(start))
    state.close()
    return start


def forget_log(agent: AgentProcess, start: StartAttempt) -> None:
    """Redis has lost the log of an attempt whose agent had kept the time of its first line, and is gone too."""
    state = State(agent.directory / "state", "test")
    [record] = [record for record in state.records() if record.start == start]
    state.save(replace(record, first_line=agent.log_meta(start)["first"]))
    state.close()
    agent.client.delete(agent.keys.job_logs(start.job_id), agent.keys.job_logs_meta(start.job_id))


MISSING = "an unknown number of lines"


def test_a_log_whose_beginning_docker_dropped_goes_on_exactly_or_says_that_lines_are_missing(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    begin = "echo first; sleep 6; seq 1 3000; "
    few = accept_without_starting(agent, test_image, docker_client, begin + "sleep 3; seq 3001 3200", log_size="40k")
    many = accept_without_starting(agent, test_image, docker_client, begin + "sleep 3; seq 3001 9000", log_size="40k")
    lost = accept_without_starting(agent, test_image, docker_client, begin + "sleep 3; seq 3001 9000", log_size="40k")
    agent.start()
    for start in (few, many, lost):
        wait_for(lambda start=start: agent.texts(start)[-1:] == ["3000"])
    agent.kill()
    forget_log(agent, lost)
    for start in (few, many, lost):
        docker_client.containers.get(container_name(start)).wait()
    agent.start()
    assert {agent.finished(start).reason for start in (few, many, lost)} == {"completed"}
    assert [f"{MISSING} is missing" in text for text in agent.texts(lost, "stderr")] == [True]
    assert agent.log_meta(lost)["unplaced"] == "1" and agent.texts(lost)[-1] == "9000"
    assert agent.texts(few) == ["first", *(str(number) for number in range(1, 3201))]
    assert agent.texts(few, "stderr") == []
    texts = agent.texts(many)
    assert texts[:3001] == ["first", *(str(number) for number in range(1, 3001))]
    rest = [int(text) for text in texts[3001:]]
    assert rest[0] > 3001 and rest == list(range(rest[0], 9001))
    assert [f"{MISSING} is missing" in text for text in agent.texts(many, "stderr")] == [True]


def test_an_emptied_redis_and_a_copy_without_its_beginning_leave_every_line_its_number(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    script = "echo first; sleep 6; seq 1 3000; sleep 2; seq 3001 3200; sleep 1; echo end"
    start = accept_without_starting(agent, test_image, docker_client, script, log_size="40k")
    agent.start()
    wait_for(lambda: agent.texts(start)[-1:] == ["3000"])
    agent.client.flushall()
    wait_for(lambda: agent.texts(start)[-1:] == ["end"])
    wait_for(lambda: agent.log_meta(start)["complete"] == "1")
    meta, texts = agent.log_meta(start), agent.texts(start)
    gone = int(meta["dropped"])
    assert 0 < gone < 3000 and int(meta["lines"]) == 3202
    assert texts == [*(str(number) for number in range(gone, 3201)), "end"], "line N + 1 of the log is number N"


def test_an_emptied_redis_is_told_everything_again(agent: AgentProcess, test_image: str) -> None:
    done = agent.run(test_image, ["echo", "done"])
    agent.finished(done)
    start = agent.run(test_image, ["sh", "-c", SLOWLY])
    agent.running(start)
    time.sleep(1)
    agent.client.flushall()
    wait_for(lambda: agent.events(Hello))
    hello = agent.events(Hello)[0]
    assert (hello.held, hello.last_command) == ([HeldAttempt(start.job_id, 1)], 2)
    assert agent.finished(done).reason == "completed"
    assert agent.finished(start).reason == "completed"
    assert_exact(agent, start, 60)
    assert agent.finished(agent.run(test_image, ["true"])).reason == "completed"


def test_a_redis_that_is_away_costs_no_line_and_does_not_hold_up_the_container(
    tmp_path: Path, test_image: str, docker_client: docker.DockerClient
) -> None:
    port = free_port()
    server = start_redis(tmp_path, port)
    client = redis.Redis(port=port)
    agent = AgentProcess(tmp_path / "agent", f"redis://127.0.0.1:{port}/0", client, AGENT_LOG_BUFFER="65536")
    try:
        agent.start()
        start = agent.run(test_image, ["sh", "-c", "echo begin; sleep 2; seq 500000; echo end"], timeout_seconds=300)
        over = agent.run(test_image, ["sleep", "100"], timeout_seconds=4)
        container, overrun = (docker_client.containers.get(agent.running(job).container_id) for job in (start, over))
        wait_for(lambda: agent.texts(start) == ["begin"])
        server.kill()
        server.wait()
        assert container.wait(timeout=30)["StatusCode"] == 0
        assert overrun.wait(timeout=30)["StatusCode"] == 143, "it was stopped at its time-out though nobody was told"
        server = start_redis(tmp_path, port)
        assert agent.finished(start, 60).reason == "completed"
        assert agent.finished(over).reason == "timeout"
        assert agent.events(Hello)
        assert agent.texts(start) == ["begin", *(str(number) for number in range(1, 500_001)), "end"]
    finally:
        agent.clean_up(docker_client)
        server.kill()
        server.wait()


def test_a_job_that_begins_while_redis_is_away_is_not_held_up_by_its_output(
    tmp_path: Path, test_image: str, docker_client: docker.DockerClient
) -> None:
    port = free_port()
    server = start_redis(tmp_path, port)
    moment = "container-created:SIGSTOP"
    agent = AgentProcess(tmp_path, f"redis://127.0.0.1:{port}/0", redis.Redis(port=port), CRASH_POINT=moment)
    try:
        agent.start()
        start = agent.run(test_image, ["seq", "200000"])
        process = psutil.Process(agent.process.pid if agent.process else 0)
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
        server.kill()
        server.wait()
        process.resume()
        assert docker_client.containers.get(container_name(start)).wait(timeout=20)["StatusCode"] == 0
        server = start_redis(tmp_path, port)
        assert agent.finished(start, 60).reason == "completed"
        assert agent.texts(start) == [str(number) for number in range(1, 200_001)]
    finally:
        agent.clean_up(docker_client)
        server.kill()
        server.wait()


def test_an_end_is_reported_though_its_log_waits_for_the_archive(
    make_agent: MakeAgent, test_image: str, docker_client: docker.DockerClient
) -> None:
    agent = make_agent(AGENT_LOG_LIMIT_MB="1", AGENT_CPU_CORES="1")
    start = agent.run(test_image, ["sh", "-c", "seq 200000; exit 3"], cpu_millicores=1000)
    finished = agent.finished(start)
    assert (finished.reason, finished.exit_code) == ("exit_nonzero", 3)
    assert agent.log_meta(start)["complete"] == "0"
    assert agent.finished(agent.run(test_image, ["true"], cpu_millicores=1000)).reason == "completed"
    agent.kill()
    agent.start()

    def archive() -> bool:
        """What the scheduler's process does, but for the archive itself."""
        meta = agent.log_meta(start)
        kept = {"archived": meta["lines"], "unarchived": 0}
        agent.client.hset(agent.keys.job_logs_meta(start.job_id), mapping=kept)
        return meta["complete"] == "1"

    wait_for(archive, what="the whole log")
    assert agent.texts(start)[-1] == "200000"
    wait_for(lambda: agent.cleared(docker_client))
    assert int(agent.log_meta(start)["shipped"]) == 200_000


def test_a_later_attempt_takes_over_the_log(make_agent: MakeAgent, test_image: str) -> None:
    first_agent, second_agent = make_agent(), make_agent()
    assert first_agent.id != second_agent.id
    first = first_agent.run(test_image, ["sh", "-c", "echo a; sleep 4; echo b"])
    wait_for(lambda: first_agent.texts(first) == ["a"])
    second = second_agent.run(test_image, ["echo", "c"], job_id=first.job_id, attempt=2)
    assert second_agent.finished(second).reason == "completed"
    assert first_agent.finished(first).reason == "completed"
    assert first_agent.texts(first) == ["a", "c"]
    assert first_agent.log_meta(first)["complete"] == "1"


def test_a_second_agent_on_the_same_state_folder_is_told_so(agent: AgentProcess) -> None:
    second = subprocess.run([sys.executable, "-m", "agent"], env=agent.environment, capture_output=True, text=True)
    assert second.returncode == 2
    assert "AGENT_STATE_DIR" in second.stderr and "Traceback" not in second.stderr


def test_an_agent_waits_for_redis_and_says_so_once(tmp_path: Path, test_image: str) -> None:
    port = free_port()
    client = redis.Redis(port=port)
    agent = AgentProcess(tmp_path / "agent", f"redis://127.0.0.1:{port}/0", client)
    agent.process = subprocess.Popen([sys.executable, "-m", "agent"], env=agent.environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: (agent.directory / "executor.log").exists() and "Redis does not answer" in agent.log)
    server = start_redis(tmp_path, port)
    try:
        wait_for(lambda: agent.events(Hello))
        assert agent.log.count("Redis does not answer") == 1
        assert "Traceback" not in agent.log
        assert agent.terminate() == 0
    finally:
        agent.kill()
        server.kill()
        server.wait()


def test_without_docker_the_agent_says_so_and_refuses_nothing(
    make_agent: MakeAgent, test_image: str, tmp_path: Path
) -> None:
    agent = make_agent(DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
    assert "Docker does not answer" in agent.events(Hello)[0].problem
    start = agent.run(test_image, ["true"])
    assert wait_for(lambda: agent.events(AttemptFinished, start))[0].reason == "engine_error"
    (tmp_path / "docker.sock").symlink_to("/var/run/docker.sock")
    wait_for(lambda: (beat := agent.last_heartbeat()) and beat.problem == "")
    assert agent.finished(agent.run(test_image, ["true"])).reason == "completed"
