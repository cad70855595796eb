import socket
from pathlib import Path

import pytest
import redis

from script import private_redis
from script.console import Problem
from script.private_redis import available_redis, free_port


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "REDIS_HOST"):
        monkeypatch.delenv(name, raising=False)


def test_data_outlives_the_private_redis(tmp_path: Path) -> None:
    with available_redis(tmp_path) as url:
        redis.Redis.from_url(url).set("kept", "yes")
    with available_redis(tmp_path) as url:
        assert redis.Redis.from_url(url).get("kept") == b"yes"


def test_the_seeds_port_is_taken_where_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(private_redis, "SEED_PORT", port)
    with available_redis(tmp_path) as url:
        assert url == f"redis://127.0.0.1:{port}/0"


def test_another_port_is_taken_where_the_seeds_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(private_redis, "SEED_PORT", other.getsockname()[1])
        with available_redis(tmp_path) as url:
            assert str(other.getsockname()[1]) not in url
            assert redis.Redis.from_url(url).ping()


def test_a_redis_that_the_environment_names_is_used(
    tmp_path: Path, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server)
    with available_redis(tmp_path) as url:
        assert url == redis_server
    assert redis.Redis.from_url(redis_server).ping()


def test_a_named_redis_that_does_not_answer_is_an_error_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(Problem, match=r"(?s)REDIS_URL.*does not answer.*unset"), available_redis(tmp_path):
        pass
