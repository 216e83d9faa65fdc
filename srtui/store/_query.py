"""The ways to read rows; private to the store: SQL is written in this package and nowhere else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

_Item = TypeVar("_Item")


def fetch_rows(conn: sqlite3.Connection, sql: str, parameters: Any = ()) -> list[sqlite3.Row]:
    """All rows of a query."""
    return conn.execute(sql, parameters).fetchall()


def fetch_row(conn: sqlite3.Connection, sql: str, parameters: Any = ()) -> sqlite3.Row | None:
    """The first row of a query, None where it has none."""
    row: sqlite3.Row | None = conn.execute(sql, parameters).fetchone()
    return row


def fetch_value(conn: sqlite3.Connection, sql: str, parameters: Any = ()) -> Any:
    """The first column of the first row of a query, None where it has no row."""
    row = conn.execute(sql, parameters).fetchone()
    return None if row is None else row[0]


def each_row(conn: sqlite3.Connection, sql: str, parameters: Any = ()) -> Iterator[tuple[Any, ...]]:
    """The rows of a query as plain tuples, read as they are asked for: for queries of millions of rows."""
    cursor = conn.cursor()
    cursor.row_factory = None
    return cursor.execute(sql, parameters)


def batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """The items in lists of ``size``; the last may be shorter."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
