"""Embeddings of variants by students: float16 vectors, each written once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from srtui.store._query import fetch_rows, fetch_value
from srtui.store.corpus import batched

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from srtui.store import Store


class Embeddings:
    """``store.embeddings``: by variant and scoring setting, as scores are."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, setting_id: int, vectors: Iterable[tuple[int, NDArray[np.float32]]]) -> None:
        """(variant id, vector) of a setting; what is there already stays."""
        with self._store.transaction():
            self._store.conn.executemany(
                "INSERT OR IGNORE INTO embedding(variant_id, setting_id, vector) VALUES (?,?,?)",
                ((variant_id, setting_id, vector.astype("<f2").tobytes()) for variant_id, vector in vectors),
            )

    def is_empty(self) -> bool:
        """Whether no text has an embedding."""
        return fetch_value(self._store.conn, "SELECT 1 FROM embedding LIMIT 1") is None

    def setting_of(self, variant_ids: Sequence[int], preferred: int | None) -> int | None:
        """The setting under which these variants have embeddings: the preferred one, or else the last; None where
        they have none."""
        for chunk in batched(variant_ids, 500):
            marks = ",".join("?" * len(chunk))
            setting: int | None = fetch_value(
                self._store.conn,
                f"SELECT setting_id FROM embedding WHERE variant_id IN ({marks}) ORDER BY setting_id = ? DESC, "
                "setting_id DESC LIMIT 1",
                (*chunk, preferred),
            )
            if setting is not None:
                return setting
        return None

    def missing(self, variant_ids: Iterable[int], setting_id: int) -> list[int]:
        """Those of the variants that have none under a setting, in their order."""
        requested = list(dict.fromkeys(variant_ids))
        stored: set[int] = set()
        for chunk in batched(requested, 500):
            marks = ",".join("?" * len(chunk))
            query = f"SELECT variant_id FROM embedding WHERE setting_id = ? AND variant_id IN ({marks})"
            stored.update(r[0] for r in fetch_rows(self._store.conn, query, (setting_id, *chunk)))
        return [variant_id for variant_id in requested if variant_id not in stored]

    def load(self, variant_ids: Sequence[int], setting_id: int) -> tuple[list[int], NDArray[np.float16]]:
        """The variants that have one, in their order, and their vectors, (n, width)."""
        import numpy as np  # here alone: commands that need none start without it

        by_id: dict[int, NDArray[np.float16]] = {}
        for chunk in batched(variant_ids, 500):
            marks = ",".join("?" * len(chunk))
            query = (
                f"SELECT variant_id, vector FROM embedding WHERE setting_id = ? AND variant_id IN ({marks})"
            )
            for row in self._store.conn.execute(query, (setting_id, *chunk)):
                by_id[row[0]] = np.frombuffer(row[1], dtype="<f2")
        present = [variant_id for variant_id in variant_ids if variant_id in by_id]
        width = len(by_id[present[0]]) if present else 0
        vectors = np.empty((len(present), width), dtype=np.float16)
        for n, variant_id in enumerate(present):
            vectors[n] = by_id[variant_id]
        return present, vectors
