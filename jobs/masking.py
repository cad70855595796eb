"""Which environment variables look like secrets, so that their values never leave in a page, an answer or a log."""

import re
from collections.abc import Mapping

MASK = "••••••"

_SECRET = re.compile(
    r"pass(word|wd|phrase)?|pwd|secret|token|key|credential|auth|private|salt|signature|dsn", re.IGNORECASE
)


def secret_names(env: Mapping[str, str]) -> set[str]:
    """The variables whose names look secret, such as DB_PASSWORD, API_KEY or AWS_SECRET_ACCESS_KEY."""
    return {name for name in env if _SECRET.search(name)}


def masked(env: Mapping[str, str]) -> dict[str, str]:
    """The environment as it may be shown: what looks secret as MASK."""
    hidden = secret_names(env)
    return {name: MASK if name in hidden else value for name, value in env.items()}
