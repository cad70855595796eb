"""What costs much is made once in a while; what does not is always as it is now."""

import itertools
import threading

from executors.lately import Lately


def test_what_is_costly_is_kept_for_a_while_and_what_is_not_never() -> None:
    kept = Lately(itertools.count().__next__, seconds=60, is_costly=lambda number: number >= 1)
    assert [kept.get(), kept.get(), kept.get()] == [0, 1, 1]
    assert [kept.fresh(), kept.get()] == [2, 2]
    kept.forget()
    assert kept.get() == 3


def test_it_is_made_anew_after_its_time() -> None:
    kept = Lately(itertools.count().__next__, seconds=0, is_costly=lambda number: True)
    assert [kept.get(), kept.get()] == [0, 1]


def test_of_many_who_ask_at_once_one_makes_it() -> None:
    begun, may_end, made = threading.Event(), threading.Event(), itertools.count()

    def make() -> int:
        begun.set()
        may_end.wait(10)
        return next(made)

    kept, got = Lately(make, seconds=60, is_costly=lambda number: True), []
    askers = [threading.Thread(target=lambda: got.append(kept.get())) for _ in range(5)]
    for asker in askers:
        asker.start()
    begun.wait(10)
    may_end.set()
    for asker in askers:
        asker.join(10)
    assert got == [0] * 5
