"""A copy of the store while an engine writes: one moment of it, checked before it gets its name.

The copy is made within one read transaction. SQLite's backup starts again whenever another connection
has committed between two of its steps, and so never ends beside a busy engine; within a transaction
nothing that others commit is seen, and the steps stay interruptible. (``VACUUM INTO`` also takes one
moment, and writes every table and index anew for it.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from srtui import process_id
from srtui.atomic import gone_if_killed
from srtui.errors import UserError

_PAGES = 4096  # copied between two questions whether to stop
_PREFIX = ".srtui-backup."
_COMPANIONS = ("", "-journal", "-wal", "-shm")


class BackupStopped(Exception):
    """The caller asked to stop; nothing was left behind."""


def back_up(
    source: sqlite3.Connection, target: Path, should_stop: Callable[[], bool] = lambda: False
) -> dict[str, int]:
    """Copy the database that ``source`` reads to ``target``, which must not exist; returns rows by table.

    The copy has the rows of one moment, has passed SQLite's integrity check, and is one file on its own.
    Raises UserError, sqlite3.Error, OSError, or BackupStopped; ``target`` is then not there.
    """
    clear_abandoned(target.parent)
    process = (process_id.token() or "").replace("/", "_")
    partial = target.with_name(f"{_PREFIX}{process}.{secrets.token_hex(4)}.part")
    parts = [partial.with_name(partial.name + ending) for ending in _COMPANIONS]
    with gone_if_killed(*parts):
        try:
            with contextlib.closing(sqlite3.connect(partial)) as copy:
                counts = _copy(source, copy, should_stop)
                _verify(copy, counts, should_stop)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            # A link fails where a file has come to be there in the meantime; a rename would replace it.
            _move(partial, target)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
    return counts


def clear_abandoned(folder: Path) -> None:
    """Remove what backups have left in ``folder`` whose guard ended with them: a power cut, a container's end."""
    for part in folder.glob(f"{_PREFIX}*"):
        name = part.name.removeprefix(_PREFIX).partition(".")[0].replace("_", "/")
        # One that was begun before another boot, or elsewhere, cannot be seen from here: a day is long.
        if process_id.runs(name) is False or (process_id.runs(name) is None and _age_days(part) > 1):
            with contextlib.suppress(OSError):
                part.unlink()


def _age_days(path: Path) -> float:
    try:
        return (time.time() - path.stat().st_mtime) / 86400
    except OSError:
        return 0.0


def _copy(
    source: sqlite3.Connection, copy: sqlite3.Connection, should_stop: Callable[[], bool]
) -> dict[str, int]:
    def ask(status: int, remaining: int, total: int) -> None:
        if should_stop():
            raise BackupStopped

    copy.execute("PRAGMA synchronous = OFF")  # flushed once, when it is whole
    source.execute("BEGIN")
    try:
        counts = _counts(source)
        source.backup(copy, pages=_PAGES, progress=ask)
    finally:
        source.rollback()
    copy.execute("PRAGMA journal_mode = DELETE")  # the source's is WAL: the copy is one file
    return counts


def _counts(conn: sqlite3.Connection) -> dict[str, int]:
    names = [
        r[0]
        for r in conn.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'variant_text%' ORDER BY name"
        )
    ]
    return {name: int(conn.execute(f"SELECT count(*) FROM [{name}]").fetchone()[0]) for name in names}


def _verify(copy: sqlite3.Connection, counts: dict[str, int], should_stop: Callable[[], bool]) -> None:
    copy.set_progress_handler(should_stop, 1_000_000)
    try:
        problems = [r[0] for r in copy.execute("PRAGMA integrity_check(3)") if r[0] != "ok"]
        differing = [name for name, count in _counts(copy).items() if counts.get(name) != count]
    except sqlite3.OperationalError as error:
        if should_stop():
            raise BackupStopped from error
        raise
    finally:
        copy.set_progress_handler(None, 0)
    if problems or differing:
        fault = problems[0] if problems else f"it has not all rows of {', '.join(differing)}"
        raise UserError(
            f"The copy is not sound ({fault}), and was removed; run srtui db check on the store, and check the disk."
        )


def _move(partial: Path, target: Path) -> None:
    try:
        os.link(partial, target)
    except FileExistsError:
        raise UserError(f"{target} exists already; name a file that does not.") from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise UserError(f"{target} exists already; name a file that does not.") from None
        partial.replace(target)
    with contextlib.suppress(OSError):  # not everywhere can a folder be opened
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
