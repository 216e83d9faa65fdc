"""What the benchmarks of large stores share: rows of a finished run written in batches, and an engine that never rests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from srtui.sample import Pair  # noqa: E402
from srtui.store import Store  # noqa: E402

_INSERTS = {
    "sample": "INSERT INTO sample(id, dataset_id, row, digest, record) VALUES (?1, 1, ?1, ?2, ?3)",
    "variant": "INSERT OR IGNORE INTO variant VALUES (?,?,?,?,?,?,?,?,?,?,?)",
    "run_sample": "INSERT INTO run_sample(run_id, sample_id, held_out) VALUES (?,?,?)",
    "loss": "INSERT INTO loss VALUES (?,?,?,?,?)",
    "score": "INSERT INTO score(variant_id, setting_id, metric, value) VALUES (?,?,?,?)",
    "reflection": "INSERT INTO reflection VALUES (?,?,?,?,?,?)",
    "candidate": "INSERT INTO candidate VALUES (?,?,?,?,?)",
    "decision": "INSERT INTO decision(run_id, sample_id, stage, chosen_id, reflected, reason, compared, created_at, "
    "margin) VALUES (?,?,?,?,?,?,?,?,?)",
    "outcome": "INSERT INTO outcome(run_id, sample_id, variant_id, kept, reason, ifd, rifd) VALUES (?,?,?,?,?,?,?)",
    "held_score": "INSERT INTO held_score VALUES (?,?,?,?,?,?,?)",
}
"""By table, in the order in which an engine writes. ``loss`` and ``held_score`` are tables of bench_million.py,
which sorts them before they go to the store's own."""


class Rows:
    """Rows as an engine leaves them, collected and written together; ids are counted by whoever adds them, so that
    nothing is looked up."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[str, list[tuple[Any, ...]]] = {}

    def add(self, table: str, *row: Any) -> None:
        """One row, its values in the order of the table's columns."""
        self._rows.setdefault(table, []).append(row)

    def flush(self) -> None:
        """Write what was added, in one transaction."""
        with self._store.transaction():
            for table, insert in _INSERTS.items():
                if rows := self._rows.pop(table, None):
                    self._store.conn.executemany(insert, rows)


def write_for_ever(path: Path, *, scored: bool = False) -> NoReturn:
    """An engine at full speed on the last run of a store: a text and progress in each transaction; ``scored``: a
    score too, and no wait for the disk."""
    with Store(path) as store:
        if scored:
            store.conn.execute("PRAGMA synchronous=NORMAL")
        run = store.runs.all()[-1]
        n = 0
        while True:
            n += 1
            pair = Pair(f"written {os.getpid()} {n}", "", "a text of an engine that never rests " * 8)
            with store.transaction():
                variant, _ = store.corpus.add_variant(n % 1000 + 1, "manual", "person", None, None, pair)
                if scored:
                    store.conn.execute(
                        "INSERT OR IGNORE INTO score(variant_id, setting_id, metric, value) VALUES (?,?,'ifd',0.5)",
                        (variant, run.setting_id),
                    )
                store.runs.progress(run.id, "reflect-response", n, 100_000, 100, 0.01, {"slots": 16})
