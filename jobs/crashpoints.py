"""Named moments at which a test has a scheduler or web server killed or stopped; without CRASH_POINT set, nothing.

CRASH_POINT=before-send            kills the process when it comes there
CRASH_POINT=before-send:SIGSTOP    stops it there, once, until SIGCONT
"""

import os
import signal

_wanted, _, _signal = os.environ.get("CRASH_POINT", "").partition(":")
_waiting = {_wanted}


def reach(name: str) -> None:
    """The moment `name` has come."""
    if name in _waiting:
        _waiting.clear()
        os.kill(os.getpid(), signal.Signals[_signal or "SIGKILL"])
