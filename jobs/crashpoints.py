"""Named moments at which a test has a scheduler or web server killed or stopped; without CRASH_POINT set, nothing.

CRASH_POINT=before-send            kills the process when it comes there
CRASH_POINT=before-send:SIGSTOP    stops it there, once, until SIGCONT, and outside of what its other threads write:
                                   stopped within that, it would keep SQLite locked for everybody
"""

import os
import signal

from django.db import connection, transaction

_wanted, _, _signal = os.environ.get("CRASH_POINT", "").partition(":")
_waiting = {_wanted}


def reach(name: str) -> None:
    """The moment `name` has come."""
    if name in _waiting:
        _waiting.clear()
        if _signal == "SIGSTOP" and not connection.in_atomic_block:
            with transaction.atomic():  # comes after what they are at
                pass
        os.kill(os.getpid(), signal.Signals[_signal or "SIGKILL"])
