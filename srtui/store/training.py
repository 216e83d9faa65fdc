"""Trainings: what each run's came to, its metrics by step, and the checkpoints that were written (what it resumes from is
read off their folders: ``training/checkpoints.py``)."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from srtui.store._query import fetch_row, fetch_rows, fetch_value
from srtui.store.stored import stored

if TYPE_CHECKING:
    from srtui.store import Store

CheckpointState = Literal["good", "corrupt", "removed"]


@dataclass(frozen=True)
class StoredCheckpoint:
    """``path`` is relative to the workspace; ``seconds`` is how long writing it took."""

    step: int
    path: str
    bytes: int
    seconds: float
    state: CheckpointState
    created_at: float


@dataclass(frozen=True)
class StoredTraining:
    """A run's training: its row, and the figures that follow from it.

    ``result`` and ``plan`` are as srtui.store.stored describes them. ``trained_on``: samples whose tokens were
    trained on; ``step_losses``: the loss of its first and of its last step, mean NLL in nats a target token, not
    smoothed; ``tokens_a_second``: tokens over the seconds spent in steps; ``changed_since``: samples for which a
    person's word is another than when the training began; ``method``: what it learns from, ``sft`` or one of
    preferences.
    """

    id: int
    run_id: int
    status: str
    examples: int
    steps: int
    tokens: int
    seconds: float
    adapter: str | None
    result: dict[str, Any]
    created_at: float
    plan: dict[str, Any]
    trained_on: int
    step_losses: list[float] | None
    tokens_a_second: float | None
    method: str
    changed_since: int


@dataclass(frozen=True)
class TrainingView(StoredTraining):
    """A training with its curves, (step, value) of each metric by its name, and its checkpoints by step."""

    metrics: dict[str, list[tuple[int, float]]]
    checkpoints: list[StoredCheckpoint]


# -- reads, which need a connection only ---------------------------------------------------------


def training_of(conn: sqlite3.Connection, run_id: int) -> StoredTraining | None:
    """A run's training; None before there is one. Raises UserError where its JSON is damaged."""
    row = fetch_row(conn, "SELECT * FROM training_run WHERE run_id = ?", (run_id,))
    if row is None:
        return None
    result: dict[str, Any] = stored(row, "training_run", "result")
    losses = [
        r[0]
        for order in ("ASC", "DESC")
        for r in conn.execute(
            "SELECT value FROM training_metric WHERE training_run_id = ? AND name = 'loss' "
            f"ORDER BY step {order} LIMIT 1",
            (row["id"],),
        )
    ] or [result[k] for k in ("first_loss", "last_loss") if k in result]
    return StoredTraining(
        id=row["id"],
        run_id=row["run_id"],
        status=row["status"],
        examples=row["examples"],
        steps=row["steps"],
        tokens=row["tokens"],
        seconds=row["seconds"],
        adapter=row["adapter"],
        result=result,
        created_at=row["created_at"],
        plan=stored(row, "training_run", "plan"),
        trained_on=result.get("examples", row["examples"]),
        step_losses=losses if len(losses) == 2 else None,
        tokens_a_second=row["tokens"] / row["seconds"] if row["seconds"] else None,
        method=fetch_value(conn, _METHOD, (run_id,)) or "sft",
        changed_since=changed_since(conn, run_id, row["created_at"]),
    )


def changed_since(conn: sqlite3.Connection, run_id: int, at: float) -> int:
    """The samples of a run for which a person's choice is another now than at that time."""
    return int(fetch_value(conn, _CHANGED_SINCE, {"run": run_id, "at": at}))


_METHOD = "SELECT CASE WHEN json_valid(recipe) THEN json_extract(recipe, '$.training.method') END FROM run WHERE id = ?"
_CHANGED_SINCE = (
    "SELECT count(*) FROM (SELECT max(CASE WHEN created_at <= :at AND (undone_at IS NULL OR undone_at > :at) "
    "THEN variant_id END) AS was, max(CASE WHEN undone_at IS NULL THEN variant_id END) AS now FROM ("
    # Apart, for each half has an index of its own.
    "SELECT * FROM overrule WHERE run_id = :run AND undone_at IS NULL UNION ALL "
    "SELECT * FROM overrule WHERE run_id = :run AND undone_at IS NOT NULL) GROUP BY sample_id) WHERE was IS NOT now"
)


def training_view(conn: sqlite3.Connection, run_id: int) -> TrainingView | None:
    """A run's training with its curves and checkpoints; None before there is one."""
    training = training_of(conn, run_id)
    if training is None:
        return None
    return TrainingView(
        **vars(training), metrics=metrics_of(conn, training.id), checkpoints=checkpoints_of(conn, training.id)
    )


def trained_runs(conn: sqlite3.Connection) -> list[int]:
    """The runs that have a training, the newest first."""
    return [r[0] for r in fetch_rows(conn, "SELECT run_id FROM training_run ORDER BY run_id DESC")]


def metrics_of(conn: sqlite3.Connection, training_id: int) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each metric of a training by its name, in the steps' order."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    for r in fetch_rows(
        conn,
        "SELECT name, step, value FROM training_metric WHERE training_run_id = ? ORDER BY name, step",
        (training_id,),
    ):
        metrics.setdefault(r["name"], []).append((r["step"], r["value"]))
    return metrics


