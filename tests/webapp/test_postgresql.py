"""A connection to PostgreSQL: used again while the server answers, given up where it does not, and without workers."""

import os
import signal
from collections.abc import Iterator

import pytest
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from script.private_postgresql import find_programs, private_postgresql
from webapp.postgresql import base


@pytest.fixture
def kept(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[BaseDatabaseWrapper]:
    if find_programs() is None:
        pytest.skip("NO POSTGRESQL IS INSTALLED, so connections kept to it are not tested here")
    monkeypatch.setattr(base, "SILENT_SECONDS", 0.2)
    with private_postgresql() as server:
        usual = connections.settings[DEFAULT_DB_ALIAS]
        there = {"NAME": "postgres", "USER": "tests", "PASSWORD": "", "HOST": "127.0.0.1", "PORT": server.port}
        connection = base.DatabaseWrapper({**usual, **there, "OPTIONS": {}}, "kept")
        connection.inc_thread_sharing()
        connection.connect()
        yield connection
        connection.close()


def test_it_is_usable_until_the_server_falls_silent_or_ends_it(kept: BaseDatabaseWrapper) -> None:
    assert kept.is_usable() and kept.is_usable()
    server = kept.connection.info.backend_pid
    os.kill(server, signal.SIGSTOP)
    try:
        assert not kept.is_usable()
    finally:
        os.kill(server, signal.SIGCONT)
    kept.close()
    kept.connect()
    os.kill(kept.connection.info.backend_pid, signal.SIGTERM)
    assert not kept.is_usable()


def test_no_query_waits_for_workers_to_start(kept: BaseDatabaseWrapper) -> None:
    with kept.cursor() as cursor:
        cursor.execute("CREATE TABLE many AS SELECT generate_series(1, 100000) AS id")
        cursor.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")
        cursor.execute("EXPLAIN SELECT count(*) FROM many WHERE id % 7 = 0")
        assert "Gather" not in str(cursor.fetchall())
        cursor.execute("SET max_parallel_workers_per_gather = 2")
        cursor.execute("EXPLAIN SELECT count(*) FROM many WHERE id % 7 = 0")
        assert "Gather" in str(cursor.fetchall())
