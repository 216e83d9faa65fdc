"""Embeddings: float16 vectors of variants by a scoring setting, and of texts by themselves, each written once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from srtui.store._query import fetch_rows, fetch_value
from srtui.store.corpus import batched

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from srtui.store import Store

_Key = TypeVar("_Key")


class EmbeddedBlock(NamedTuple):
    """Originals of a dataset in its order: their samples and variants, (n,) each, and their vectors, (n, width)."""

    samples: NDArray[np.int64]
    variants: NDArray[np.int64]
    vectors: NDArray[np.float16]


class Embeddings:
    """``store.embeddings``: of variants by scoring setting, as scores are; of other texts by their key."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, setting_id: int, vectors: Iterable[tuple[int, NDArray[np.float32]]]) -> None:
        """(variant id, vector) of a setting; what is there already stays, and what half a float cannot hold is left
        out."""
        with self._store.transaction():
            self._store.conn.executemany(
                "INSERT OR IGNORE INTO embedding(variant_id, setting_id, vector) VALUES (?,?,?)",
                ((variant_id, setting_id, half) for variant_id, half in _in_halves(vectors)),
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

    def setting_of_dataset(self, dataset_id: int) -> int | None:
        """The last setting under which originals of a dataset have embeddings; None where none has."""
        for (setting_id,) in fetch_rows(self._store.conn, "SELECT id FROM scoring_setting ORDER BY id DESC"):
            embedding = fetch_value(
                self._store.conn,
                "SELECT 1 FROM embedding e JOIN variant v ON v.id = e.variant_id JOIN sample s ON s.id = v.sample_id "
                "WHERE e.setting_id = ? AND s.dataset_id = ? AND v.kind = 'original' LIMIT 1",
                (setting_id, dataset_id),
            )
            if embedding is not None:
                return int(setting_id)
        return None

    def count_of_dataset(self, dataset_id: int, setting_id: int) -> int:
        """How many originals of a dataset have an embedding under a setting."""
        return int(
            fetch_value(
                self._store.conn,
                "SELECT count(*) FROM embedding e JOIN variant v ON v.id = e.variant_id JOIN sample s ON s.id = v.sample_id "
                "WHERE e.setting_id = ? AND s.dataset_id = ? AND v.kind = 'original'",
                (setting_id, dataset_id),
            )
        )

    def of_dataset(self, dataset_id: int, setting_id: int, size: int = 4096) -> Iterator[EmbeddedBlock]:
        """The embedded originals of a dataset in its order, ``size`` at a time, read as they are asked for."""
        import numpy as np

        # By the table of samples itself, so that nothing has to be sorted.
        rows = self._store.conn.execute(
            "SELECT s.id, v.id, e.vector FROM sample s CROSS JOIN variant v CROSS JOIN embedding e WHERE "
            "+s.dataset_id = ? AND v.sample_id = s.id AND v.kind = 'original' AND e.variant_id = v.id "
            "AND e.setting_id = ? ORDER BY s.id",
            (dataset_id, setting_id),
        )
        while chunk := rows.fetchmany(size):
            yield EmbeddedBlock(
                np.array([r[0] for r in chunk]),
                np.array([r[1] for r in chunk]),
                np.frombuffer(b"".join(r[2] for r in chunk), dtype="<f2").reshape(len(chunk), -1),
            )

    def add_texts(self, vectors: Iterable[tuple[bytes, NDArray[np.float32]]]) -> None:
        """(key, vector) of texts; what is there already stays, and what half a float cannot hold is left out."""
        with self._store.transaction():
            self._store.conn.executemany(
                "INSERT OR IGNORE INTO text_embedding(key, vector) VALUES (?,?)", _in_halves(vectors)
            )

    def texts(self, keys: Iterable[bytes]) -> dict[bytes, NDArray[np.float16]]:
        """Those of these texts that have an embedding."""
        import numpy as np

        by_key: dict[bytes, NDArray[np.float16]] = {}
        for chunk in batched(keys, 500):
            marks = ",".join("?" * len(chunk))
            for row in self._store.conn.execute(
                f"SELECT key, vector FROM text_embedding WHERE key IN ({marks})", chunk
            ):
                by_key[row[0]] = np.frombuffer(row[1], dtype="<f2")
        return by_key

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


def _in_halves(vectors: Iterable[tuple[_Key, NDArray[np.float32]]]) -> Iterator[tuple[_Key, bytes]]:
    """As they are stored. One that is not finite, or above 65,504, would make the mean of all no number, and with it
    every cosine."""
    import numpy as np

    for key, vector in vectors:
        with np.errstate(over="ignore"):
            half = vector.astype("<f2")
        if np.isfinite(half).all():
            yield key, half.tobytes()
