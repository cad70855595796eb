from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import AttemptFinished, AttemptRunning, Heartbeat, HeldAttempt, Hello, Wake
from jobs.reconcile import Counted, Stops, Token, compare, differences, sort_out

A, B = Token("a", 1), Token("b", 1)


def test_an_attempt_whose_start_was_passed_and_that_is_not_held_is_gone() -> None:
    assert compare(set(), 5, [Counted(A, 5, None)]).gone == [A]


def test_an_attempt_whose_start_was_not_passed_yet_is_in_flight() -> None:
    difference = compare(set(), 4, [Counted(A, 5, None)])
    assert not difference.gone


def test_what_is_held_and_not_counted_is_stopped() -> None:
    assert compare({A, B}, 9, [Counted(A, 5, None)]).superseded == [B]


def test_an_earlier_attempt_of_a_job_is_not_taken_for_the_current_one() -> None:
    difference = compare({Token("a", 1)}, 9, [Counted(Token("a", 2), 10, None)])
    assert difference.superseded == [Token("a", 1)]
    assert not difference.gone


def test_what_was_just_reported_as_finished_is_not_stopped() -> None:
    assert compare({A}, 9, [], {A}).superseded == []


def test_a_stop_that_was_passed_is_unheeded_while_its_attempt_is_held() -> None:
    assert compare({A}, 7, [Counted(A, 5, 7)]).unheeded == [A]
    assert compare({A}, 6, [Counted(A, 5, 7)]).unheeded == []


tokens = st.builds(Token, st.sampled_from("abc"), st.integers(1, 2))


@given(
    st.sets(tokens),
    st.integers(0, 10),
    st.lists(st.builds(Counted, tokens, st.integers(1, 10), st.none()), unique_by=lambda item: item.token),
)
def test_an_attempt_that_is_held_and_counted_is_left_alone(held: set[Token], passed: int, counted: list) -> None:
    difference = compare(held, passed, counted)
    left_alone = held & {item.token for item in counted}
    assert left_alone.isdisjoint([*difference.superseded, *difference.gone, *difference.unheeded])
    assert set(difference.superseded) == held - left_alone


# --- A batch -----------------------------------------------------------------------------------------------------


def beat(last_command: int, *held: Token) -> Heartbeat:
    return Heartbeat(executor_id="n1", last_command=last_command, held=[HeldAttempt(*token) for token in held])


def hello(last_command: int) -> Hello:
    said = {"name": "n1", "address": "", "cpu_millicores": 1, "memory_bytes": 1, "held": []}
    return Hello(executor_id="n1", last_command=last_command, **said)  # type: ignore[arg-type]


def test_what_is_said_of_attempts_is_apart_from_what_agents_say_of_themselves() -> None:
    running = AttemptRunning(executor_id="n1", job_id="a", attempt=1, container_id="c", started_at="")
    finished = AttemptFinished(executor_id="n1", job_id="b", attempt=1, reason="completed", exit_code=0)
    said = sort_out([beat(1), running, Wake(), finished, beat(2)])
    assert said.of_attempts == [running, finished]
    assert said.latest == {"n1": beat(2)}
    assert said.finished == {B}


def test_the_last_word_of_an_agent_decides() -> None:
    counted = {"n1": [Counted(A, 5, None)]}
    assert not differences(sort_out([beat(5), beat(5, A)]), counted, {})["n1"].gone
    assert differences(sort_out([beat(5, A), beat(5)]), counted, {})["n1"].gone == [A]


def test_a_heartbeat_written_twice_ends_nothing_that_was_started_after_it() -> None:
    said = sort_out([beat(4)])
    assert not differences(said, {"n1": [Counted(A, 5, None)]}, {"n1": 5})["n1"].gone


def test_what_an_agent_held_that_lost_its_memory_is_gone() -> None:
    said = sort_out([hello(0)])
    assert differences(said, {"n1": [Counted(A, 5, None), Counted(B, 6, None)]}, {"n1": 5})["n1"].gone == [A]


# --- How often a stop is told ------------------------------------------------------------------------------------


def test_a_stop_is_told_again_only_after_the_agent_had_time_to_obey() -> None:
    stops = Stops()

    def may_tell(now: float, at_once: bool = True) -> bool:
        return stops.may_tell("n1", A, now, at_once=at_once, patience=30, forget=120)

    assert [may_tell(now) for now in (0, 29, 30, 59, 60)] == [True, False, True, False, True]
    assert [may_tell(now, at_once=False) for now in (1000, 1029, 1030)] == [False, False, True]
