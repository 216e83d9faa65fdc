"""Queries of tests into a store's tables; srtui itself has them in srtui.store alone."""

from __future__ import annotations

import sqlite3
from typing import Any

from srtui.store import Store


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
