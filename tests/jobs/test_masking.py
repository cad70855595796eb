"""What of a job's environment may be shown."""

import pytest

from jobs.masking import MASK, masked, secret_names


@pytest.mark.parametrize(
    "name", ["PASSWORD", "db_password", "API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PGPASSWD", "SENTRY_DSN"]
)
def test_what_looks_like_a_secret_is_masked(name: str) -> None:
    assert masked({name: "hunter2"}) == {name: MASK}


def test_all_else_is_shown() -> None:
    env = {"PATH": "/bin", "LEVEL": "debug", "USER": "x"}
    assert masked(env) == env
    assert secret_names(env) == set()
