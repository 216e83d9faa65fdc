"""Connections to a store's file, and its write-ahead log.

In WAL mode what was committed lies in ``srtui.sqlite-wal`` until a checkpoint brings it into the file.
SQLite checkpoints when the last connection that may write closes, and only then removes the log: with a
dashboard watching, an engine's is not the last one. So engines checkpoint themselves.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DatabaseError = sqlite3.Error
"""What SQLite says where a query or a file fails, by a name for those who catch it: ``sqlite3`` itself is
imported in this package alone."""

_LOG_HEADER = 32
# https://sqlite.org/walformat.html: mxFrame of the first header copy, and nBackfill, in native byte order.
_INDEX_LAST_FRAME, _INDEX_CHECKPOINTED = 16, 96


def open_read_only(path: Path, **options: Any) -> sqlite3.Connection:
    """A connection that cannot write. ``path`` may hold what an URI means otherwise: # ? % and spaces."""
    conn: sqlite3.Connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30, **options
    )
    return conn


def was_interrupted(error: Exception) -> bool:
    """Whether a query ended because another thread asked for it, and not because anything is wrong."""
    return isinstance(error, sqlite3.OperationalError) and "interrupted" in str(error)


@contextmanager
def one_snapshot(conn: sqlite3.Connection) -> Iterator[None]:
    """All that is read within the block is of one moment, whatever others commit meanwhile."""
    conn.execute("BEGIN")
    try:
        yield
    finally:
        conn.rollback()


def checkpoint(conn: sqlite3.Connection, seconds: float) -> bool:
    """Bring all that was committed into the one file, and empty the log; whether that was possible.

    A reader in the middle of a query, or another writer, is waited for, ``seconds`` at most; what it
    leaves undone the next checkpoint does.
    """
    (before,) = conn.execute("PRAGMA busy_timeout").fetchone()
    conn.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
    try:
        busy, _, _ = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        conn.execute(f"PRAGMA busy_timeout = {before}")
    return bool(busy == 0)


def pages_in_log(path: Path) -> int:
    """How many pages of the log beside ``path`` are not in the file itself: a copy of the file lacks them.

    Exact while some connection to the store is open (it keeps the log's index); else every page of the
    log counts.
    """
    log, index = path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")
    try:
        size = log.stat().st_size
        if size <= _LOG_HEADER:
            return 0
        head = index.read_bytes()[: _INDEX_CHECKPOINTED + 4]
        (last,) = struct.unpack_from("=I", head, _INDEX_LAST_FRAME)
        (checkpointed,) = struct.unpack_from("=I", head, _INDEX_CHECKPOINTED)
        return max(0, int(last) - int(checkpointed))
    except FileNotFoundError:
        if not log.exists():
            return 0
    except (OSError, struct.error):
        pass
    with log.open("rb") as file:
        page = int.from_bytes(file.read(12)[8:12], "big")
    return (size - _LOG_HEADER) // (24 + page) if page else 0
