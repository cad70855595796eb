"""What a person can do about a job that failed, by the reason; pure."""

from jobs.lifecycle import PLATFORM, EndReason, State

_REMEDIES: dict[str, str] = {
    EndReason.OOM_KILLED: "Clone the job and ask for more memory.",
    EndReason.TIMEOUT: "Where it needs longer, clone the job with a longer time-out.",
    EndReason.IMAGE_NOT_FOUND: "Check the image's name and tag, and that it was pushed; then clone the job and correct"
    " it.",
    EndReason.IMAGE_ACCESS_DENIED: "Check the image's name. Where it needs a login, an operator logs the executors in"
    " to the registry; then retry the job.",
    EndReason.COMMAND_NOT_FOUND: "Check how the command is written and that the image has it; then clone the job and"
    " correct it.",
    EndReason.COMMAND_NOT_EXECUTABLE: "Make the file executable in the image, or name the program that runs it; then"
    " clone the job.",
    EndReason.INVALID_SETTINGS: "Clone the job and correct what Docker refused.",
}
_OF_A_PULL = "Check the registry's name, and that the executor reaches it."
_OF_THE_PLATFORM = "The job is not to blame: retry it, and tell an operator where that fails too."


def remedy(state: str, reason: str) -> str:
    """A sentence for the job's page, or '' where its reason says all there is to do."""
    if reason == EndReason.IMAGE_PULL_FAILED and state in (State.PENDING, State.FAILED):
        return _OF_A_PULL
    if state != State.FAILED:
        return ""
    return _OF_THE_PLATFORM if reason in PLATFORM else _REMEDIES.get(reason, "")
