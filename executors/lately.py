"""What costs much and is the same for all who look: made once in a while, however many ask."""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_all: "list[Lately[Any]]" = []
"""Each is made once, with its module."""


class Lately(Generic[T]):
    """What `make` returned within the last `seconds`; where that was longer ago, who asks makes it and others wait.

    Nothing is kept that `is_costly` says is made quickly: a small cluster is always shown as it is now.
    """

    def __init__(self, make: Callable[[], T], seconds: float, is_costly: Callable[[T], bool]) -> None:
        self._make, self._seconds, self._is_costly = make, seconds, is_costly
        self._lock = threading.Lock()
        self._kept: tuple[float, T] | None = None
        _all.append(self)

    def forget(self) -> None:
        self._kept = None

    def get(self) -> T:
        """Raises what `make` raises."""
        with self._lock:
            if self._kept and time.monotonic() < self._kept[0] + self._seconds:
                return self._kept[1]
            return self._anew()

    def fresh(self) -> T:
        """Made now, for this one and for those who ask next."""
        with self._lock:
            return self._anew()

    def _anew(self) -> T:
        begun, self._kept = time.monotonic(), None
        made = self._make()
        if self._is_costly(made):
            self._kept = begun, made
        return made


def forget_all() -> None:
    """For who changed the database under all of them at once."""
    for lately in _all:
        lately.forget()
