"""What an agent holds against what the database counts: pure, so that any history can be tried on it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple


class Token(NamedTuple):
    """The name of an attempt in messages."""

    job_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Counted:
    """An attempt that the database counts as live on the executor, and the numbers of its commands."""

    token: Token
    start_command: int
    stop_command: int | None


@dataclass(slots=True)
class Difference:
    """`superseded`: held, and not to be: stop them. `gone`: the agent passed their start and has nothing: end them.
    `unheeded`: the agent passed their stop and still holds them: stop them again, if that lasts."""

    superseded: list[Token] = field(default_factory=list)
    gone: list[Token] = field(default_factory=list)
    unheeded: list[Token] = field(default_factory=list)


def compare(
    held: Collection[Token], passed_command: int, counted: Collection[Counted], just_finished: Collection[Token] = ()
) -> Difference:
    """What has to be done after a hello or heartbeat that lists `held` and has passed `passed_command`.

    `just_finished` are attempts reported as finished about the same time: such a heartbeat may still list them.
    """
    difference = Difference()
    live = {attempt.token for attempt in counted}
    for attempt in counted:
        if attempt.token in held:
            if attempt.stop_command is not None and attempt.stop_command <= passed_command:
                difference.unheeded.append(attempt.token)
        elif attempt.start_command <= passed_command:
            difference.gone.append(attempt.token)
    difference.superseded = sorted(token for token in held if token not in live and token not in just_finished)
    return difference
