"""Why an attempt ended: from what Docker says of its container, and what the agent knows besides. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.config import GB
from agent.containers import Facts, exec_failure
from agent.protocol import StartAttempt, StopAttempt

KILLED = (137, 143)
"""Exit codes of SIGKILL and SIGTERM."""
REBOOTED = 255
"""The exit code that Docker gives to a container that was running when the machine went down."""
ENGINE_REMEMBERS = 256
"""Events; of one older than that many others it can tell nothing."""
STOP_SENTENCES = {
    "stopped": "Stopped on request.",
    "superseded": "Stopped: a newer attempt took over.",
    "timeout": "The job ran longer than its time-out and was stopped.",
}
LOST_OOM = (
    "The kernel killed a process for want of memory as the job was killed (exit code {code}): it used more than the "
    "{asked} it asked for, or the executor had no memory left."
)
REMOVED = "The container was removed on the executor by somebody else."


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is a code of `jobs.lifecycle.EndReason`, `message` a sentence for a person."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the agent knows of the end besides the container's state.

    `ended_by`: why the agent stopped it, a key of STOP_SENTENCES, or ''. `oom`: Docker says that a process of it was
    killed for want of memory; `kernel_killed`: the kernel killed one for that on this node, about when it ended.
    `killed_by_other`: somebody else had Docker kill it. `engine_restarted`: Docker was away since the attempt began.
    """

    ended_by: str = ""
    oom: bool = False
    kernel_killed: bool = False
    killed_by_other: bool = False
    engine_restarted: bool = False
    first_stderr: bytes = b""
    last_stderr: bytes = b""


def judge(start: StartAttempt, container: Facts, around: Circumstances) -> Verdict:
    """What became of an attempt whose container is no longer running, or is no more."""
    code = container.exit_code
    failed = exec_failure(code, around.first_stderr, around.last_stderr)
    if around.ended_by:
        return stopped(around.ended_by)
    if not container.ended:
        return Verdict("container_gone", REMOVED)
    if code == 0:
        return Verdict("completed", "The command exited with code 0.")
    asked = f"{start.memory_bytes / GB:.3g} GB"
    if around.oom:
        return Verdict("oom_killed", f"The job used more than the {asked} of memory it asked for.")
    if failed:
        return Verdict(failed.reason, failed.message)
    if code in KILLED and around.killed_by_other:
        return Verdict("container_gone", f"The container was stopped on the executor by hand (exit code {code}).")
    if code in (*KILLED, REBOOTED) and around.engine_restarted:
        return Verdict("engine_error", f"Docker or the node was stopped or restarted under the job (exit code {code}).")
    if code == KILLED[0] and around.kernel_killed:  # containerd may lose its word of it, as its issue 8893 tells.
        return Verdict("oom_killed", LOST_OOM.format(asked=asked, code=code))
    return Verdict("exit_nonzero", f"The command exited with code {code}.")


def unseen(container_id: str, remembered: Sequence[tuple[str, str]]) -> tuple[bool, bool]:
    """Of an end that no agent saw: whether somebody had the container killed, and whether the engine was restarted
    under it. `remembered` are the engine's newest events, as (container id, action); a start forgets all of them."""
    actions = {action for container, action in remembered if container == container_id}
    if "die" not in actions:
        return False, len(remembered) < ENGINE_REMEMBERS
    return "kill" in actions and "start" in actions, "kill" in actions and "start" not in actions


def stopped(reason: str) -> Verdict:
    return Verdict(reason, STOP_SENTENCES[reason])


def stop_reason(stop: StopAttempt | None) -> str:
    """The reason of an attempt that the agent stops: for that command, or without one because its time is up."""
    if stop is None:
        return "timeout"
    return stop.why if stop.why in ("timeout", "superseded") else "stopped"


def ended_by_predecessor(start: StartAttempt, stop: StopAttempt | None, container: Facts) -> str:
    """The reason for which the agent before this one stopped it, or ''."""
    if container.exit_code not in KILLED:
        return ""
    if stop:
        return stop_reason(stop)
    if container.started_at is None or container.finished_at is None:
        return ""
    ran = (container.finished_at - container.started_at).total_seconds()
    return "timeout" if ran >= start.timeout_seconds else ""
