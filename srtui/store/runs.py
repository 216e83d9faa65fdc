"""Runs: what they are, who works on them, and what was asked of them; how far they are is stages.py's to read."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srtui import today
from srtui.errors import UserError
from srtui.store import leases
from srtui.store._query import each_row, fetch_row, fetch_rows, fetch_value
from srtui.store.corpus import TAKEN
from srtui.store.events import Event, events_of
from srtui.store.leases import Holder, Lease
from srtui.store.stages import StageProgress, stages_of
from srtui.store.stored import stored

if TYPE_CHECKING:
    from srtui.store import Store


@dataclass(frozen=True)
class Run:
    """One run as it was last written: ``status`` may say that an engine works which is gone (``state_now``)."""

    id: int
    name: str
    dataset_id: int
    setting_id: int | None
    recipe_path: str
    recipe: dict[str, Any]
    fingerprint: str
    status: str
    stage: str | None
    teacher: dict[str, Any] | None
    error: str | None
    peak_memory_mb: float
    created_at: float
    started_at: float | None
    finished_at: float | None
    date: str
    """What chat templates take for today, as in 2026-01-31."""
    embedding_setting_id: int | None
    """The setting of the embeddings that it chooses by, where they are not its student's."""

    @property
    def embedded_by(self) -> int | None:
        """The setting of its embeddings; None before its student has scored."""
        return self.embedding_setting_id or self.setting_id


