"""Where a command may write: the one place that decides it, for every file that srtui writes on request.

srtui writes over its own files unasked, so that a command can be repeated; it knows them by the hash
of what it wrote, wherever they lie by now. Anything else that exists needs ``--force``: data, recipes,
models, and also an export that was edited since. Over the store nothing is ever written.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from srtui.atomic import is_sqlite, sha256_of
from srtui.errors import UserError
from srtui.store._query import fetch_value
from srtui.store.connection import checkpoint

if TYPE_CHECKING:
    from srtui.store import Store

_COMPANIONS = ("", "-wal", "-shm", "-journal")


def refuse_store(path: Path, store: Path | None) -> None:
    """Raises UserError where ``path`` is the store, a file that SQLite keeps beside it, or any other
    SQLite database: under another name, through a link, or by a hard link. ``store`` is None where there
    is no workspace."""
    try:
        place = path.resolve()
        if store is not None:
            _refuse(path, place, store.resolve())
        if place.is_file() and is_sqlite(place):
            raise UserError(f"{path} is a SQLite database, which nothing is written over; name another file.")
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        why = getattr(error, "strerror", None) or "its links lead in a circle"
        raise UserError(f"{path}: {why}; name another file.") from error


def _refuse(path: Path, place: Path, store: Path) -> None:
    same_folder = place.parent.exists() and store.parent.exists() and place.parent.samefile(store.parent)
    for companion in _COMPANIONS:
        store_file = store.with_name(store.name + companion)
        is_same = same_folder and place.name.casefold() == store_file.name.casefold()
        if is_same or (place.exists() and store_file.exists() and place.samefile(store_file)):
            raise UserError(
                f"{path} is the store ({store_file}), which nothing is written over; name another file."
            )


class Outputs:
    """``models`` and ``recipes`` are the workspace's folders of these names."""

    def __init__(self, store: Store, models: Path, recipes: Path) -> None:
        self._store, self._models, self._recipes = store, models, recipes

    def check(self, path: Path, force: bool = False) -> None:
        """Raises UserError, a sentence that says why, where ``path`` may not be written."""
        try:
            self.refuse_store(path)
            place = path.resolve()
            if place.is_dir() or not place.parent.is_dir():
                raise UserError(f"{path}: name a file in a folder that exists.")
            if not place.exists():
                return
            if not place.is_file():
                raise UserError(f"{path} is not a regular file; name one to write.")
            if force or place.stat().st_size == 0:
                return
            objection = self._what(place)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; name another file.") from error
        if objection is not None:
            raise UserError(f"{path} {objection}; name another file, or write over it with --force.")

    def refuse_store(self, path: Path) -> None:
        """As the function of this name does."""
        refuse_store(path, self._store.path)

    def wrote(self, path: Path) -> None:
        """Remember what was written; where the store cannot be written, it will need ``--force`` next time."""
        with (
            contextlib.suppress(sqlite3.Error, OSError, UserError),
            contextlib.closing(sqlite3.connect(self._store.path, timeout=2, isolation_level=None)) as conn,
        ):
            conn.execute(
                "INSERT OR REPLACE INTO output(sha256, path, written_at) VALUES (?,?,?)",
                (sha256_of(path), str(path.resolve()), time.time()),
            )
            checkpoint(conn, 0.2)

    def _what(self, place: Path) -> str | None:
        """What the file is that would be lost; None for one that srtui wrote itself."""
        sha256 = sha256_of(place)
        if fetch_value(self._store.conn, "SELECT 1 FROM import WHERE sha256 = ?", (sha256,)):
            return "holds data that was imported into this workspace"
        if fetch_value(self._store.conn, "SELECT 1 FROM output WHERE sha256 = ?", (sha256,)):
            return None
        if place.is_relative_to(self._models.resolve()) or place.suffix in (".gguf", ".safetensors"):
            return "is a model's file"
        if place.is_relative_to(self._recipes.resolve()) and place.suffix == ".toml":
            return "is a recipe"
        if fetch_value(self._store.conn, "SELECT 1 FROM output WHERE path = ?", (str(place),)):
            return "was written by srtui and has been changed since"
        return "exists, and srtui did not write it"
