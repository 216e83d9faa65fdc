"""What engines reported while they worked: loads, warnings, errors."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from srtui.store._query import fetch_rows, fetch_value


class Event(NamedTuple):
    """One thing that an engine reported. ``at`` is in seconds since 1970, ``level`` is info, warning or error,
    ``run`` the name of the run, None where it concerned none."""

    id: int
    at: float
    level: str
    message: str
    run: str | None


def events_of(
    conn: sqlite3.Connection, first: int, count: int, run_id: int | None = None, level: str | None = None
) -> list[Event]:
    """Events from the newest to the oldest.

    Args:
        conn: any connection to the store.
        first: how many of the newest are skipped.
        count: how many are read at most.
        run_id: only those of this run, where it is given.
        level: only those of this level, where it is given.
    """
    where, values = _which(run_id, level)
    query = (
        "SELECT e.id, e.at, e.level, e.message, r.name AS run FROM event e LEFT JOIN run r ON r.id = e.run_id "
        f"{where} ORDER BY e.id DESC LIMIT :count OFFSET :first"
    )
    return [Event(*r) for r in fetch_rows(conn, query, {**values, "count": count, "first": first})]


def count_events(conn: sqlite3.Connection, run_id: int | None = None, level: str | None = None) -> int:
    """How many events there are, of one run or of all, of one level or of all."""
    where, values = _which(run_id, level)
    return int(fetch_value(conn, f"SELECT count(*) FROM event e {where}", values))


def _which(run_id: int | None, level: str | None) -> tuple[str, dict[str, Any]]:
    """The condition, of what was asked for alone: an OR with a parameter that is null uses no index."""
    filters = {"run_id": run_id, "level": level}
    values = {column: value for column, value in filters.items() if value is not None}
    conditions = " AND ".join(f"e.{column} = :{column}" for column in values)
    return (f"WHERE {conditions}" if conditions else ""), values