def _run(row: sqlite3.Row) -> Run:
    return Run(
        id=row["id"],
        name=row["name"],
        dataset_id=row["dataset_id"],
        setting_id=row["setting_id"],
        recipe_path=row["recipe_path"],
        recipe=stored(row, "run", "recipe"),
        fingerprint=row["fingerprint"],
        status=row["status"],
        stage=row["stage"],
        teacher=stored(row, "run", "teacher"),
        error=row["error"],
        peak_memory_mb=row["peak_memory_mb"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        date=row["date"] or today.of_timestamp(row["created_at"]),
        embedding_setting_id=row["embedding_setting_id"],
    )


# Energy is added up like tokens and seconds, in the detail: few machines tell it.
_WITH_ENERGY = (
    "CASE WHEN coalesce(json_type(excluded.detail, '$.joules'), json_type(stage_progress.detail, '$.joules')) IS NULL "
    "THEN excluded.detail ELSE json_set(excluded.detail, "
    + ", ".join(
        f"'$.{name}', coalesce(json_extract(stage_progress.detail, '$.{name}'), 0) "
        f"+ coalesce(json_extract(excluded.detail, '$.{name}'), 0)"
        for name in ("joules", "joule_seconds")
    )
    + ") END"
)


def pilot_result(conn: sqlite3.Connection, run_id: int) -> dict[str, Any] | None:
    """What a pilot came to; None of another run. Raises UserError where it is damaged."""
    row = fetch_row(conn, "SELECT run_id, result FROM pilot WHERE run_id = ?", (run_id,))
    return None if row is None else stored(row, "pilot", "result")


class Runs:
    """``store.runs``: what runs are, and how engines take them and report on them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- what runs are ----------------------------------------------------------------------

    def all(self) -> list[Run]:
        """All runs, the oldest first."""
        return [_run(r) for r in fetch_rows(self._store.conn, "SELECT * FROM run ORDER BY id")]

    def get(self, run_id: int) -> Run:
        """The run of this id. Raises UserError where there is none."""
        row = fetch_row(self._store.conn, "SELECT * FROM run WHERE id = ?", (run_id,))
        if row is None:
            raise UserError(f"There is no run with id {run_id}; srtui status lists those that there are.")
        return _run(row)

    def named(self, name: str) -> Run:
        """The run called ``name``, or whose number it is; UserError names the runs there are."""
        row = fetch_row(self._store.conn, "SELECT * FROM run WHERE name = ?", (name,))
        if row is None and name.isdecimal() and len(name) <= 18:
            row = fetch_row(self._store.conn, "SELECT * FROM run WHERE id = ?", (int(name),))
        if row is None:
            names = [
                r["name"]
                for r in fetch_rows(self._store.conn, "SELECT name FROM run ORDER BY id DESC LIMIT 8")
            ]
            advice = (
                f"there are {', '.join(names)}; srtui status shows all"
                if names
                else "there are none yet; start one with srtui run"
            )
            raise UserError(f"There is no run {name!r}; {advice}.")
        return _run(row)

    def with_fingerprint(self, dataset_id: int, *fingerprints: str) -> Run | None:
        """The last run over this dataset with one of these fingerprints."""
        row = fetch_row(
            self._store.conn,
            f"SELECT * FROM run WHERE dataset_id = ? AND fingerprint IN ({','.join('?' * len(fingerprints))}) "
            "ORDER BY id DESC LIMIT 1",
            (dataset_id, *fingerprints),
        )
        return _run(row) if row else None

    def create(
        self,
        wanted_name: str,
        dataset_id: int,
        recipe_path: str,
        recipe_json: str,
        fingerprint: str,
        samples: list[tuple[int, bool]],
    ) -> Run:
        """A new run over ``samples`` (sample id, held out); named ``wanted_name``, or with a number
        behind it where that name is taken.

        Args:
            wanted_name: as the recipe has it.
            dataset_id: of its dataset.
            recipe_path: for people.
            recipe_json: the whole recipe, defaults and all.
            fingerprint: of what the run's results depend on.
            samples: (sample id, whether it is held out).
        """
        with self._store.transaction():
            run_id = self._new(wanted_name, dataset_id, recipe_path, recipe_json, fingerprint)
            self._store.conn.executemany(
                "INSERT INTO run_sample(run_id, sample_id, held_out) VALUES (?,?,?)",
                [(run_id, sample_id, int(held_out)) for sample_id, held_out in samples],
            )
        return self.get(run_id)

    def create_over(
        self,
        wanted_name: str,
        dataset_id: int,
        recipe_path: str,
        recipe_json: str,
        fingerprint: str,
        limit: int | None,
        held_out: Collection[int],
    ) -> Run:
        """A new run over the samples of a dataset, named as :meth:`create` names it.

        Args:
            wanted_name: what it is called if it can be.
            dataset_id: of its dataset.
            recipe_path: where its recipe was read.
            recipe_json: that, as it is kept.
            fingerprint: what it is known again by.
            limit: how many samples of the dataset, the first ones; None for all.
            held_out: ids of those that training does not see.

        Returns:
            The run.
        """
        conn = self._store.conn
        with self._store.transaction():
            run_id = self._new(wanted_name, dataset_id, recipe_path, recipe_json, fingerprint)
            conn.execute("CREATE TEMP TABLE IF NOT EXISTS held_out_now(id INTEGER PRIMARY KEY)")
            conn.execute("DELETE FROM held_out_now")
            conn.executemany("INSERT INTO held_out_now VALUES (?)", ((i,) for i in held_out))
            conn.execute(
                "INSERT INTO run_sample(run_id, sample_id, held_out) SELECT ?, id, id IN (SELECT id FROM held_out_now) "
                f"FROM sample WHERE dataset_id = ? AND {TAKEN} ORDER BY id LIMIT ?",
                (run_id, dataset_id, limit or -1),
            )
            conn.execute("DELETE FROM held_out_now")
        return self.get(run_id)

    def _new(
        self, wanted_name: str, dataset_id: int, recipe_path: str, recipe_json: str, fingerprint: str
    ) -> int:
        conn = self._store.conn
        name, n, now = wanted_name, 1, time.time()
        while fetch_value(conn, "SELECT 1 FROM run WHERE name = ?", (name,)):
            n += 1
            name = f"{wanted_name}-{n}"
        cursor = conn.execute(
            "INSERT INTO run(name, dataset_id, recipe_path, recipe, fingerprint, status, created_at, date) "
            "VALUES (?,?,?,?,?,'new',?,?)",
            (name, dataset_id, recipe_path, recipe_json, fingerprint, now, today.of_timestamp(now)),
        )
        return int(cursor.lastrowid or 0)

    def any_over(self, dataset_id: int, begins: str = "") -> bool:
        """Whether a run has been made over this dataset; ``begins``: with a fingerprint that begins so."""
        run_found = fetch_value(
            self._store.conn,
            "SELECT 1 FROM run WHERE dataset_id = ?1 AND substr(fingerprint, 1, length(?2)) = ?2 LIMIT 1",
            (dataset_id, begins),
        )
        return run_found is not None

    def delete(self, run_id: int) -> None:
        """Forget a run: its choices, outcomes, events and training. Texts and scores stay, for they
        may serve other runs. Raises UserError while an engine works on it."""
        held = self.holder(run_id)
        if held is not None:
            raise UserError(
                f"Run {self.get(run_id).name!r} is being worked on by process {held.pid} on {held.host}; "
                "stop it first (Ctrl-C there, or x in the dashboard)."
            )
        with self._store.transaction():
            self._store.conn.execute("DELETE FROM run WHERE id = ?", (run_id,))

    def update(self, run_id: int, **values: Any) -> None:
        """Set columns of a run."""
        columns = ", ".join(f"{name} = ?" for name in values)
        with self._store.transaction():
            self._store.conn.execute(f"UPDATE run SET {columns} WHERE id = ?", (*values.values(), run_id))

    def sample_ids(self, run_id: int) -> list[int]:
        """The samples of a run, in order."""
        return [
            r[0]
            for r in fetch_rows(
                self._store.conn,
                "SELECT sample_id FROM run_sample WHERE run_id = ? ORDER BY sample_id",
                (run_id,),
            )
        ]

    def each_sample_id(self, run_id: int) -> Iterator[int]:
        """The samples of a run, in order, read as they are asked for."""
        query = "SELECT sample_id FROM run_sample WHERE run_id = ? ORDER BY sample_id"
        return (row[0] for row in each_row(self._store.conn, query, (run_id,)))

    def sample_count(self, run_id: int) -> int:
        """How many samples a run has."""
        return self.tallied(run_id, "sample")

    def tallied(self, run_id: int, counter: str, stage: str = "", flag: int = 0) -> int:
        """How many rows of one kind a run has, off the counts that the store keeps.

        Args:
            run_id: of the run.
            counter: sample, reflection, decision or outcome.
            stage: instruction or response, of reflections and decisions; "" of others.
            flag: bits that all have to be set (srtui.store.schema says which).
        """
        counted = fetch_value(
            self._store.conn,
            "SELECT coalesce(sum(n), 0) FROM tally WHERE run_id = ? AND what = ? AND stage = ? AND flags & ? = ?",
            (run_id, counter, stage, flag, flag),
        )
        return int(counted)

    def of_sample(self, sample_id: int) -> list[Run]:
        """The runs over a sample, the oldest first."""
        return [
            self.get(r[0])
            for r in fetch_rows(
                self._store.conn,
                "SELECT run_id FROM run_sample WHERE sample_id = ? ORDER BY run_id",
                (sample_id,),
            )
        ]

    # -- pilots -----------------------------------------------------------------------------

    def keep_pilot(self, run_id: int, result_json: str) -> None:
        """Store what a pilot came to."""
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT OR REPLACE INTO pilot(run_id, result, created_at) VALUES (?,?,?)",
                (run_id, result_json, time.time()),
            )

    def pilots(self, most: int) -> list[dict[str, Any]]:
        """What the newest pilots came to, the newest first. Raises UserError where one is damaged."""
        rows = fetch_rows(
            self._store.conn, "SELECT run_id, result FROM pilot ORDER BY run_id DESC LIMIT ?", (most,)
        )
        return [stored(row, "pilot", "result") for row in rows]

    def pilot(self, run_id: int) -> dict[str, Any] | None:
        """As :func:`pilot_result` gives it."""
        return pilot_result(self._store.conn, run_id)

    # -- who works on a run -----------------------------------------------------------------

    def acquire(self, run_id: int) -> Lease:
        """Take the run for this process; UserError says who holds it if another engine does.

        A lease whose process is gone (this host), or silent for 90 s (another host), is taken over.
        """
        with self._store.transaction():
            held = self.holder(run_id)
            if held is not None:
                since = time.strftime("%H:%M:%S", time.localtime(held.acquired_at))
                raise UserError(
                    f"Run {self.get(run_id).name!r} is being worked on by process {held.pid} on "
                    f"{held.host} since {since}; wait for it, or stop it there with Ctrl-C."
                )
            lease = Lease(self._store, run_id)
        return lease.start()

    def holder(self, run_id: int) -> Holder | None:
        """The live engine of a run, if it has one."""
        return leases.holder(self._store, "run", run_id)

    def workers(self, run_id: int) -> list[dict[str, Any]]:
        """What the processes that run models for a run's engine are doing (srtui.pipeline.place); empty where the engine
        runs them itself, and where none works."""
        row = fetch_row(self._store.conn, "SELECT * FROM lease WHERE run_id = ?", (run_id,))
        if row is None or not leases.alive(row, time.time()):
            return []
        return list(stored(row, "lease", "live").get("workers", []))

    # -- what was asked of a run ------------------------------------------------------------

    def ask(self, run_id: int, kind: str) -> None:
        """Leave a request (pause, resume, stop) for the engine."""
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT INTO request(run_id, kind, created_at) VALUES (?,?,?)", (run_id, kind, time.time())
            )

    def take_requests(self, run_id: int) -> list[str]:
        """The kinds of the requests not yet handled, in order; marks them handled."""
        requests = fetch_rows(
            self._store.conn,
            "SELECT id, kind FROM request WHERE run_id = ? AND handled_at IS NULL ORDER BY id",
            (run_id,),
        )
        if requests:
            with self._store.transaction():
                self._store.conn.executemany(
                    "UPDATE request SET handled_at = ? WHERE id = ?",
                    [(time.time(), r["id"]) for r in requests],
                )
        return [r["kind"] for r in requests]

    def drop_requests(self, run_id: int, before: float) -> None:
        """Mark those as handled that were left before this moment, for an engine that is gone."""
        with self._store.transaction():
            self._store.conn.execute(
                "UPDATE request SET handled_at = ? WHERE run_id = ? AND handled_at IS NULL AND created_at < ?",
                (time.time(), run_id, before),
            )

    # -- how far it is ----------------------------------------------------------------------

    def progress(
        self,
        run_id: int,
        stage: str,
        done: int,
        total: int,
        tokens: int = 0,
        seconds: float = 0.0,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Record how far a stage is; ``tokens`` and ``seconds`` are added to what is there.

        Args:
            run_id: of the run.
            stage: which.
            done: of ``total``.
            total: samples, or steps.
            tokens: through a model since the last call.
            seconds: since the last call.
            detail: what the stage counts besides.
        """
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT INTO stage_progress(run_id, stage, done, total, tokens, seconds, detail, updated_at) "
                "VALUES (?,?,?,?,?,?,?,?) ON CONFLICT(run_id, stage) DO UPDATE SET done = excluded.done, "
                "total = excluded.total, tokens = tokens + excluded.tokens, seconds = seconds + excluded.seconds, "
                f"detail = {_WITH_ENERGY}, updated_at = excluded.updated_at",
                (run_id, stage, done, total, tokens, seconds, json.dumps(detail or {}), time.time()),
            )

    def stages(self, run_id: int) -> dict[str, StageProgress]:
        """How far each stage of a run is, as :func:`stages_of` gives it."""
        return stages_of(self._store.conn, run_id)

    def event(self, run_id: int | None, level: str, message: str) -> None:
        """Store what an engine reports; ``level`` is info, warning or error."""
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT INTO event(run_id, at, level, message) VALUES (?,?,?,?)",
                (run_id, time.time(), level, message),
            )

    def events(self, run_id: int, limit: int = 50) -> list[Event]:
        """The last ``limit`` events of a run, the oldest of them first."""
        return events_of(self._store.conn, 0, limit, run_id)[::-1]


def state_now(status: str, held: bool) -> str:
    """What a run is doing, whatever its row says last: an engine that died left it as running, and one
    that has taken it up (``held``) is about to say so."""
    if not held and status in ("running", "paused"):
        return "stopped"
    if held and status in ("new", "stopped", "failed"):
        return "running"
    return status
