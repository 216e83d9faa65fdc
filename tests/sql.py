"""Queries of tests into a store's tables; srtui itself has them in srtui.store alone."""

from __future__ import annotations

import sqlite3
from typing import Any

from srtui.store import Store
from srtui.store._sqlite_utils import Database
from srtui.store.schema import SCRIPTS, migrations, statements


def sql_rows(store: Store, sql: str, parameters: Any = ()) -> list[sqlite3.Row]:
    """All rows of a query."""
    return store.conn.execute(sql, parameters).fetchall()


def sql_row(store: Store, sql: str, parameters: Any = ()) -> sqlite3.Row | None:
    """The first row of a query."""
    row: sqlite3.Row | None = store.conn.execute(sql, parameters).fetchone()
    return row


def sql_value(store: Store, sql: str, parameters: Any = ()) -> Any:
    """The first column of a query's first row, None where it has no row."""
    row = sql_row(store, sql, parameters)
    return None if row is None else row[0]


def migrate(conn: sqlite3.Connection, last: int) -> None:
    """The first ``last`` migrations of a store, as an earlier srtui made it."""
    migrations.ensure_migrations_table(Database(conn, execute_plugins=False))
    for name, script in list(SCRIPTS.items())[:last]:
        for statement in statements(script):
            conn.execute(statement)
        conn.execute(
            "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) VALUES ('srtui', ?, '2026-01-01')",
            (name,),
        )
