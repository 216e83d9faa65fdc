"""What a run made in another store, taken into this one: the shards of a run that was too large for one.

Rows are found by their content (a sample by its digest, a generation by its key, a score by its variant and way of
scoring), so that taking them twice adds nothing. Ids are this store's own. A page of samples is one transaction, with
all that the run made of them; a kill loses the page in hand.

A loss is computed beside others, and ends in other digits elsewhere. Where this store has another one of a span already,
the shard's stays beside it, under the key with a few bytes behind it, since the shard's scores and choices follow from
its own.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from srtui.store._query import fetch_rows, fetch_value
from srtui.store.shard_copier import ShardCopier

if TYPE_CHECKING:
    from srtui.store import Store

PAGE = 1000  # samples that are taken in one transaction
_ASKED = "model, model_sha256, prompt_version, mode, sampler"
_SETTING = (
    "digest, student, student_id, quantization, template, protocol, max_length, template_version, date, "
    "histories"
)


class Taken(NamedTuple):
    """What one shard brought: its samples, how many of them this store did not have, and its decided and settled
    ones."""

    samples: int
    new: int
    settled: int


class Shard:
    """A run in another store, attached to this one's connection. ``attached`` makes it."""

    def __init__(self, store: Store, path: Path, from_run: int) -> None:
        self._store, self._conn, self._from = store, store.conn, from_run
        self.path = path

    def take(self, run_id: int, dataset_id: int, shard_key: bytes) -> Taken:
        """Take all of the run's samples, and what it made of them, into the run ``run_id``; what an earlier call that
        was killed has done is not done again.

        Args:
            run_id: of this store.
            dataset_id: of this store, which the samples go into.
            shard_key: what the shard is known again by.

        Raises UserError where the two contradict each other: a sample that both have was decided otherwise, or a span
        has another loss. What was taken until then stays.
        """
        conn = self._conn
        copier = ShardCopier(conn, self.path, self._from, run_id, dataset_id)
        self._shared_rows()
        with self._store.transaction():
            conn.execute(
                "UPDATE main.run SET setting_id = (SELECT w.new FROM shard.run r JOIN temp.setting_now w "
                "ON w.old = r.setting_id WHERE r.id = ?) WHERE id = ? AND setting_id IS NULL",
                (self._from, run_id),
            )
        after = self._begin(run_id, shard_key)
        new = 0
        while page := [
            r[0]
            for r in fetch_rows(
                conn,
                "SELECT sample_id FROM shard.run_sample WHERE run_id = ? AND sample_id > ? ORDER BY sample_id LIMIT ?",
                (self._from, after, PAGE),
            )
        ]:
            with self._store.transaction():
                new += copier.take(page)
                after = page[-1]
                conn.execute(
                    "UPDATE merged SET upto = ? WHERE run_id = ? AND shard = ?", (after, run_id, shard_key)
                )
        return self._end(run_id, shard_key, new)

    def _shared_rows(self) -> None:
        """How teachers were asked, and what their prompts are made of: few rows, with their ids here."""
        conn = self._conn
        with self._store.transaction():
            conn.execute("DELETE FROM temp.asked_now")
            conn.execute("DELETE FROM temp.frame_now")
            conn.execute("DELETE FROM temp.setting_now")
            conn.execute(
                f"INSERT OR IGNORE INTO main.asked({_ASKED}) SELECT {_ASKED} FROM shard.asked ORDER BY id"
            )
            same = " AND ".join(f"t.{n} = a.{n}" for n in _ASKED.split(", "))
            conn.execute(
                f"INSERT INTO temp.asked_now SELECT a.id, t.id FROM shard.asked a JOIN main.asked t ON {same}"
            )
            conn.execute(
                "INSERT OR IGNORE INTO main.prompt_frame(digest, pieces) SELECT digest, pieces FROM shard.prompt_frame "
                "ORDER BY id"
            )
            conn.execute(
                "INSERT INTO temp.frame_now SELECT a.id, t.id FROM shard.prompt_frame a JOIN main.prompt_frame t "
                "ON t.digest = a.digest"
            )
            conn.execute(
                f"INSERT OR IGNORE INTO main.scoring_setting({_SETTING}) SELECT {_SETTING} FROM shard.scoring_setting "
                "ORDER BY id"
            )
            conn.execute(
                "INSERT INTO temp.setting_now SELECT a.id, t.id FROM shard.scoring_setting a JOIN main.scoring_setting t "
                "ON t.digest = a.digest"
            )

    def _begin(self, run_id: int, shard_key: bytes) -> int:
        """The last of the shard's samples that a call which was killed has taken; 0 where there was none."""
        with self._store.transaction():
            self._conn.execute(
                "INSERT INTO merged(run_id, shard, path, upto, merged_at) VALUES (?,?,?,0,?) "
                "ON CONFLICT(run_id, shard) DO UPDATE SET path = excluded.path, upto = coalesce(upto, 0)",
                (run_id, shard_key, str(self.path), time.time()),
            )
        query = "SELECT upto FROM merged WHERE run_id = ? AND shard = ?"
        return int(fetch_value(self._conn, query, (run_id, shard_key)))

    def _end(self, run_id: int, shard_key: bytes, new: int) -> Taken:
        """All pages are taken: keep what its stages took, and add up those of all shards."""
        conn = self._conn
        with self._store.transaction():
            conn.execute(
                "INSERT OR REPLACE INTO main.merged_stage SELECT ?, ?, stage, tokens, seconds FROM shard.stage_progress "
                "WHERE run_id = ? AND stage <> 'train'",
                (run_id, shard_key, self._from),
            )
            conn.execute(
                "UPDATE merged SET upto = NULL, merged_at = ? WHERE run_id = ? AND shard = ?",
                (time.time(), run_id, shard_key),
            )
            runs = self._store.runs
            total = runs.sample_count(run_id)
            for stage, tokens, seconds in fetch_rows(
                conn,
                "SELECT stage, sum(tokens), sum(seconds) FROM merged_stage WHERE run_id = ? GROUP BY stage",
                (run_id,),
            ):
                step, _, target = stage.partition("-")
                counter = {"reflect": "reflection", "choose": "decision"}.get(step)
                stage_done, stage_total = (
                    (runs.tallied(run_id, counter, target), total) if counter else (1, 1)
                )
                conn.execute(
                    "INSERT OR REPLACE INTO main.stage_progress(run_id, stage, done, total, tokens, seconds, detail, "
                    "updated_at) VALUES (?,?,?,?,?,?,'{}',?)",
                    (run_id, stage, stage_done, stage_total, tokens, seconds, time.time()),
                )
            samples, settled = (
                int(fetch_value(conn, f"SELECT count(*) FROM shard.{table} WHERE run_id = ?", (self._from,)))
                for table in ("run_sample", "outcome")
            )
        return Taken(samples, new, settled)


