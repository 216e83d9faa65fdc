"""Stores as an earlier srtui made them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from srtui.store._sqlite_utils import Database
from srtui.store.schema import SCRIPTS, migrations, statements


def earlier_store(path: Path, last: int) -> sqlite3.Connection:
    """A new store at ``path`` with the first ``last`` migrations only, and one dataset, which has no samples."""
    conn = sqlite3.connect(path)
    migrations.ensure_migrations_table(Database(conn, execute_plugins=False))
    for name, script in list(SCRIPTS.items())[:last]:
        for statement in statements(script):
            conn.execute(statement)
        conn.execute(
            "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) VALUES ('srtui', ?, '2026-01-01')",
            (name,),
        )
    conn.execute("INSERT INTO dataset VALUES (1, 'old', 0)")
    return conn
