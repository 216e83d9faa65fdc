"""How far a run's stages are, and what their samples have cost."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from srtui.store._query import fetch_rows
from srtui.store.stored import stored

STEPS = ("start", "prepare", "load-teacher", "load-student", "load-encoder")
"""What an engine spends time on beside its stages, stored like these: it takes as long for any number of samples."""
STAGES = ("reflect-instruction", "choose-instruction", "reflect-response", "choose-response", "train")


@dataclass(frozen=True)
class StageProgress:
    """How far one stage of a run is. Tokens are those run through a model, ``seconds`` those spent in the stage,
    ``detail`` what was given to ``Runs.progress``."""

    run_id: int
    stage: str
    done: int
    total: int
    tokens: int
    seconds: float
    detail: dict[str, Any]
    updated_at: float

    @property
    def reused(self) -> int:
        """How many of its samples cost nothing, since what they needed was stored."""
        count = self.detail.get("reused", 0)
        return count if isinstance(count, int) else 0


def stages_of(conn: sqlite3.Connection, run_id: int) -> dict[str, StageProgress]:
    """By stage, how far a run is with it."""
    return {
        r["stage"]: StageProgress(**{**dict(r), "detail": stored(r, "stage_progress", "detail")})
        for r in fetch_rows(conn, "SELECT * FROM stage_progress WHERE run_id = ?", (run_id,))
    }


_REUSED = "CASE WHEN json_valid(p.detail) THEN coalesce(json_extract(p.detail, '$.reused'), 0) ELSE 0 END"


def seconds_a_sample(conn: sqlite3.Connection, teacher: str, student: str) -> dict[str, float]:
    """By stage, what a sample (in training: a step; of STEPS: an engine) has cost here with this teacher, or this
    student; what was reused from the store has cost nothing and is not counted."""
    return {
        r[0]: r[1]
        for r in fetch_rows(
            conn,
            f"SELECT p.stage, sum(p.seconds) / sum(p.done - {_REUSED}) FROM stage_progress p JOIN run r ON "
            f"r.id = p.run_id WHERE p.done > {_REUSED} AND p.seconds > 0 AND CASE WHEN p.stage LIKE '%-teacher' "
            "OR p.stage LIKE 'reflect-%' THEN json_extract(r.recipe, '$.teacher.model') = ? "
            "ELSE json_extract(r.recipe, '$.student.model') = ? END GROUP BY p.stage",
            (teacher, student),
        )
    }
