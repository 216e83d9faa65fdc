"""Can the SQLite of this Python, on this disk, hold a store? Tried on a file that is thrown away."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

SQLITE_VERSION = sqlite3.sqlite_version
"""Of the library that this Python has."""
OLDEST = (3, 35)
"""The version of SQLite that the store's statements need."""


class SqliteProbe(NamedTuple):
    """``journal_mode`` is what the disk allows: ``wal`` on a local one. ``searches`` says that the full-text
    index FTS5 finds a word."""

    new_enough: bool
    journal_mode: str
    searches: bool


def probe(folder: Path | None) -> SqliteProbe:
    """Write and search a file in ``folder``, or in the system's folder for temporary files.

    Raises sqlite3.Error (the store's ``DatabaseError``) where SQLite lacks FTS5, and OSError where nothing
    can be written.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor.") as temporary:
        with closing(sqlite3.connect(Path(temporary) / "probe.sqlite")) as conn:
            (mode,) = conn.execute("PRAGMA journal_mode = WAL").fetchone()
            conn.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
            conn.execute("INSERT INTO words VALUES ('reflection tuning')")
            (matches,) = conn.execute("SELECT count(*) FROM words WHERE words MATCH 'tuning'").fetchone()
        return SqliteProbe(sqlite3.sqlite_version_info >= OLDEST, mode, matches == 1)
