"""Datasets, their samples, and the variants of each sample."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from srtui.errors import UserError
from srtui.sample import Pair
from srtui.store._query import fetch_row, fetch_rows, fetch_value
from srtui.store.endings import CUT

if TYPE_CHECKING:
    from srtui.store import Store

_Item = TypeVar("_Item")

REFLECTED_KINDS = ("instruction_reflected", "response_reflected")


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


@dataclass
class Imported:
    """What one import did."""

    dataset_id: int
    dataset: str
    read: int = 0
    new: int = 0
    duplicate: int = 0
    bad: int = 0
    unmatched: int = 0
    already: bool = False


@dataclass(frozen=True)
class NewRow:
    """One good row of a file on its way in."""

    number: int
    pair: Pair
    record: str
    external_id: str | None = None


@dataclass(frozen=True)
class RefusedRow:
    """One row that could not be taken."""

    line: int
    reason: str
    detail: str


class SampleOrigin(NamedTuple):
    """Where a sample comes from: its dataset, and its row there, from 0."""

    id: int
    dataset: str
    row: int


class DatasetFile(NamedTuple):
    """A file that was taken into a dataset. ``kind`` is ``original``, or that of the rewrites it holds."""

    path: str
    sha256: str
    format: str
    kind: str
    rows_read: int
    rows_bad: int


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


_COLUMNS = "id, sample_id, kind, origin, parent_id, generation_id, instruction, input, response"
MAX_BAD_ROWS_STORED = 10_000


def _variant(row: Any) -> Variant:
    values = tuple(row)
    return Variant(*values[:6], Pair(*values[6:9]))  # type: ignore[call-arg]


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
    return [_variant(r) for r in fetch_rows(conn, query, (sample_id,))]


class Corpus:
    """``store.corpus``: datasets, their samples, and the variants of these."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- datasets ---------------------------------------------------------------------------

    def dataset_id(self, name: str) -> int | None:
        found: int | None = fetch_value(self._store.conn, "SELECT id FROM dataset WHERE name = ?", (name,))
        return found

    def datasets(self) -> list[DatasetSize]:
        """All datasets, in the order of their import."""
        return dataset_sizes(self._store.conn)

    def dataset_name(self, dataset_id: int) -> str | None:
        """The name of a dataset; None where there is none of that id."""
        name: str | None = fetch_value(
            self._store.conn, "SELECT name FROM dataset WHERE id = ?", (dataset_id,)
        )
        return name

    def files(self, dataset_id: int) -> list[DatasetFile]:
        """The files that a dataset was taken from, in the order of their import."""
        return [
            DatasetFile(*r)
            for r in fetch_rows(
                self._store.conn,
                "SELECT path, sha256, format, kind, rows_read, rows_bad FROM import WHERE dataset_id = ? ORDER BY id",
                (dataset_id,),
            )
        ]

    def imported(self, name: str, sha256: str, kind: str) -> Imported | None:
        """What an earlier import of the same bytes as the same kind into the same dataset did."""
        row = fetch_row(
            self._store.conn,
            "SELECT i.* FROM import i JOIN dataset d ON d.id = i.dataset_id "
            "WHERE d.name = ? AND i.sha256 = ? AND i.kind = ?",
            (name, sha256, kind),
        )
        if row is None:
            return None
        return Imported(
            row["dataset_id"],
            name,
            row["rows_read"],
            0,
            row["rows_read"] - row["rows_bad"],
            row["rows_bad"],
            0,
            True,
        )

    def dataset_of_file(self, sha256: str) -> str | None:
        """The dataset that a file with these bytes was imported into."""
        found: str | None = fetch_value(
            self._store.conn,
            "SELECT d.name FROM import i JOIN dataset d ON d.id = i.dataset_id "
            "WHERE i.sha256 = ? AND i.kind = 'original' ORDER BY i.id LIMIT 1",
            (sha256,),
        )
        return found

    def import_rows(
        self,
        name: str,
        path: str,
        sha256: str,
        format: str,
        rows: Iterable[NewRow | RefusedRow],
    ) -> Imported:
        """Take a file's rows as samples of dataset ``name``, in one transaction.

        Exact duplicates, within the file or with what is stored, are counted and kept once. Raises
        UserError, and stores nothing, where there is no good row.
        """
        store, now = self._store, time.time()
        # Room for the index of digests, which is written in random order.
        store.conn.execute("PRAGMA cache_size=-196608")
        with store.transaction():
            dataset_id = self.dataset_id(name)
            if dataset_id is None:
                dataset_id = int(
                    store.conn.execute(
                        "INSERT INTO dataset(name, created_at) VALUES (?, ?)", (name, now)
                    ).lastrowid
                    or 0
                )
            done = Imported(dataset_id, name)
            import_id = self._open_import(dataset_id, path, sha256, format, "original", now)
            # Ids are given out here, so that both tables are filled by executemany; a duplicate's id
            # is simply never used, and its variant finds no sample to belong to.
            next_id = int(fetch_value(store.conn, "SELECT coalesce(max(id), 0) + 1 FROM sample"))
            for chunk in batched(rows, 2048):
                samples, variants = [], []
                for row in chunk:
                    done.read += 1
                    if isinstance(row, RefusedRow):
                        done.bad += 1
                        if done.bad <= MAX_BAD_ROWS_STORED:
                            self._refuse(import_id, row)
                        continue
                    key = row.pair.digest
                    samples.append((next_id, dataset_id, row.number, row.external_id, key, row.record))
                    variants.append((next_id, key, *row.pair, now, next_id))
                    next_id += 1
                taken = store.conn.executemany(
                    "INSERT OR IGNORE INTO sample(id, dataset_id, row, external_id, digest, record) VALUES (?,?,?,?,?,?)",
                    samples,
                ).rowcount
                store.conn.executemany(
                    "INSERT INTO variant(sample_id, digest, kind, origin, instruction, input, response, created_at) "
                    "SELECT ?, ?, 'original', 'dataset', ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM sample WHERE id = ?)",
                    variants,
                )
                done.new += taken
                done.duplicate += len(samples) - taken
            if done.read == done.bad:
                raise UserError(f"{path}: no good row among {done.read:,}{self._why(import_id)}.")
            self._close_import(import_id, done)
        return done

    def _why(self, import_id: int) -> str:
        found = fetch_rows(
            self._store.conn,
            "SELECT reason, count(*) AS n, min(line) AS line FROM bad_row WHERE import_id = ? "
            "GROUP BY reason ORDER BY n DESC LIMIT 3",
            (import_id,),
        )
        return "".join(f"; {r['reason']} x {r['n']}, first at line {r['line']}" for r in found)

    def _open_import(
        self, dataset_id: int, path: str, sha256: str, format: str, kind: str, now: float
    ) -> int:
        made = self._store.conn.execute(
            "INSERT OR REPLACE INTO import(dataset_id, path, sha256, format, kind, rows_read, rows_new, "
            "rows_duplicate, rows_bad, created_at) VALUES (?,?,?,?,?,0,0,0,0,?)",
            (dataset_id, path, sha256, format, kind, now),
        )
        return int(made.lastrowid or 0)

    def _close_import(self, import_id: int, done: Imported) -> None:
        self._store.conn.execute(
            "UPDATE import SET rows_read = ?, rows_new = ?, rows_duplicate = ?, rows_bad = ? WHERE id = ?",
            (done.read, done.new, done.duplicate, done.bad + done.unmatched, import_id),
        )

    def import_variants(
        self,
        name: str,
        path: str,
        sha256: str,
        format: str,
        kind: str,
        rows: Iterable[NewRow | RefusedRow],
        match: str,
    ) -> Imported:
        """Take a file's rows as rewrites, made elsewhere, of the samples of dataset ``name``.

        ``match`` says how a row finds its sample: ``id`` (the row's id is the sample's own id in its
        file), ``instruction`` (same instruction and input as a stored variant of it; for rewritten
        responses), or ``position`` (row n rewrites row n). A row that finds none is counted, and
        recorded with the reason ``unmatched``.
        """
        if kind not in REFLECTED_KINDS:
            raise UserError(f"--as-variant {kind}: it can be {' or '.join(REFLECTED_KINDS)}.")
        store, now = self._store, time.time()
        dataset_id = self.dataset_id(name)
        if dataset_id is None:
            raise UserError(
                f"There is no dataset {name!r} to match rewrites with; import the originals first."
            )
        find = {
            "id": (
                "SELECT s.id, v.id FROM sample s JOIN variant v ON v.sample_id = s.id AND v.kind = 'original' "
                "WHERE s.dataset_id = ? AND s.external_id = ?"
            ),
            "position": (
                "SELECT s.id, v.id FROM sample s JOIN variant v ON v.sample_id = s.id AND v.kind = 'original' "
                "WHERE s.dataset_id = ? AND s.row = ?"
            ),
            "instruction": "SELECT sample_id, variant_id FROM temp.by_instruction WHERE instruction = ? AND input = ?",
        }.get(match)
        if find is None:
            raise UserError(f"--match {match}: it can be id, instruction or position.")
        with store.transaction():
            if match == "instruction":
                store.conn.execute("DROP TABLE IF EXISTS temp.by_instruction")
                store.conn.execute(
                    "CREATE TEMP TABLE by_instruction AS SELECT v.instruction, v.input, v.sample_id, "
                    "min(v.id) AS variant_id FROM variant v JOIN sample s ON s.id = v.sample_id "
                    "WHERE s.dataset_id = ? AND v.kind IN ('original', 'instruction_reflected') "
                    "GROUP BY v.instruction, v.input",
                    (dataset_id,),
                )
                store.conn.execute(
                    "CREATE INDEX temp.by_instruction_text ON by_instruction(instruction, input)"
                )
            else:
                store.conn.execute(
                    "CREATE INDEX IF NOT EXISTS sample_row ON sample(dataset_id, row)"
                    if match == "position"
                    else "CREATE INDEX IF NOT EXISTS sample_external ON sample(dataset_id, external_id)"
                )
            done = Imported(dataset_id, name)
            import_id = self._open_import(dataset_id, path, sha256, format, kind, now)
            for row in rows:
                done.read += 1
                if isinstance(row, RefusedRow):
                    done.bad += 1
                    self._refuse(import_id, row)
                    continue
                look_for: tuple[Any, ...] = {
                    "id": (dataset_id, row.external_id),
                    "position": (dataset_id, row.number),
                    "instruction": (row.pair.instruction, row.pair.input),
                }[match]
                found = fetch_row(store.conn, find, look_for)
                if found is None:
                    done.unmatched += 1
                    self._refuse(import_id, RefusedRow(row.number + 1, "unmatched", f"no sample by {match}"))
                    continue
                _, is_new = self.add_variant(found[0], kind, "import", found[1], None, row.pair)
                done.new += is_new
                done.duplicate += not is_new
            if done.new + done.duplicate == 0:
                raise UserError(
                    f"{path}: none of its {done.read:,} rows matches a sample of {name!r} by {match}; "
                    "try --match id, instruction or position."
                )
            self._close_import(import_id, done)
        return done

    def _refuse(self, import_id: int, row: RefusedRow) -> None:
        self._store.conn.execute(
            "INSERT INTO bad_row(import_id, line, reason, detail) VALUES (?,?,?,?)",
            (import_id, row.line, row.reason, row.detail),
        )

    def bad_rows(self, dataset_id: int, limit: int = 20) -> list[dict[str, Any]]:
        return [
            dict(r)
            for r in fetch_rows(
                self._store.conn,
                "SELECT b.line, b.reason, b.detail, i.path FROM bad_row b JOIN import i ON i.id = b.import_id "
                "WHERE i.dataset_id = ? ORDER BY b.rowid LIMIT ?",
                (dataset_id, limit),
            )
        ]

    # -- samples ----------------------------------------------------------------------------

    def origin(self, sample_id: int) -> SampleOrigin | None:
        """Where a sample comes from; None where there is none of that id."""
        return sample_origin(self._store.conn, sample_id)

    def highest_sample_id(self) -> int | None:
        """The highest id of all samples; None before anything was imported."""
        highest: int | None = fetch_value(self._store.conn, "SELECT max(id) FROM sample")
        return highest

    def sample_ids(self, dataset_id: int, limit: int | None = None) -> list[int]:
        """The samples of a dataset in its order, at most ``limit`` of them."""
        return [
            r[0]
            for r in fetch_rows(
                self._store.conn,
                "SELECT id FROM sample WHERE dataset_id = ? ORDER BY id LIMIT ?",
                (dataset_id, limit or -1),
            )
        ]

    def questions(self, dataset_id: int, limit: int | None = None) -> Iterator[tuple[int, str, str]]:
        """(sample id, instruction, input) of the same samples as they were imported, read as they are asked for."""
        rows = self._store.conn.execute(
            "SELECT v.sample_id, v.instruction, v.input FROM variant v WHERE v.kind = 'original' AND v.sample_id IN "
            "(SELECT id FROM sample WHERE dataset_id = ? ORDER BY id LIMIT ?)",
            (dataset_id, limit or -1),
        )
        return ((int(r[0]), str(r[1]), str(r[2])) for r in rows)

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
        """The id of this text of this sample, and whether it is new."""
        made = self._store.conn.execute(
            "INSERT OR IGNORE INTO variant(sample_id, digest, kind, origin, parent_id, generation_id, instruction, "
            "input, response, created_at) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (sample_id, pair.digest, kind, origin, parent_id, generation_id, *pair, time.time()),
        )
        if made.rowcount:
            return int(made.lastrowid or 0), True
        found = fetch_value(
            self._store.conn,
            "SELECT id FROM variant WHERE sample_id = ? AND digest = ?",
            (sample_id, pair.digest),
        )
        return int(found), False

    def variants(self, ids: Iterable[int]) -> dict[int, Variant]:
        """Variants by id."""
        found: dict[int, Variant] = {}
        for chunk in batched(ids, 500):
            marks = ",".join("?" * len(chunk))
            for row in fetch_rows(
                self._store.conn, f"SELECT {_COLUMNS} FROM variant WHERE id IN ({marks})", chunk
            ):
                found[row["id"]] = _variant(row)
        return found

    def variants_of(self, sample_id: int) -> list[Variant]:
        """The texts of a sample, the oldest first."""
        return variants_of(self._store.conn, sample_id)

    def rewrites_of(self, parent_id: int, kind: str) -> list[Variant]:
        """Stored rewrites of one variant, whoever made them, but for those that an older srtui took though
        they had been cut short."""
        marks = ",".join("?" * len(CUT))
        return [
            _variant(r)
            for r in fetch_rows(
                self._store.conn,
                f"SELECT {_COLUMNS} FROM variant WHERE parent_id = ? AND kind = ? AND NOT EXISTS (SELECT 1 FROM "
                "generation g WHERE g.id = variant.generation_id AND g.segments IS NULL AND "
                f"g.finish IN ({marks})) ORDER BY id",
                (parent_id, kind, *CUT),
            )
        ]

    def originals(self, run_id: int) -> dict[int, Variant]:
        """Original variant by sample id, for the samples of a run."""
        return {
            r["sample_id"]: _variant(r)
            for r in fetch_rows(
                self._store.conn,
                f"SELECT {', '.join('v.' + c for c in _COLUMNS.split(', '))} FROM run_sample rs "
                "JOIN variant v ON v.sample_id = rs.sample_id AND v.kind = 'original' "
                "WHERE rs.run_id = ? ORDER BY rs.sample_id",
                (run_id,),
            )
        }


def batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """The items in lists of ``size``; the last may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
