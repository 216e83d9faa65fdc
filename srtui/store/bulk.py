"""What a person does to many samples at once, and takes back at once: overrules and flags."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from srtui.store._query import fetch_rows, fetch_value

if TYPE_CHECKING:
    from srtui.store import Store

Taken = Literal["original", "instruction", "response", "student"]
"""Which text of each sample is taken: the dataset's, the rewritten instruction's, the rewritten answer's, or the one that
the student chose, which takes an overruling back."""
TAKEN: tuple[Taken, ...] = get_args(Taken)

_VARIANT = {
    "original": "SELECT id FROM variant WHERE sample_id = m.sample_id AND kind = 'original'",
    **{
        stage: (
            "SELECT coalesce((SELECT d.chosen_id FROM decision d WHERE d.run_id = :run AND d.sample_id = m.sample_id AND "
            f"d.stage = '{stage}' AND d.reflected = 1), (SELECT c.variant_id FROM candidate c WHERE c.run_id = :run AND "
            f"c.sample_id = m.sample_id AND c.stage = '{stage}' ORDER BY c.ordinal LIMIT 1))"
        )
        for stage in ("instruction", "response")
    },
}


class BulkOverruling(NamedTuple):
    """What one bulk did: ``changed`` samples at the moment ``made_at``; ``without`` had no such text and are as they
    were."""

    run_id: int
    made_at: float
    changed: int
    without: int


class Bulk:
    """``store.bulk``: each call is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def overrule(self, run_id: int, sample_ids: Iterable[int], take: Taken) -> BulkOverruling:
        """Take this text of each sample, whatever the student chose and a person took before."""
        conn, now = self._store.conn, time.time()
        with self._store.transaction():
            self._lay_out(conn, sample_ids)
            without = 0
            if take != "student":
                conn.execute(f"UPDATE temp.marked AS m SET variant_id = ({_VARIANT[take]})", {"run": run_id})
                without = conn.execute("DELETE FROM temp.marked WHERE variant_id IS NULL").rowcount
                conn.execute(
                    "DELETE FROM temp.marked WHERE EXISTS (SELECT 1 FROM overrule p WHERE p.run_id = ? AND "
                    "p.sample_id = marked.sample_id AND p.undone_at IS NULL AND p.variant_id = marked.variant_id)",
                    (run_id,),
                )
            taken_back = conn.execute(
                "UPDATE overrule SET undone_at = ? WHERE run_id = ? AND undone_at IS NULL AND sample_id IN "
                "(SELECT sample_id FROM temp.marked)",
                (now, run_id),
            ).rowcount
            changed = taken_back
            if take != "student":
                changed = conn.execute(
                    "INSERT INTO overrule(run_id, sample_id, variant_id, note, created_at) "
                    "SELECT ?, sample_id, variant_id, '', ? FROM temp.marked ORDER BY sample_id",
                    (run_id, now),
                ).rowcount
        return BulkOverruling(run_id, now, changed, without)

    def undo(self, bulk: BulkOverruling) -> int:
        """Everything as it was before a bulk, but for samples that a person has overruled since; how many."""
        conn, now = self._store.conn, time.time()
        with self._store.transaction():
            made = [
                r[0]
                for r in fetch_rows(
                    conn,
                    "SELECT sample_id FROM overrule WHERE run_id = ? AND undone_at IS NULL AND created_at = ?",
                    (bulk.run_id, bulk.made_at),
                )
            ]
            self._lay_out(conn, made)
            conn.execute(
                "UPDATE overrule SET undone_at = ? WHERE run_id = ? AND undone_at IS NULL AND created_at = ?",
                (now, bulk.run_id, bulk.made_at),
            )
            # Anew, and not by waking the old rows: those say what stood at which time, and a training may lie between.
            restored = conn.execute(
                "INSERT INTO overrule(run_id, sample_id, variant_id, note, created_at) SELECT run_id, sample_id, variant_id, "
                "note, ? FROM overrule w WHERE run_id = ? AND undone_at = ? AND NOT EXISTS (SELECT 1 FROM overrule p "
                "WHERE p.run_id = w.run_id AND p.sample_id = w.sample_id AND p.undone_at IS NULL) ORDER BY sample_id",
                (now, bulk.run_id, bulk.made_at),
            ).rowcount
            return len(made) if made else restored

    def flag(self, sample_ids: Iterable[int], flagged: bool) -> list[int]:
        """Flag samples, or take their flags away; those that this changed, so that it can be taken back."""
        conn = self._store.conn
        with self._store.transaction():
            self._lay_out(conn, sample_ids)
            has = "EXISTS (SELECT 1 FROM flag f WHERE f.sample_id = m.sample_id)"
            changed = [
                r[0]
                for r in fetch_rows(
                    conn, f"SELECT m.sample_id FROM temp.marked m WHERE {'NOT ' if flagged else ''}{has}"
                )
            ]
            if flagged:
                conn.executemany("INSERT INTO flag VALUES (?,?)", ((i, time.time()) for i in changed))
            else:
                conn.executemany("DELETE FROM flag WHERE sample_id = ?", ((i,) for i in changed))
        return changed

    @staticmethod
    def _lay_out(conn: sqlite3.Connection, sample_ids: Iterable[int]) -> int:
        conn.execute(
            "CREATE TEMP TABLE IF NOT EXISTS marked(sample_id INTEGER PRIMARY KEY, variant_id INTEGER)"
        )
        conn.execute("DELETE FROM temp.marked")
        conn.executemany(
            "INSERT OR IGNORE INTO temp.marked(sample_id) VALUES (?)", ((i,) for i in sample_ids)
        )
        return int(fetch_value(conn, "SELECT count(*) FROM temp.marked"))
