"""Data files on their way into the corpus: what was read of each, what was refused, and why."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from srtui.errors import UserError
from srtui.sample import Pair
from srtui.store._query import batched, fetch_row, fetch_rows, fetch_value
from srtui.store.conversations import NewConversation, insert, next_turn_id

if TYPE_CHECKING:
    from srtui.store import Store

_OPENS = (
    "NOT EXISTS (SELECT 1 FROM exchange e JOIN turn t ON t.id >= e.conversation_id AND t.id < e.answer_id - 1 "
    "WHERE e.sample_id = s.id AND t.role <> 'system')"
)
"""Of samples s those that no turn came before: rewrites from elsewhere say nothing of a history, so that they could
be of any exchange."""

REFLECTED_KINDS = ("instruction_reflected", "response_reflected")
MAX_BAD_ROWS_STORED = 10_000


@dataclass
class Imported:
    """What one import did. ``read`` counts records, ``new`` samples; ``left_out`` counts what is no sample of
    its own of ``conversations``, whose ``turns`` are kept: by the keys of srtui.datasets.LEFT_OUT."""

    dataset_id: int
    dataset: str
    read: int = 0
    new: int = 0
    duplicate: int = 0
    bad: int = 0
    unmatched: int = 0
    already: bool = False
    conversations: int = 0
    turns: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


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


class DatasetFile(NamedTuple):
    """A file that was taken into a dataset. ``kind`` is ``original``, or that of the rewrites it holds."""

    path: str
    sha256: str
    format: str
    kind: str
    rows_read: int
    rows_bad: int


class StoredBadRow(NamedTuple):
    """A row that an import refused: where it lies in which file, and why."""

    line: int
    reason: str
    detail: str
    path: str


def bad_rows_of(conn: sqlite3.Connection, dataset_id: int, limit: int) -> list[StoredBadRow]:
    """The rows that imports into a dataset refused, in order, at most ``limit`` of them."""
    return [
        StoredBadRow(*r)
        for r in fetch_rows(
            conn,
            "SELECT b.line, b.reason, b.detail, i.path FROM bad_row b JOIN import i ON i.id = b.import_id "
            "WHERE i.dataset_id = ? ORDER BY b.rowid LIMIT ?",
            (dataset_id, limit),
        )
    ]


class Imports:
    """``store.imports``: one transaction a file; the same bytes a second time add nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

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

    def earlier(self, name: str, sha256: str, kind: str) -> Imported | None:
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

    def dataset_of_file(self, sha256: str, turns: str | None = None) -> str | None:
        """The dataset that a file with these bytes was imported into. Where the file holds conversations, ``turns`` is
        what has to have been taken of them; an import of before that was said took the first exchange."""
        name: str | None = fetch_value(
            self._store.conn,
            "SELECT d.name FROM import i JOIN dataset d ON d.id = i.dataset_id WHERE i.sha256 = ?1 "
            "AND i.kind = 'original' AND (?2 IS NULL OR coalesce(i.turns, 'first') = ?2) ORDER BY i.id LIMIT 1",
            (sha256, turns),
        )
        return name

    def datasets_of_file(self, sha256: str) -> list[int]:
        """The datasets that a file with these bytes was imported into, whatever was taken of it, the first first."""
        rows = fetch_rows(
            self._store.conn,
            "SELECT dataset_id FROM import WHERE sha256 = ? AND kind = 'original' ORDER BY id",
            (sha256,),
        )
        return list(dict.fromkeys(int(r[0]) for r in rows))

    def turns_of_dataset(self, dataset_id: int) -> list[str]:
        """What was taken of the conversations of a dataset's files, without repeats; none where they hold rows."""
        rows = fetch_rows(
            self._store.conn,
            "SELECT DISTINCT coalesce(turns, 'first') AS taken FROM import WHERE dataset_id = ? AND kind = 'original' "
            "AND (turns IS NOT NULL OR format IN ('sharegpt', 'messages')) ORDER BY taken",
            (dataset_id,),
        )
        return [r["taken"] for r in rows]

    def turns_taken(self, name: str, sha256: str) -> str | None:
        """What an earlier import of the same bytes into this dataset took of its conversations; None where rows
        are none, or where there was no such import."""
        turns: str | None = fetch_value(
            self._store.conn,
            "SELECT i.turns FROM import i JOIN dataset d ON d.id = i.dataset_id WHERE d.name = ? AND i.sha256 = ? "
            "AND i.kind = 'original'",
            (name, sha256),
        )
        return turns

    def add_samples(
        self,
        name: str,
        path: str,
        sha256: str,
        format: str,
        rows: Iterable[NewRow | NewConversation | RefusedRow],
        turns: str | None = None,
        left_out: Counter[str] | None = None,
    ) -> Imported:
        """Take a file's rows as samples of dataset ``name``, in one transaction.

        Exact duplicates, within the file or with what is stored, are counted and kept once.

        Args:
            name: of the dataset, which is made where there is none.
            path: of the file, for people.
            sha256: of its bytes.
            format: what it was read as.
            rows: what it holds.
            turns: what is taken of conversations; None where rows are none.
            left_out: what is not, counted while ``rows`` are read.

        Returns:
            What came of it.

        Raises UserError, and stores nothing, where there is no good row.
        """
        store, now = self._store, time.time()
        # Room for the index of digests, which is written in random order.
        store.conn.execute("PRAGMA cache_size=-196608")
        with store.transaction():
            dataset_id = self._store.corpus.dataset_id(name)
            if dataset_id is None:
                dataset_id = int(
                    store.conn.execute(
                        "INSERT INTO dataset(name, created_at) VALUES (?, ?)", (name, now)
                    ).lastrowid
                    or 0
                )
            result = Imported(dataset_id, name)
            import_id = self._open_import(dataset_id, path, sha256, format, "original", now)
            # Ids are given out here, so that both tables are filled by executemany; a duplicate's id
            # is simply never used, and its variant finds no sample to belong to.
            next_id = int(fetch_value(store.conn, "SELECT coalesce(max(id), 0) + 1 FROM sample"))
            next_turn = next_turn_id(store.conn)
            for chunk in batched(rows, 2048):
                samples, variants = [], []
                conversations: list[NewConversation] = []
                for row in chunk:
                    result.read += 1
                    if isinstance(row, RefusedRow):
                        result.bad += 1
                        if result.bad <= MAX_BAD_ROWS_STORED:
                            self._refuse(import_id, row)
                        continue
                    if isinstance(row, NewConversation):
                        conversations.append(row)
                        continue
                    key = row.pair.digest
                    samples.append((next_id, dataset_id, row.number, row.external_id, key, row.record))
                    variants.append((next_id, key, *row.pair.texts, now, next_id))
                    next_id += 1
                added = store.conn.executemany(
                    "INSERT OR IGNORE INTO sample(id, dataset_id, row, external_id, digest, record) VALUES (?,?,?,?,?,?)",
                    samples,
                ).rowcount
                store.conn.executemany(
                    "INSERT INTO variant(sample_id, digest, kind, origin, instruction, input, response, created_at) "
                    "SELECT ?, ?, 'original', 'dataset', ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM sample WHERE id = ?)",
                    variants,
                )
                result.new += added
                result.duplicate += len(samples) - added
                if conversations:
                    sample_count, added, turn_count = insert(
                        store.conn, dataset_id, conversations, next_id, next_turn, now
                    )
                    next_id, next_turn = next_id + sample_count, next_turn + turn_count
                    result.new += added
                    result.duplicate += sample_count - added
                    result.conversations += len(conversations)
                    result.turns += turn_count
            if result.read == result.bad:
                raise UserError(
                    f"{path}: no good row among {result.read:,}{self._why(import_id)}; "
                    "srtui import --help says what --format and --column can be."
                )
            result.left_out = dict(left_out or {})
            self._close_import(import_id, result, turns)
        return result

    def _why(self, import_id: int) -> str:
        reasons = fetch_rows(
            self._store.conn,
            "SELECT reason, count(*) AS n, min(line) AS line FROM bad_row WHERE import_id = ? "
            "GROUP BY reason ORDER BY n DESC LIMIT 3",
            (import_id,),
        )
        return "".join(f"; {r['reason']} x {r['n']}, first at line {r['line']}" for r in reasons)

    def _open_import(
        self, dataset_id: int, path: str, sha256: str, format: str, kind: str, now: float
    ) -> int:
        cursor = self._store.conn.execute(
            "INSERT OR REPLACE INTO import(dataset_id, path, sha256, format, kind, rows_read, rows_new, "
            "rows_duplicate, rows_bad, created_at) VALUES (?,?,?,?,?,0,0,0,0,?)",
            (dataset_id, path, sha256, format, kind, now),
        )
        return int(cursor.lastrowid or 0)

    def _close_import(self, import_id: int, imported: Imported, turns: str | None = None) -> None:
        self._store.conn.execute(
            "UPDATE import SET rows_read = ?, rows_new = ?, rows_duplicate = ?, rows_bad = ?, turns = ?, left_out = ? "
            "WHERE id = ?",
            (
                imported.read,
                imported.new,
                imported.duplicate,
                imported.bad + imported.unmatched,
                turns,
                json.dumps(imported.left_out) if imported.left_out else None,
                import_id,
            ),
        )

    def add_rewrites(
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
        recorded with the reason ``unmatched``. A sample that turns came before takes none: a row does not
        say which of them they were.

        Args:
            name: of the dataset.
            path: of the file, for people.
            sha256: of the file's bytes.
            format: that it was read as.
            kind: instruction_reflected or response_reflected.
            rows: as they are read.
            match: id, instruction or position.
        """
        if kind not in REFLECTED_KINDS:
            raise UserError(f"--as-variant {kind}: it can be {' or '.join(REFLECTED_KINDS)}.")
        store, now = self._store, time.time()
        dataset_id = self._store.corpus.dataset_id(name)
        if dataset_id is None:
            raise UserError(
                f"There is no dataset {name!r} to match rewrites with; import the originals first."
            )
        find = {
            "id": (
                "SELECT s.id, v.id FROM sample s JOIN variant v ON v.sample_id = s.id AND v.kind = 'original' "
                f"WHERE s.dataset_id = ? AND s.external_id = ? AND {_OPENS}"
            ),
            "position": (
                "SELECT s.id, v.id FROM sample s JOIN variant v ON v.sample_id = s.id AND v.kind = 'original' "
                f"WHERE s.dataset_id = ? AND s.row = ? AND {_OPENS}"
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
                    f"WHERE s.dataset_id = ? AND v.kind IN ('original', 'instruction_reflected') AND {_OPENS} "
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
            result = Imported(dataset_id, name)
            import_id = self._open_import(dataset_id, path, sha256, format, kind, now)
            for row in rows:
                result.read += 1
                if isinstance(row, RefusedRow):
                    result.bad += 1
                    self._refuse(import_id, row)
                    continue
                look_for: tuple[Any, ...] = {
                    "id": (dataset_id, row.external_id),
                    "position": (dataset_id, row.number),
                    "instruction": (row.pair.instruction, row.pair.input),
                }[match]
                match_ids = fetch_row(store.conn, find, look_for)
                if match_ids is None:
                    result.unmatched += 1
                    self._refuse(import_id, RefusedRow(row.number + 1, "unmatched", f"no sample by {match}"))
                    continue
                _, is_new = self._store.corpus.add_variant(
                    match_ids[0], kind, "import", match_ids[1], None, row.pair
                )
                result.new += is_new
                result.duplicate += not is_new
            if result.new + result.duplicate == 0:
                raise UserError(
                    f"{path}: none of its {result.read:,} rows matches a sample of {name!r} by {match}; "
                    "try --match id, instruction or position."
                )
            self._close_import(import_id, result)
        return result

    def _refuse(self, import_id: int, row: RefusedRow) -> None:
        self._store.conn.execute(
            "INSERT INTO bad_row(import_id, line, reason, detail) VALUES (?,?,?,?)",
            (import_id, row.line, row.reason, row.detail),
        )

    def bad_rows(self, dataset_id: int, limit: int = 20) -> list[StoredBadRow]:
        """The rows that imports into a dataset refused, in order, at most ``limit`` of them."""
        return bad_rows_of(self._store.conn, dataset_id, limit)
