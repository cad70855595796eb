"""An agent as the scheduler sees it: real process, real Docker, real Redis."""

import json

import docker
import pytest

from agent.protocol import AttemptFinished, AttemptProgress, AttemptRunning, Heartbeat, HeldAttempt, Hello
from tests.agent.harness import MB, AgentProcess, wait_for

pytestmark = pytest.mark.docker


def test_a_job_runs_and_its_output_and_end_are_reported(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    start = agent.run(test_image, ["sh", "-c", "echo one; echo two; printf three"])
    finished = agent.finished(start)
    assert (finished.reason, finished.exit_code, finished.oom_killed) == ("completed", 0, False)
    assert finished.started_at and finished.finished_at and finished.started_at <= finished.finished_at
    assert agent.texts(start) == ["one", "two", "three"]
    meta = agent.log_meta(start)
    assert (meta["lines"], meta["dropped"], meta["complete"]) == ("3", "0", "1")
    wait_for(lambda: agent.cleared(docker_client), what="removal of the container")
    assert not list((agent.directory / "state" / "attempts").iterdir())


def test_both_streams_keep_their_order(agent: AgentProcess, test_image: str) -> None:
    script = "i=0; while [ $i -lt 300 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    start = agent.run(test_image, ["sh", "-c", script])
    agent.finished(start)
    assert agent.texts(start, "stdout") == [f"out {i}" for i in range(300)]
    assert agent.texts(start, "stderr") == [f"err {i}" for i in range(300)]


def test_env_and_working_dir_reach_the_command(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(
        test_image, ["sh", "-c", "echo $GREETING; pwd"], env={"GREETING": "hi = there"}, working_dir="/tmp"
    )
    agent.finished(start)
    assert agent.texts(start) == ["hi = there", "/tmp"]


def test_a_failing_command_is_reported_with_its_exit_code(agent: AgentProcess, test_image: str) -> None:
    finished = agent.finished(agent.run(test_image, ["sh", "-c", "exit 7"]))
    assert (finished.reason, finished.exit_code) == ("exit_nonzero", 7)
    assert "7" in finished.message


@pytest.mark.parametrize("script", ["tail /dev/zero", "exec tail /dev/zero", "tail /dev/zero; exit 3"])
def test_too_much_memory_is_reported_as_such(agent: AgentProcess, test_image: str, script: str) -> None:
    finished = agent.finished(agent.run(test_image, ["sh", "-c", script], memory_bytes=32 * MB))
    assert (finished.reason, finished.oom_killed) == ("oom_killed", True)


def test_where_docker_lost_its_word_of_it_the_kernels_count_says_what_killed_the_job(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    """containerd loses it now and then where many end at once. Here another's is in the kernel's count."""
    killed = agent.run(test_image, ["sh", "-c", "kill -9 $$"])
    assert (agent.finished(killed).reason, agent.finished(killed).exit_code) == ("exit_nonzero", 137)
    killed = agent.run(test_image, ["sh", "-c", "sleep 3; kill -9 $$"])
    agent.running(killed)
    with pytest.raises(docker.errors.ContainerError):
        docker_client.containers.run(test_image, ["tail", "/dev/zero"], mem_limit=16 * MB, remove=True)
    finished = agent.finished(killed)
    assert (finished.reason, finished.oom_killed, finished.exit_code) == ("oom_killed", True, 137)
    assert "0.0625 GB it asked for, or the executor had no memory left" in finished.message


def test_a_missing_command_is_named(agent: AgentProcess, test_image: str) -> None:
    finished = agent.finished(agent.run(test_image, ["no-such-program"]))
    assert finished.reason == "command_not_found"
    assert "no-such-program" in finished.message


def test_a_command_that_is_no_program_is_named(agent: AgentProcess, test_image: str) -> None:
    finished = agent.finished(agent.run(test_image, ["/etc/passwd"]))
    assert finished.reason == "command_not_executable"
    assert "/etc/passwd" in finished.message


def test_127_from_a_shell_is_the_commands_own_exit_code(agent: AgentProcess, test_image: str) -> None:
    finished = agent.finished(agent.run(test_image, ["sh", "-c", "no-such-program"]))
    assert (finished.reason, finished.exit_code) == ("exit_nonzero", 127)


def test_a_missing_image_is_reported_in_dockers_words(agent: AgentProcess) -> None:
    start = agent.run("127.0.0.1:1/no/such-image:1", ["true"])
    finished = agent.finished(start)
    assert finished.reason == "image_pull_failed"
    assert "127.0.0.1:1" in finished.message
    assert agent.events(AttemptProgress, start)[0].detail == "pulling 127.0.0.1:1/no/such-image:1"


def test_settings_that_docker_refuses_are_the_jobs_fault(agent: AgentProcess, test_image: str) -> None:
    finished = agent.finished(agent.run(test_image, ["true"], memory_bytes=1 * MB))
    assert finished.reason == "invalid_settings"
    assert "memory" in finished.message.lower()


def test_a_job_over_its_time_is_stopped(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["sleep", "60"], timeout_seconds=1)
    finished = agent.finished(start)
    assert finished.reason == "timeout"
    assert finished.exit_code is not None


def test_a_running_attempt_is_stopped_and_its_children_with_it(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["sh", "-c", "trap '' TERM; sleep 100 & while :; do sleep 1; done"])
    agent.running(start)
    agent.stop(start, grace_seconds=1)
    finished = agent.finished(start, seconds=6)
    assert (finished.reason, finished.exit_code) == ("stopped", 137)


def test_a_job_that_ends_on_sigterm_is_stopped_within_its_grace(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"])
    wait_for(lambda: agent.texts(start) == ["up"])
    agent.stop(start, grace_seconds=30)
    assert agent.finished(start, seconds=5).reason == "stopped"
    assert agent.texts(start) == ["up", "bye"]


def test_an_attempt_that_waits_for_its_turn_is_dropped_when_stopped(
    make_agent: object, test_image: str, docker_client: docker.DockerClient
) -> None:
    agent = make_agent(AGENT_START_CONCURRENCY="1")  # type: ignore[operator]
    many = [agent.run(test_image, ["sleep", "30"], cpu_millicores=100) for _ in range(8)]
    agent.stop(many[-1])
    finished = agent.finished(many[-1])
    assert finished.reason == "stopped"
    assert not finished.started_at


def test_stopping_an_attempt_that_is_not_here_is_ignored(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["true"])
    agent.finished(start)
    agent.stop(start)
    after = agent.run(test_image, ["true"])
    assert agent.finished(after).reason == "completed"
    assert len(agent.events(AttemptFinished, start)) == 1


def test_a_start_without_room_is_refused_and_says_why(agent: AgentProcess, test_image: str) -> None:
    first = agent.run(test_image, ["sleep", "30"], cpu_millicores=3000)
    second = agent.run(test_image, ["true"], cpu_millicores=2000)
    finished = agent.finished(second)
    assert finished.reason == "start_refused"
    assert finished.message == "It needs 2 cores and 1 are free on test."
    agent.stop(first)
    agent.finished(first)
    assert agent.finished(agent.run(test_image, ["true"], cpu_millicores=4000)).reason == "completed"


def test_hello_and_heartbeats_say_what_it_holds(agent: AgentProcess, test_image: str) -> None:
    hello = agent.events(Hello)[0]
    assert (hello.executor_id, hello.name, hello.cpu_millicores) == (agent.id, "test", 4000)
    assert hello.docker_version and hello.address == "127.0.0.1" and hello.problem == ""
    start = agent.run(test_image, ["sleep", "30"])
    held = [HeldAttempt(start.job_id, 1)]
    wait_for(lambda: (beat := agent.last_heartbeat()) and beat.held == held and beat.last_command == 1)
    agent.stop(start)
    agent.finished(start)
    wait_for(lambda: (beat := agent.last_heartbeat()) and beat.held == [] and beat.last_command == 2)


def test_no_heartbeat_leaves_out_an_attempt_before_its_end_is_told(agent: AgentProcess, test_image: str) -> None:
    starts = [agent.run(test_image, ["true"], cpu_millicores=100) for _ in range(6)]
    for start in starts:
        agent.finished(start)
    ended: set[str] = set()
    for event in agent.all_events():
        if isinstance(event, AttemptFinished):
            ended.add(event.job_id)
        elif isinstance(event, Heartbeat):
            passed = {start.job_id for start in starts if start.seq <= event.last_command}
            assert passed - ended == {item.job_id for item in event.held}


def test_running_is_told_before_the_end(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["sleep", "0.5"])
    agent.finished(start)
    kinds = [type(event) for event in agent.all_events() if getattr(event, "job_id", "") == start.job_id]
    assert kinds == [AttemptRunning, AttemptFinished]


def test_a_container_removed_by_hand_is_reported_gone(
    agent: AgentProcess, test_image: str, docker_client: docker.DockerClient
) -> None:
    start = agent.run(test_image, ["sleep", "30"])
    docker_client.containers.get(agent.running(start).container_id).remove(force=True)
    assert agent.finished(start).reason == "container_gone"
    other = agent.run(test_image, ["sleep", "30"])
    docker_client.containers.get(agent.running(other).container_id).kill()
    assert agent.finished(other).reason == "container_gone"


def test_an_unreadable_command_is_passed_over(agent: AgentProcess, test_image: str) -> None:
    agent.client.xadd(agent.keys.commands(agent.id), {b"m": b'{"v":9,"kind":"dance","seq":1}'}, id="1-0")
    agent.client.xadd(agent.keys.commands(agent.id), {b"other": b"?"}, id="2-0")
    agent.seq = 2
    assert agent.finished(agent.run(test_image, ["true"])).reason == "completed"


def test_a_hundred_thousand_lines_come_through_exactly(agent: AgentProcess, test_image: str) -> None:
    start = agent.run(test_image, ["seq", "100000"])
    agent.finished(start, 60)
    assert agent.texts(start) == [str(number) for number in range(1, 100_001)]


def test_samples_say_how_the_node_is_used(agent: AgentProcess) -> None:
    samples = wait_for(lambda: agent.client.xrange(agent.keys.samples(agent.id)))
    fields = samples[0][1]
    assert set(fields) == {b"t", b"cpu_percent", b"memory_bytes", b"gpus", b"held"}
    assert int(fields[b"memory_bytes"]) > 0


def test_the_images_of_the_node_are_told(agent: AgentProcess, test_image: str) -> None:
    key = agent.keys.images(agent.id)
    told = wait_for(lambda: agent.client.get(key), what="the list of images")
    images = dict(json.loads(told))
    assert images[test_image] > 100_000
    assert agent.client.ttl(key) > 0


def test_a_progress_bar_is_told_while_it_runs_and_becomes_one_line(agent: AgentProcess, test_image: str) -> None:
    script = r"""echo begin; printf 'bar 10 %%\r' >&2; sleep 1; printf 'bar 90 %%\r' >&2; sleep 1; echo >&2; sleep 1"""
    start = agent.run(test_image, ["sh", "-c", script])
    wait_for(lambda: agent.log_meta(start).get("tail_stderr") == "bar 10 %\r")
    assert agent.texts(start) == ["begin"]
    wait_for(lambda: agent.log_meta(start).get("tail_stderr") == "bar 10 %\rbar 90 %\r")
    wait_for(lambda: agent.log_meta(start).get("tail_stderr") == "")
    assert agent.texts(start, "stderr") == ["bar 10 %\rbar 90 %\r"]
    assert agent.finished(start).reason == "completed"
