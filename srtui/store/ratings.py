"""What raters said of texts: one number for each question to one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from srtui.store._query import fetch_rows
from srtui.store.corpus import batched

if TYPE_CHECKING:
    from srtui.store import Store


class Ratings:
    """``store.ratings``, by the key of a question to a judge model."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, keys: Iterable[bytes]) -> dict[bytes, tuple[float | None, str | None]]:
        """(value, reason for none) of the questions among ``keys`` that were asked."""
        rating_by_key: dict[bytes, tuple[float | None, str | None]] = {}
        for chunk in batched(keys, 500):
            marks = ",".join("?" * len(chunk))
            for r in fetch_rows(
                self._store.conn, f"SELECT key, value, reason FROM rating WHERE key IN ({marks})", chunk
            ):
                rating_by_key[r[0]] = (r[1], r[2])
        return rating_by_key

    def add(self, key: bytes, value: float | None, reason: str | None) -> None:
        """Store one; what is there already stays."""
        with self._store.transaction():
            self._store.conn.execute("INSERT OR IGNORE INTO rating VALUES (?,?,?)", (key, value, reason))
