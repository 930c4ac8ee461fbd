"""The state of a store at one moment, to which it can go back: as a standby that lacks the last commits."""

from __future__ import annotations

from typing import Final

import psycopg

TABLES: Final = ("node", "shard", "record", "kept")


class State:
    """A copy of all rows of a store."""

    def __init__(self, url: str) -> None:
        self._url = url
        with psycopg.connect(url) as db:
            self._rows = {table: db.execute(f"SELECT * FROM arcp.{table}").fetchall() for table in TABLES}

    def come_back(self) -> None:
        """Give the store these rows, in one transaction, and break all other connections."""
        with psycopg.connect(self._url, autocommit=True) as db:
            with db.transaction():
                for table, rows in self._rows.items():
                    db.execute(f"DELETE FROM arcp.{table}")
                    for row in rows:
                        places = ", ".join(["%s"] * len(row))
                        db.execute(f"INSERT INTO arcp.{table} VALUES ({places})", row)
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
