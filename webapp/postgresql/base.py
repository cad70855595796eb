"""Django's PostgreSQL, but that a kept connection whose server fell silent is found out before it is used again, and
that a query has one process."""

import select

from django.db.backends.postgresql import base
from psycopg import OperationalError
from psycopg.pq import ExecStatus

SILENT_SECONDS = 3


class DatabaseWrapper(base.DatabaseWrapper):
    """What Django asks for as `webapp.postgresql`."""

    def init_connection_state(self) -> None:
        """Without parallel workers: no query reads more than a few thousand rows; to start a worker takes longer."""
        super().init_connection_state()
        with self.connection.cursor() as cursor:
            cursor.execute("SET max_parallel_workers_per_gather = 0")

    def is_usable(self) -> bool:
        """Whether the server answers within SILENT_SECONDS; Django's own question waits as long as TCP does."""
        wire = self.connection.pgconn  # psycopg itself has no way to wait only so long
        try:
            wire.send_query(b"SELECT 1")
            while wire.is_busy():
                if not select.select([wire.socket], [], [], SILENT_SECONDS)[0]:
                    return False
                wire.consume_input()
            status = None
            while result := wire.get_result():
                status = result.status
        except (OperationalError, OSError, ValueError):  # the last two: a socket that is closed
            return False
        return status == ExecStatus.TUPLES_OK
