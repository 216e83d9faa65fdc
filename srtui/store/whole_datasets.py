"""What is known of a dataset as a whole: near-duplicates, evaluation prompts in it, and what new runs leave out.

No sample is ever deleted: what is left out stays in the store with what earlier runs made of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from srtui.store._query import batched, fetch_row, fetch_rows, fetch_value
from srtui.store.stored import stored

if TYPE_CHECKING:
    from srtui.store import Store

Why = Literal["near-duplicate", "evaluation prompt"]


class NearDuplicate(NamedTuple):
    """A sample that is much like another of its dataset, which stays for it; ``similarity`` is that of the two."""

    sample_id: int
    of_sample_id: int
    similarity: float


@dataclass(frozen=True)
class Contamination:
    """Of the ``texts`` that a run trains on, how many hold one of the ``prompts`` that this workspace has evaluated
    with: as the same question, else by thirteen words in a row, else by meaning, else by eight words. ``meaning`` is
    None where it was not looked for."""

    prompts: int
    texts: int
    question: int
    long: int
    short: int
    meaning: int | None = None

    @property
    def held(self) -> int:
        """Texts that hold a prompt: the same question, or thirteen words in a row."""
        return self.question + self.long


class WholeDatasets:
    """``store.datasets``: what ``srtui data`` found, and what of it new runs leave out."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- near-duplicates --------------------------------------------------------------------

    def set_near_duplicates(
        self, dataset_id: int, duplicates: Iterable[NearDuplicate], left_out: bool
    ) -> None:
        """These are the near-duplicates of a dataset, in place of those that were known; with ``left_out`` new runs
        do not take them. In one transaction."""
        now, conn = time.time(), self._store.conn
        with self._store.transaction():
            self._forget(dataset_id)
            conn.executemany(
                "INSERT INTO near_duplicate(sample_id, of_sample_id, similarity, found_at) VALUES (?,?,?,?)",
                ((*duplicate, now) for duplicate in duplicates),
            )
            if left_out:
                conn.execute(
                    "INSERT INTO left_out(sample_id, why) SELECT n.sample_id, 'near-duplicate' FROM near_duplicate n "
                    "JOIN sample s ON s.id = n.sample_id WHERE s.dataset_id = ?",
                    (dataset_id,),
                )

    def forget_near_duplicates(self, dataset_id: int) -> int:
        """Forget the near-duplicates of a dataset, so that new runs take them; how many there were."""
        with self._store.transaction():
            return self._forget(dataset_id)

    def _forget(self, dataset_id: int) -> int:
        self.take_again(dataset_id, "near-duplicate")
        return self._store.conn.execute(
            "DELETE FROM near_duplicate WHERE sample_id IN (SELECT id FROM sample WHERE dataset_id = ?)",
            (dataset_id,),
        ).rowcount

    def near_duplicates(self, dataset_id: int) -> int:
        """How many samples of a dataset are marked as near-duplicates."""
        return int(
            fetch_value(
                self._store.conn,
                "SELECT count(*) FROM near_duplicate n JOIN sample s ON s.id = n.sample_id WHERE s.dataset_id = ?",
                (dataset_id,),
            )
        )

    def near_duplicate_of(self, sample_id: int) -> NearDuplicate | None:
        """What a sample is a near-duplicate of; None where it is none that is known."""
        row = fetch_row(
            self._store.conn,
            "SELECT sample_id, of_sample_id, similarity FROM near_duplicate WHERE sample_id = ?",
            (sample_id,),
        )
        return NearDuplicate(*row) if row else None

    # -- what new runs leave out --------------------------------------------------------------

    def leave_out(self, sample_ids: Iterable[int], why: Why) -> None:
        """New runs do not take these samples."""
        with self._store.transaction():
            self._store.conn.executemany(
                "INSERT OR IGNORE INTO left_out(sample_id, why) VALUES (?,?)",
                ((sample_id, why) for sample_id in sample_ids),
            )

    def take_again(self, dataset_id: int, why: Why) -> int:
        """New runs take the samples again that were left out for this reason; how many."""
        return self._store.conn.execute(
            "DELETE FROM left_out WHERE why = ? AND sample_id IN (SELECT id FROM sample WHERE dataset_id = ?)",
            (why, dataset_id),
        ).rowcount

    def left_out(self, dataset_id: int) -> dict[str, int]:
        """How many samples of a dataset new runs leave out, by reason."""
        return {
            r[0]: r[1]
            for r in fetch_rows(
                self._store.conn,
                "SELECT l.why, count(*) FROM left_out l JOIN sample s ON s.id = l.sample_id WHERE s.dataset_id = ? "
                "GROUP BY 1 ORDER BY 1",
                (dataset_id,),
            )
        }

    def left_out_among(self, sample_ids: Iterable[int]) -> set[int]:
        """Those of these samples that new runs leave out, for whatever reason."""
        out: set[int] = set()
        for chunk in batched(sample_ids, 500):
            query = f"SELECT sample_id FROM left_out WHERE sample_id IN ({','.join('?' * len(chunk))})"
            out.update(row[0] for row in fetch_rows(self._store.conn, query, chunk))
        return out

    # -- evaluation prompts -------------------------------------------------------------------

    def evaluation_prompts(self) -> Iterator[tuple[str, list[str]]]:
        """(source file, turns) of everything that this workspace has asked in an evaluation; an evaluation
        of a part of a file hides no earlier one of the whole."""
        rows = self._store.conn.execute(
            "SELECT e.source, i.* FROM evaluation e JOIN evaluation_item i ON i.evaluation_id = e.id "
            "WHERE e.kind <> 'calibration' "
            "ORDER BY e.id, i.item"
        )
        return ((str(row["source"]), stored(row, "evaluation_item", "turns")) for row in rows)

    def set_contamination(self, run_id: int, contamination: Contamination) -> None:
        """What was found among the texts that a run trains on."""
        values = (
            run_id,
            contamination.prompts,
            contamination.texts,
            contamination.question,
            contamination.long,
            contamination.short,
            time.time(),
            contamination.meaning,
        )
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT OR REPLACE INTO contamination(run_id, prompts, texts, question, long, short, checked_at, "
                f"meaning) VALUES ({','.join('?' * 8)})",
                values,
            )

    def contamination(self, run_id: int) -> Contamination | None:
        """What was found among the texts that a run trains on; None where nothing was looked for."""
        row: Any = fetch_row(
            self._store.conn,
            "SELECT prompts, texts, question, long, short, meaning FROM contamination WHERE run_id = ?",
            (run_id,),
        )
        return Contamination(*row) if row else None
