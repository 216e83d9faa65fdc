"""What a person does to samples: overrules, notes, flags, texts of their own; and the text index."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

from srtui.errors import UserError
from srtui.sample import Pair
from srtui.store._query import fetch_rows, fetch_value

if TYPE_CHECKING:
    from srtui.store import Store

INDEX_BATCH = 2000
_TURNS_LEFT = "SELECT count(*) FROM turn WHERE id > (SELECT turn_id FROM turn_text_upto)"


def note_of(conn: sqlite3.Connection, sample_id: int) -> str:
    """What a person noted last about a sample; empty where nothing."""
    query = "SELECT text FROM note WHERE sample_id = ? ORDER BY id DESC LIMIT 1"
    return fetch_value(conn, query, (sample_id,)) or ""


def is_flagged(conn: sqlite3.Connection, sample_id: int) -> bool:
    """Whether a person has flagged a sample."""
    return bool(fetch_value(conn, "SELECT 1 FROM flag WHERE sample_id = ?", (sample_id,)))


class Marks:
    """A person's marks stand beside the student's decisions; none of them changes one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def overrule(self, run_id: int, sample_id: int, variant_id: int, note: str = "") -> None:
        """Train on this variant, whatever the student chose; takes the place of an earlier overruling.

        Args:
            run_id: of the run.
            sample_id: of the sample.
            variant_id: one of its texts.
            note: why, in the person's words; may be empty.
        """
        with self._store.transaction():
            self.undo_overrule(run_id, sample_id)
            self._store.conn.execute(
                "INSERT INTO overrule(run_id, sample_id, variant_id, note, created_at) VALUES (?,?,?,?,?)",
                (run_id, sample_id, variant_id, note, time.time()),
            )

    def overruled(self, run_id: int) -> dict[int, int]:
        """The variant that a person took, by sample, in the samples' order."""
        return {
            r[0]: r[1]
            for r in fetch_rows(
                self._store.conn,
                "SELECT sample_id, variant_id FROM overrule WHERE run_id = ? AND undone_at IS NULL ORDER BY sample_id",
                (run_id,),
            )
        }

    def undo_overrule(self, run_id: int, sample_id: int) -> bool:
        """Let the student's choice stand again; False where nothing was overruled."""
        with self._store.transaction():
            updated = self._store.conn.execute(
                "UPDATE overrule SET undone_at = ? WHERE run_id = ? AND sample_id = ? AND undone_at IS NULL",
                (time.time(), run_id, sample_id),
            )
        return updated.rowcount > 0

    def flag(self, sample_id: int) -> bool:
        """Flag a sample, or take its flag away; whether it is flagged now."""
        with self._store.transaction():
            if self._store.conn.execute("DELETE FROM flag WHERE sample_id = ?", (sample_id,)).rowcount:
                return False
            self._store.conn.execute("INSERT INTO flag VALUES (?,?)", (sample_id, time.time()))
        return True

    def note(self, sample_id: int, text: str) -> None:
        """Say something about a sample; an empty text takes the note away."""
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT INTO note(sample_id, text, created_at) VALUES (?,?,?)",
                (sample_id, text, time.time()),
            )

    def write_variant(self, sample_id: int, parent_id: int, pair: Pair) -> tuple[int, bool]:
        """A variant written by hand, and whether it is new; raises UserError for an empty one."""
        if not pair.instruction.strip() or not pair.response.strip():
            raise UserError("A variant needs an instruction and a response; nothing was stored: write both.")
        with self._store.transaction():
            return self._store.corpus.add_variant(sample_id, "manual", "person", parent_id, None, pair)

    def index_texts(self) -> int:
        """Take the next batch of texts into the text index, of variants and, behind these, of conversations' turns;
        returns how many are left.

        One short transaction, so that an engine that is writing never waits for long.
        """
        return self._index("variant", "instruction, input, response") or self._index("turn", "text")

    def _index(self, table: str, columns: str) -> int:
        store = self._store
        with store.transaction():
            upto = fetch_value(store.conn, f"SELECT {table}_id FROM {table}_text_upto")
            last = fetch_value(
                store.conn,
                f"SELECT max(id) FROM (SELECT id FROM {table} WHERE id > ? ORDER BY id LIMIT ?)",
                (upto, INDEX_BATCH),
            )
            if last is None:
                return 0
            store.conn.execute(
                f"INSERT INTO {table}_text(rowid, {columns}) SELECT id, {columns} FROM {table} WHERE id > ? AND id <= ?",
                (upto, last),
            )
            store.conn.execute(f"UPDATE {table}_text_upto SET {table}_id = ?", (last,))
        unindexed = int(fetch_value(store.conn, f"SELECT coalesce(max(id), 0) FROM {table}")) - int(last)
        return unindexed or int(table == "variant" and fetch_value(store.conn, _TURNS_LEFT) > 0)