@contextmanager
def attached(store: Store, path: Path, from_run: int) -> Iterator[Shard]:
    """The run ``from_run`` of the store at ``path``, for taking into ``store``."""
    store.conn.execute("ATTACH ? AS shard", (str(path),))
    try:
        yield Shard(store, path, from_run)
    finally:
        if store.conn.in_transaction:
            store.conn.rollback()
        # Where a page could not be taken SQLite may still hold the file; the connection's end lets go of it.
        with suppress(sqlite3.OperationalError):
            store.conn.execute("DETACH shard")


def take_files(store: Store, path: Path, from_dataset: int, dataset_id: int) -> None:
    """What is known of the files that a shard's dataset was read from; those that are known here stay.

    Args:
        store: that takes it.
        path: the shard's.
        from_dataset: the dataset's id in the shard.
        dataset_id: its id here.
    """
    columns = "path, sha256, format, kind, rows_read, rows_new, rows_duplicate, rows_bad, created_at, turns, left_out"
    with attached(store, path, 0), store.transaction():
        store.conn.execute(
            f"INSERT OR IGNORE INTO main.import(dataset_id, {columns}) SELECT ?, {columns} FROM shard.import "
            "WHERE dataset_id = ? ORDER BY id",
            (dataset_id, from_dataset),
        )


def has_merged(store: Store, run_id: int) -> bool:
    """Whether a run is made of shards."""
    query = "SELECT 1 FROM merged WHERE run_id = ? LIMIT 1"
    return fetch_value(store.conn, query, (run_id,)) is not None


def new_dataset(store: Store, name: str) -> int:
    """The id of a new dataset of this name, within a transaction."""
    query = "INSERT INTO dataset(name, created_at) VALUES (?, ?)"
    return int(store.conn.execute(query, (name, time.time())).lastrowid or 0)


def setting_of(store: Store, setting_id: int | None) -> bytes | None:
    """What a way of scoring is known by in every store; None where there is none."""
    query = "SELECT digest FROM scoring_setting WHERE id = ?"
    digest_of: bytes | None = fetch_value(store.conn, query, (setting_id,))
    return digest_of
