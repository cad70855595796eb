"""What loops say of a part that does not answer, while they try again."""

import logging


class Trouble:
    """What does not answer as it should, said once when it begins and once when it is over. It is tried again every
    `retry_seconds`."""

    def __init__(self, logger: logging.Logger, retry_seconds: float) -> None:
        self._logger, self._retry_seconds = logger, retry_seconds
        self._known: set[str] = set()

    def met(self, what: str, error: Exception) -> None:
        if what not in self._known:
            self._logger.error(
                "trouble with %s, trying again every %g s: %s", what, self._retry_seconds, one_line(error)
            )
        self._known.add(what)

    def over(self, what: str) -> None:
        if what in self._known:
            self._logger.info("%s is well again", what)
        self._known.discard(what)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
