from hypothesis import given
from hypothesis import strategies as st

from jobs.reconcile import Counted, Token, compare

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
