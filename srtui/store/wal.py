"""What is known of a training's checkpoints, and going back to one."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from srtui.store._query import fetch_rows

if TYPE_CHECKING:
    from srtui.store import Store

State = Literal["good", "corrupt", "removed"]


@dataclass(frozen=True)
class StoredCheckpoint:
    """``path`` is relative to the workspace; ``seconds`` is how long writing it took."""

    step: int
    path: str
    bytes: int
    seconds: float
    state: State
    created_at: float


class Checkpoints:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, training_id: int, step: int, path: str, size: int, seconds: float) -> None:
        """A checkpoint was written; one of the same step takes the place of an earlier one."""
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT OR REPLACE INTO checkpoint(training_run_id, step, path, bytes, seconds, state, created_at) "
                "VALUES (?,?,?,?,?,'good',?)",
                (training_id, step, path, size, seconds, time.time()),
            )

    def mark(self, training_id: int, step: int, state: State) -> None:
        """This one turned out corrupt, or was removed to make room."""
        with self._store.transaction():
            self._store.conn.execute(
                "UPDATE checkpoint SET state = ? WHERE training_run_id = ? AND step = ?",
                (state, training_id, step),
            )

    def of(self, training_id: int) -> list[StoredCheckpoint]:
        """All of a training's checkpoints, by step."""
        return [
            StoredCheckpoint(r["step"], r["path"], r["bytes"], r["seconds"], r["state"], r["created_at"])
            for r in fetch_rows(
                self._store.conn,
                "SELECT * FROM checkpoint WHERE training_run_id = ? ORDER BY step",
                (training_id,),
            )
        ]

    def rewind(self, training_id: int, step: int) -> None:
        """Forget the metrics of later steps: they are trained, and written, once more."""
        with self._store.transaction():
            self._store.conn.execute(
                "DELETE FROM training_metric WHERE training_run_id = ? AND step > ?", (training_id, step)
            )

    def plan(self, training_id: int, plan: Mapping[str, Any]) -> None:
        """What the pre-flight found, as the training's ``plan``."""
        with self._store.transaction():
            self._store.conn.execute(
                "UPDATE training_run SET plan = ? WHERE id = ?", (json.dumps(plan), training_id)
            )
