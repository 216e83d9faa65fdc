"""Datasets, their samples, and the variants of each sample."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from srtui.sample import Pair, Turn, pair_digest
from srtui.store._query import batched, each_row, fetch_row, fetch_rows, fetch_value
from srtui.store.conversations import histories, history_of
from srtui.store.endings import CUT

if TYPE_CHECKING:
    from srtui.store import Store

__all__ = [
    "Corpus",
    "DatasetSize",
    "NewText",
    "SampleOrigin",
    "Variant",
    "batched",
    "dataset_sizes",
    "sample_origin",
    "variants_of",
]


@dataclass(frozen=True)
class Variant:
    """One text of a sample. ``kind`` and ``origin`` are as in the variant table."""

    id: int
    sample_id: int
    kind: str
    origin: str
    parent_id: int | None
    generation_id: int | None
    pair: Pair


class NewText(NamedTuple):
    """A rewrite on its way into the store: of which sample and variant, by which generation. ``pair`` has the sample's
    own history."""

    sample_id: int
    kind: str
    parent_id: int
    generation_id: int
    pair: Pair


class SampleOrigin(NamedTuple):
    """Where a sample comes from: its dataset, and its row there, from 0."""

    id: int
    dataset: str
    row: int


def sample_origin(conn: sqlite3.Connection, sample_id: int) -> SampleOrigin | None:
    """Where this sample comes from; None where there is none of that id."""
    if abs(sample_id) >= 2**63:  # beyond 64 bits no id can be, and SQLite takes no such number
        return None
    row = fetch_row(
        conn,
        "SELECT s.id, s.row, d.name AS dataset FROM sample s JOIN dataset d ON d.id = s.dataset_id WHERE s.id = ?",
        (sample_id,),
    )
    return SampleOrigin(row["id"], row["dataset"], row["row"]) if row else None


TAKEN = "NOT EXISTS (SELECT 1 FROM left_out l WHERE l.sample_id = sample.id)"
_COLUMNS = "id, sample_id, kind, origin, parent_id, generation_id, instruction, input, response"


def _variant(row: Any, history: Sequence[Turn]) -> Variant:
    values = tuple(row)
    return Variant(*values[:6], Pair(*values[6:9], history))  # type: ignore[call-arg]


def _with_histories(conn: sqlite3.Connection, rows: list[sqlite3.Row]) -> list[Variant]:
    """The variants of these rows; those of one sample share its history."""
    turns_of = histories(conn, (r["sample_id"] for r in rows))
    return [_variant(r, turns_of.get(r["sample_id"], ())) for r in rows]


_CODE = re.compile(r"```|^\s*(?:def |class |import |#include|public |SELECT |function )", re.MULTILINE)


def has_code(text: str) -> bool:
    """Whether a text looks as if it held a program: a fenced block, or a line that begins as code does."""
    return bool(_CODE.search(text))


def teach_code(conn: sqlite3.Connection) -> None:
    """Let queries ask ``has_code(text)``, which is 1 or 0."""
    conn.create_function("has_code", 1, lambda text: int(has_code(text or "")), deterministic=True)


class DatasetSize(NamedTuple):
    """A dataset and how many samples it has."""

    name: str
    samples: int


def dataset_sizes(conn: sqlite3.Connection) -> list[DatasetSize]:
    """All datasets, in the order of their import."""
    return [
        DatasetSize(*r)
        for r in fetch_rows(
            conn,
            "SELECT d.name, (SELECT count(*) FROM sample s WHERE s.dataset_id = d.id) FROM dataset d ORDER BY d.id",
        )
    ]


def variants_of(conn: sqlite3.Connection, sample_id: int) -> list[Variant]:
    """The texts of a sample, the oldest first."""
    query = f"SELECT {_COLUMNS} FROM variant WHERE sample_id = ? ORDER BY id"
    return _with_histories(conn, fetch_rows(conn, query, (sample_id,)))


class Corpus:
    """``store.corpus``: datasets, their samples, and the variants of these."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- datasets ---------------------------------------------------------------------------

    def dataset_id(self, name: str) -> int | None:
        """The id of the dataset of this name; None where there is none."""
        dataset_id: int | None = fetch_value(
            self._store.conn, "SELECT id FROM dataset WHERE name = ?", (name,)
        )
        return dataset_id

    def datasets(self) -> list[DatasetSize]:
        """All datasets, in the order of their import."""
        return dataset_sizes(self._store.conn)

    def dataset_name(self, dataset_id: int) -> str | None:
        """The name of a dataset; None where there is none of that id."""
        name: str | None = fetch_value(
            self._store.conn, "SELECT name FROM dataset WHERE id = ?", (dataset_id,)
        )
        return name

    # -- samples ----------------------------------------------------------------------------

    def origin(self, sample_id: int) -> SampleOrigin | None:
        """Where a sample comes from; None where there is none of that id."""
        return sample_origin(self._store.conn, sample_id)

    def highest_sample_id(self) -> int | None:
        """The highest id of all samples; None before anything was imported."""
        highest: int | None = fetch_value(self._store.conn, "SELECT max(id) FROM sample")
        return highest

    def size(self, dataset_id: int) -> int:
        """How many samples a dataset has."""
        return int(
            fetch_value(self._store.conn, "SELECT count(*) FROM sample WHERE dataset_id = ?", (dataset_id,))
        )

    def original_pairs(self, dataset_id: int) -> Iterator[tuple[int, Pair]]:
        """(sample id, text as it was imported) of a dataset in its order, read as they are asked for."""
        # By the table itself and not by an index: what has to be sorted would be in memory, all texts of it.
        rows = self._store.conn.execute(
            "SELECT s.id, v.instruction, v.input, v.response FROM sample s CROSS JOIN variant v "
            "WHERE +s.dataset_id = ? AND v.sample_id = s.id AND v.kind = 'original' ORDER BY s.id",
            (dataset_id,),
        )
        for chunk in batched(rows, 500):
            before = histories(self._store.conn, [r[0] for r in chunk])
            for r in chunk:
                yield int(r[0]), Pair(r[1], r[2], r[3], before.get(r[0], ()))

    def original_pairs_of(self, sample_ids: Iterable[int]) -> dict[int, Pair]:
        """By sample id, the texts as they were imported."""
        pairs: dict[int, Pair] = {}
        for chunk in batched(sample_ids, 500):
            marks = ",".join("?" * len(chunk))
            before = histories(self._store.conn, chunk)
            for row in self._store.conn.execute(
                "SELECT sample_id, instruction, input, response FROM variant WHERE kind = 'original' "
                f"AND sample_id IN ({marks})",
                chunk,
            ):
                pairs[row[0]] = Pair(row[1], row[2], row[3], before.get(row[0], ()))
        return pairs

    def original_variants(self, sample_ids: Iterable[int]) -> dict[int, int]:
        """By sample id, the id of the variant that holds its text as it was imported, in the order of the samples."""
        variants: dict[int, int] = {}
        for chunk in batched(sample_ids, 500):
            marks = ",".join("?" * len(chunk))
            query = f"SELECT sample_id, id FROM variant WHERE kind = 'original' AND sample_id IN ({marks}) ORDER BY sample_id"
            variants.update((r[0], r[1]) for r in fetch_rows(self._store.conn, query, chunk))
        return variants

    def original_ids_of(self, dataset_id: int, after: int, size: int) -> list[tuple[int, int]]:
        """(sample id, id of the variant that holds its text as it was imported) of a dataset's next ``size`` samples
        behind the sample ``after``, in its order."""
        return [
            (r[0], r[1])
            for r in fetch_rows(
                self._store.conn,
                "SELECT s.id, v.id FROM (SELECT id FROM sample WHERE +dataset_id = ? AND id > ? ORDER BY id LIMIT ?) s "
                "CROSS JOIN variant v WHERE v.sample_id = s.id AND v.kind = 'original' ORDER BY s.id",
                (dataset_id, after, size),
            )
        ]

    def field(self, sample_ids: Iterable[int], name: str) -> dict[int, str]:
        """By sample id, a field of the rows as they were imported, as text; none where a row has none, or a list or
        an object. ``name`` has no quotation mark."""
        values: dict[int, str] = {}
        for chunk in batched(sample_ids, 500):
            marks = ",".join("?" * len(chunk))
            query = (
                "SELECT id, CASE WHEN json_valid(record) AND json_type(record, ?1) NOT IN ('null', 'array', 'object') "
                "THEN CAST(json_extract(record, ?1) AS TEXT) END AS value FROM (SELECT s.id, coalesce(c.record, s.record) "
                "AS record FROM sample s LEFT JOIN exchange e ON e.sample_id = s.id "
                f"LEFT JOIN conversation c ON c.id = e.conversation_id WHERE s.id IN ({marks}))"
            )
            rows = fetch_rows(self._store.conn, query, (f'$."{name}"', *chunk))
            values.update((r[0], r[1]) for r in rows if r[1] is not None)
        return values

    def each_sample_id(self, dataset_id: int, limit: int | None = None) -> Iterator[int]:
        """The samples of a dataset that a new run takes, in its order, at most ``limit`` of them, read as they are asked for."""
        query = f"SELECT id FROM sample WHERE dataset_id = ? AND {TAKEN} ORDER BY id LIMIT ?"
        return chain.from_iterable(each_row(self._store.conn, query, (dataset_id, limit or -1)))

    def questions(self, dataset_id: int, limit: int | None = None) -> Iterator[tuple[int, str, str]]:
        """(sample id, instruction, input) of the same samples as they were imported, read as they are asked for."""
        query = (
            "SELECT v.sample_id, v.instruction, v.input FROM variant v WHERE v.kind = 'original' AND v.sample_id IN "
            f"(SELECT id FROM sample WHERE dataset_id = ? AND {TAKEN} ORDER BY id LIMIT ?)"
        )
        rows = each_row(self._store.conn, query, (dataset_id, limit or -1))
        return cast("Iterator[tuple[int, str, str]]", rows)

    def kinds_and_lengths(self, dataset_id: int, limit: int | None = None) -> Iterator[tuple[int, str, int]]:
        """(sample id, kind, characters) of the same samples as they were imported, read as they are asked for. The
        kind is code (its response has some), input (it has an input) or plain."""
        teach_code(self._store.conn)
        rows = self._store.conn.execute(
            "SELECT v.sample_id, CASE WHEN has_code(v.response) THEN 'code' WHEN v.input <> '' THEN 'input' ELSE 'plain' "
            "END, length(v.instruction) + length(v.input) + length(v.response) FROM variant v WHERE v.kind = 'original' "
            f"AND v.sample_id IN (SELECT id FROM sample WHERE dataset_id = ? AND {TAKEN} ORDER BY id LIMIT ?)",
            (dataset_id, limit or -1),
        )
        return ((int(r[0]), str(r[1]), int(r[2])) for r in rows)

    # -- variants ---------------------------------------------------------------------------

    def add_variant(
        self,
        sample_id: int,
        kind: str,
        origin: str,
        parent_id: int | None,
        generation_id: int | None,
        pair: Pair,
    ) -> tuple[int, bool]:
        """The id of this text of this sample, and whether it is new. Its history is the sample's,
        whatever ``pair`` says.

        Args:
            sample_id: whose text it is.
            kind: as the table ``variant`` has it.
            origin: dataset, teacher, import or person.
            parent_id: the variant that it was made of.
            generation_id: the generation that it was read from.
            pair: its texts.
        """
        digest = pair_digest(*pair.texts, history_of(self._store.conn, sample_id))
        cursor = self._store.conn.execute(
            "INSERT OR IGNORE INTO variant(sample_id, digest, kind, origin, parent_id, generation_id, instruction, "
            "input, response, created_at) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (sample_id, digest, kind, origin, parent_id, generation_id, *pair.texts, time.time()),
        )
        if cursor.rowcount:
            return int(cursor.lastrowid or 0), True
        variant_id = fetch_value(
            self._store.conn,
            "SELECT id FROM variant WHERE sample_id = ? AND digest = ?",
            (sample_id, digest),
        )
        return int(variant_id), False

    def add_texts(self, texts: Sequence[NewText], now: float) -> list[int]:
        """The ids of these texts, which teachers wrote, each as :meth:`add_variant` gives it; within a transaction."""
        conn = self._store.conn
        known: dict[tuple[int, bytes], int] = {}
        for chunk in batched(dict.fromkeys(t.sample_id for t in texts), 500):
            query = (
                f"SELECT sample_id, digest, id FROM variant WHERE sample_id IN ({','.join('?' * len(chunk))})"
            )
            known.update(((r[0], r[1]), r[2]) for r in fetch_rows(conn, query, chunk))
        following = 1 + int(fetch_value(conn, "SELECT coalesce(max(id), 0) FROM variant"))
        rows: list[tuple[Any, ...]] = []
        ids: list[int] = []
        for t in texts:
            address = t.sample_id, t.pair.digest
            if address not in known:
                known[address] = following + len(rows)
                rows.append(
                    (known[address], *address, t.kind, t.parent_id, t.generation_id, *t.pair.texts, now)
                )
            ids.append(known[address])
        conn.executemany(
            "INSERT INTO variant(id, sample_id, digest, kind, origin, parent_id, generation_id, instruction, input, "
            "response, created_at) VALUES (?,?,?,?,'teacher',?,?,?,?,?,?)",
            rows,
        )
        return ids

    def variants(self, ids: Iterable[int]) -> dict[int, Variant]:
        """Variants by id."""
        variants: dict[int, Variant] = {}
        for chunk in batched(ids, 500):
            marks = ",".join("?" * len(chunk))
            rows = fetch_rows(
                self._store.conn, f"SELECT {_COLUMNS} FROM variant WHERE id IN ({marks})", chunk
            )
            variants.update((v.id, v) for v in _with_histories(self._store.conn, rows))
        return variants

    def variants_of(self, sample_id: int) -> list[Variant]:
        """The texts of a sample, the oldest first."""
        return variants_of(self._store.conn, sample_id)

    def rewrites_of(self, parent_id: int, kind: str) -> list[Variant]:
        """Stored rewrites of one variant, whoever made them, but for those that an older srtui took though
        they had been cut short."""
        marks = ",".join("?" * len(CUT))
        return _with_histories(
            self._store.conn,
            fetch_rows(
                self._store.conn,
                f"SELECT {_COLUMNS} FROM variant WHERE parent_id = ? AND kind = ? AND NOT EXISTS (SELECT 1 FROM "
                "generation g WHERE g.id = variant.generation_id AND g.segments IS NULL AND "
                f"g.finish IN ({marks})) ORDER BY id",
                (parent_id, kind, *CUT),
            ),
        )

    def original_ids(self, run_id: int) -> list[int]:
        """The variants that the samples of a run began as, without their texts."""
        return [
            r[0]
            for r in fetch_rows(
                self._store.conn,
                "SELECT v.id FROM run_sample rs JOIN variant v ON v.sample_id = rs.sample_id AND v.kind = 'original' "
                "WHERE rs.run_id = ? ORDER BY rs.sample_id",
                (run_id,),
            )
        ]

    def originals(self, run_id: int, *, held_out: bool | None = None) -> dict[int, Variant]:
        """Original variant by sample id, for the samples of a run, or those that are held out or are not."""
        rows = fetch_rows(
            self._store.conn,
            f"SELECT {', '.join('v.' + c for c in _COLUMNS.split(', '))} FROM run_sample rs "
            "JOIN variant v ON v.sample_id = rs.sample_id AND v.kind = 'original' "
            "WHERE rs.run_id = ?1 AND (?2 IS NULL OR rs.held_out = ?2) ORDER BY rs.sample_id",
            (run_id, held_out),
        )
        return {v.sample_id: v for v in _with_histories(self._store.conn, rows)}

    def each_original_id(self, run_id: int, every: int = 1) -> Iterator[int]:
        """Variant ids of the originals of a run, of about one sample in ``every``, read as they are asked for."""
        query = (
            "SELECT v.id FROM run_sample rs CROSS JOIN variant v ON v.sample_id = rs.sample_id AND v.kind = 'original' "
            "WHERE rs.run_id = ? AND rs.sample_id % ? = 0 ORDER BY rs.sample_id"
        )
        return chain.from_iterable(each_row(self._store.conn, query, (run_id, every)))