def checkpoints_of(conn: sqlite3.Connection, training_id: int) -> list[StoredCheckpoint]:
    """All of a training's checkpoints, by step."""
    return [
        StoredCheckpoint(*r)
        for r in fetch_rows(
            conn,
            "SELECT step, path, bytes, seconds, state, created_at FROM checkpoint "
            "WHERE training_run_id = ? ORDER BY step",
            (training_id,),
        )
    ]


# -- the store's part ----------------------------------------------------------------------------


class Training:
    """``store.training``: the reads above, and what an engine writes while it trains."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of_run(self, run_id: int) -> StoredTraining | None:
        """A run's training, as :func:`training_of` gives it."""
        return training_of(self._store.conn, run_id)

    def past_forecasts(
        self, student: str, quantization: str, machine: str, most: int = 5
    ) -> list[tuple[dict[str, float], dict[str, float]]]:
        """What was forecast for this student's trainings on this machine, and what they took, the newest first: seconds
        in steps and bytes in all, as computed and as shown.

        Args:
            student: its name, as in recipes.
            quantization: as in recipes.
            machine: as the forecasts name it.
            most: how many.
        """
        rows = fetch_rows(
            self._store.conn,
            "SELECT t.id, t.result FROM training_run t JOIN run r ON r.id = t.run_id WHERE t.status = 'done' "
            "AND CASE WHEN json_valid(t.result) THEN json_extract(t.result, '$.forecast.machine') = ? END "
            "AND CASE WHEN json_valid(r.recipe) THEN json_extract(r.recipe, '$.student.model') = ? "
            "AND json_extract(r.recipe, '$.student.quantization') = ? END ORDER BY t.id DESC LIMIT ?",
            (machine, student, quantization, most),
        )
        pasts = []
        for row in rows:
            result = stored(row, "training_run", "result")
            forecast = {name: value for name, value in result["forecast"].items() if name != "machine"}
            pasts.append((forecast, result["took"]))
        return pasts

    def start(self, run_id: int, examples: int, steps: int) -> int:
        """A clean training record of a run, whose id is returned; metrics of an unfinished one before it go."""
        with self._store.transaction():
            self._store.conn.execute("DELETE FROM training_run WHERE run_id = ?", (run_id,))
            cursor = self._store.conn.execute(
                "INSERT INTO training_run(run_id, status, examples, steps, tokens, seconds, result, created_at) "
                "VALUES (?, 'running', ?, ?, 0, 0, '{}', ?)",
                (run_id, examples, steps, time.time()),
            )
        return int(cursor.lastrowid or 0)

    def set_plan(self, training_id: int, plan: Mapping[str, Any]) -> None:
        """What the pre-flight found, as the training's ``plan``."""
        with self._store.transaction():
            self._store.conn.execute(
                "UPDATE training_run SET plan = ? WHERE id = ?", (json.dumps(plan), training_id)
            )

    def add_metrics(self, training_id: int, step: int, values: Mapping[str, float]) -> None:
        """The metrics of a step, by name; those of the same step and name are replaced."""
        with self._store.transaction():
            self._store.conn.executemany(
                "INSERT OR REPLACE INTO training_metric(training_run_id, step, name, value) VALUES (?,?,?,?)",
                [(training_id, step, name, float(value)) for name, value in values.items()],
            )

    def finish(
        self,
        training_id: int,
        status: str,
        tokens: int,
        seconds: float,
        adapter: str | None,
        result: Mapping[str, Any],
    ) -> None:
        """Record how a training ended.

        Args:
            training_id: as ``start`` gave it.
            status: ``done``, or ``skipped:`` and why.
            tokens: how many were trained on, all epochs together.
            seconds: spent in steps.
            adapter: its folder, relative to the workspace; None where there is none.
            result: losses, steps and held-out figures, as srtui.store.stored describes them.
        """
        with self._store.transaction():
            self._store.conn.execute(
                "UPDATE training_run SET status = ?, tokens = ?, seconds = ?, adapter = ?, result = ? WHERE id = ?",
                (status, tokens, seconds, adapter, json.dumps(result), training_id),
            )

    def rewind(self, training_id: int, step: int) -> None:
        """Forget the metrics of later steps: they are trained, and written, once more."""
        with self._store.transaction():
            self._store.conn.execute(
                "DELETE FROM training_metric WHERE training_run_id = ? AND step > ?", (training_id, step)
            )

    def checkpoints(self, training_id: int) -> list[StoredCheckpoint]:
        """All of a training's checkpoints, by step."""
        return checkpoints_of(self._store.conn, training_id)

    def add_checkpoint(self, training_id: int, step: int, path: str, size: int, seconds: float) -> None:
        """A checkpoint was written; one of the same step takes the place of an earlier one.

        Args:
            training_id: as ``start`` gave it.
            step: after which it was written.
            path: its folder, relative to the workspace.
            size: in bytes.
            seconds: how long writing it took.
        """
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT OR REPLACE INTO checkpoint(training_run_id, step, path, bytes, seconds, state, created_at) "
                "VALUES (?,?,?,?,?,'good',?)",
                (training_id, step, path, size, seconds, time.time()),
            )

    def mark_checkpoint(self, training_id: int, step: int, state: CheckpointState) -> None:
        """This one turned out corrupt, or was removed to make room."""
        with self._store.transaction():
            self._store.conn.execute(
                "UPDATE checkpoint SET state = ? WHERE training_run_id = ? AND step = ?",
                (state, training_id, step),
            )
