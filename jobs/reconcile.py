"""What agents say against what the database counts: pure, so that any history can be tried on it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.protocol import AttemptFinished, AttemptProgress, AttemptRunning, Event, Heartbeat, Hello

AttemptEvent = AttemptProgress | AttemptRunning | AttemptFinished
Greeting = Hello | Heartbeat


class Token(NamedTuple):
    """The name of an attempt in messages."""

    job_id: str
    number: int


@dataclass(slots=True)
class Said:
    """What a batch of events says: of attempts, and by agents of themselves, each in its order."""

    of_attempts: list[AttemptEvent] = field(default_factory=list)
    greetings: list[Greeting] = field(default_factory=list)

    @property
    def latest(self) -> dict[str, Greeting]:
        """The last word of each agent, which decides."""
        return {greeting.executor_id: greeting for greeting in self.greetings}

    @property
    def finished(self) -> set[Token]:
        return {Token(e.job_id, e.attempt) for e in self.of_attempts if isinstance(e, AttemptFinished)}


def sort_out(events: Iterable[Event]) -> Said:
    said = Said()
    for event in events:
        if isinstance(event, AttemptEvent):
            said.of_attempts.append(event)
        elif isinstance(event, Greeting):
            said.greetings.append(event)
    return said


# --- What is held against what counts ----------------------------------------------------------------------------


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


def differences(
    said: Said, counted: Mapping[str, Collection[Counted]], passed: Mapping[str, int]
) -> dict[str, Difference]:
    """By executor that greeted: what its agent said last, against what counts there once all that was said of attempts
    is applied. `passed` are the commands that agents said before that they had passed.

    What an agent once passed it will not see again, should it have lost its memory: a hello tells. A heartbeat counts
    for its own moment: one that was written twice says nothing of what came after it.
    """
    finished = said.finished
    return {
        executor_id: compare(
            {Token(held.job_id, held.attempt) for held in greeting.held},
            max(greeting.last_command, passed.get(executor_id, 0) if isinstance(greeting, Hello) else 0),
            counted.get(executor_id, ()),
            finished,
        )
        for executor_id, greeting in said.latest.items()
    }


# --- How often a stop is told ------------------------------------------------------------------------------------


class Stops:
    """Which stops agents were told of late, so that each has time to obey. All times are seconds of one clock."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, Token], float] = {}

    def may_tell(
        self, executor_id: str, token: Token, now: float, *, at_once: bool, patience: float, forget: float
    ) -> bool:
        """Whether to tell the agent now: again only after `patience`, and for the first time, too, unless `at_once`: a
        stop is on its way already then. If so it counts as told; after `forget` it was never told."""
        name = executor_id, token
        self._told = {key: at for key, at in self._told.items() if now - at < forget}
        told = self._told.get(name)
        if told is not None and now - told < patience:
            return False
        self._told[name] = now
        return at_once or told is not None
