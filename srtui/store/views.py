"""What the dashboard's screens read, on a read-only connection of their own, which one thread uses.

A ``Views`` has no queries of its own but for runs and events: tables of samples are ``listing``, evaluations
``evaluations``, and all else is read by the functions that serve the command line and the report too.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtui.errors import UserError
from srtui.store import Store, explain, figures
from srtui.store._query import fetch_rows, fetch_value
from srtui.store.compare import (
    DecidedOtherwise,
    HeldOut,
    RunsCompared,
    compare_runs,
    decided_otherwise,
    held_out_of,
)
from srtui.store.connection import open_read_only
from srtui.store.corpus import DatasetSize, dataset_sizes
from srtui.store.dataset_view import DatasetRow, DatasetView, TextFigures, dataset_rows, view_dataset
from srtui.store.distributions import ScorePair, histogram, score_pairs
from srtui.store.evaluations import EvaluationReads
from srtui.store.events import Event, count_events, events_of
from srtui.store.figures import ScoreName
from srtui.store.leases import alive
from srtui.store.listing import Listing
from srtui.store.runs import pilot_result, state_now
from srtui.store.sample_view import SampleView, view_sample
from srtui.store.stages import StageProgress, seconds_a_sample, stages_of
from srtui.store.stored import stored
from srtui.store.training import TrainingView, changed_since, trained_runs, training_view


@dataclass(frozen=True)
class RunRow:
    """One line of the table of runs. ``state`` is what is so now: an engine that died is not running."""

    id: int
    name: str
    state: str
    stage: str | None
    done: int
    total: int
    samples: int
    kept: int
    kept_held_out: int
    dataset: str
    student: str
    teacher: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    error: str | None
    pid: int | None
    host: str | None
    recipe: dict[str, Any]
    recipe_path: str
    peak_memory_mb: float
    trained: str | None
    """The state of its training: running, done, or skipped and why; None before."""
    adapter: str | None
    changed: int = 0
    """Choices that a person has changed since it was trained, where training again would learn them."""
    verdict: tuple[str, str] | None = None
    """Of a pilot that is done: its word and its sentence."""


@dataclass(frozen=True)
class LiveView:
    """What a run's engine is doing, for one glance."""

    run: RunRow
    stages: dict[str, StageProgress]
    live: dict[str, Any]
    heartbeat_at: float | None
    events: list[Event]


class Views:
    """Reads for the screens. Opening migrates a store of an earlier srtui, and refuses one with tables that are not known here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not _is_current(path):
            Store(path).close()
        try:
            self.conn = open_read_only(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise explain(error, path) from error
        self.conn.row_factory = sqlite3.Row
        self.conn.execute("PRAGMA cache_size=-16384")
        self.conn.execute("PRAGMA temp_store=MEMORY")
        self.evaluations = EvaluationReads(self.conn)
        self.listing = Listing(self.conn)

    def close(self) -> None:
        """Close the connection; nothing can be read any more."""
        self.conn.close()

    def version(self) -> int:
        """Changes when another process has written."""
        return int(self.conn.execute("PRAGMA data_version").fetchone()[0])

    def interrupt(self) -> None:
        """Give up the query that is running, from any thread; it raises an error of which
        ``srtui.store.connection.was_interrupted`` is true."""
        self.conn.interrupt()

    # -- runs -------------------------------------------------------------------------------

    def runs(self) -> list[RunRow]:
        """All runs, the newest first."""
        return [
            self._run_row(r)
            for r in fetch_rows(
                self.conn,
                "SELECT r.*, d.name AS dataset, p.done, p.total, l.pid, l.host, l.process, l.heartbeat_at, "
                "t.status AS trained, t.adapter, t.created_at AS trained_at, EXISTS(SELECT 1 FROM request q WHERE q.run_id = r.id AND q.kind = 'stop' "
                "AND q.created_at >= l.acquired_at) AS stop_asked, "
                "CASE WHEN json_valid(pl.result) THEN json_extract(pl.result, '$.verdict.word') END AS verdict, "
                "CASE WHEN json_valid(pl.result) THEN json_extract(pl.result, '$.verdict.sentence') END AS sentence "
                "FROM run r JOIN dataset d ON d.id = r.dataset_id LEFT JOIN lease l ON l.run_id = r.id "
                "LEFT JOIN training_run t ON t.run_id = r.id LEFT JOIN pilot pl ON pl.run_id = r.id "
                "LEFT JOIN stage_progress p ON p.run_id = r.id AND p.stage = r.stage ORDER BY r.id DESC",
            )
        ]

    def _run_row(self, r: sqlite3.Row) -> RunRow:
        held = r["pid"] is not None and alive(r, time.time())
        recipe = stored(r, "run", "recipe")
        counts = figures.counts(self.conn, r["id"])
        return RunRow(
            id=r["id"],
            name=r["name"],
            state="stopping" if held and r["stop_asked"] else state_now(r["status"], held),
            stage=r["stage"],
            done=r["done"] or 0,
            total=r["total"] or 0,
            samples=counts.samples,
            kept=counts.kept,
            kept_held_out=counts.kept_held_out,
            dataset=r["dataset"],
            student=recipe["student"]["model"],
            teacher=recipe["teacher"]["model"],
            created_at=r["created_at"],
            started_at=r["started_at"],
            finished_at=r["finished_at"],
            error=r["error"],
            pid=r["pid"] if held else None,
            host=r["host"] if held else None,
            recipe=recipe,
            recipe_path=r["recipe_path"],
            peak_memory_mb=r["peak_memory_mb"],
            trained=r["trained"],
            adapter=r["adapter"],
            # One whose last change was taken back has nothing to train again with.
            changed=changed_since(self.conn, r["id"], r["trained_at"])
            if r["adapter"] and counts.overruled
            else 0,
            verdict=(r["verdict"], r["sentence"]) if r["verdict"] and r["sentence"] else None,
        )

    def datasets(self) -> list[DatasetSize]:
        """(name, samples) of each dataset."""
        return dataset_sizes(self.conn)

    def dataset_rows(self) -> list[DatasetRow]:
        """All datasets with their counts, in the order of their import."""
        return dataset_rows(self.conn)

    def dataset(self, dataset_id: int, figures: TextFigures | None = None) -> DatasetView:
        """What is known of one dataset: its files, what was refused, and its texts in ``figures``, which are read where
        they are not known yet."""
        return view_dataset(self.conn, dataset_id, figures)

    def held_out(self, a: int, b: int) -> HeldOut:
        """Which held-out samples two runs have in common."""
        return held_out_of(self.conn, a, b)

    def compared(self, a: int, b: int, limit: int = 50) -> tuple[RunsCompared, list[DecidedOtherwise]]:
        """Two runs beside each other, and the first ``limit`` samples that they decided otherwise."""
        return compare_runs(self.conn, a, b), decided_otherwise(self.conn, a, b, limit)

    def pilot(self, run_id: int) -> dict[str, Any] | None:
        """What a pilot came to, as srtui.pilot.PilotResult.from_json reads it; None where the run is none."""
        return pilot_result(self.conn, run_id)

    def seconds_a_sample(self, teacher: str, student: str) -> dict[str, float]:
        """By stage, what a sample (in training: a step; in a step that no sample takes part in: one engine) has cost
        here with this teacher, or this student; what was reused from the store has cost nothing and counts as none."""
        return seconds_a_sample(self.conn, teacher, student)

    def memory_taken(self, teacher: str, student: str) -> float:
        """The most memory that an engine with these models has held here, in bytes; 0 where there was none."""
        return 1e6 * float(
            fetch_value(
                self.conn,
                "SELECT max(peak_memory_mb) FROM run WHERE json_extract(recipe, '$.teacher.model') = ? "
                "AND json_extract(recipe, '$.student.model') = ?",
                (teacher, student),
            )
            or 0
        )

    def live(self, run_id: int, events: int = 40) -> LiveView | None:
        """What one run is doing now; None where there is no such run."""
        run = next((r for r in self.runs() if r.id == run_id), None)
        if run is None:
            return None
        lease = self.conn.execute(
            "SELECT run_id, live, heartbeat_at FROM lease WHERE run_id = ?", (run_id,)
        ).fetchone()
        return LiveView(
            run,
            stages_of(self.conn, run_id),
            stored(lease, "lease", "live") if lease and run.pid else {},
            lease["heartbeat_at"] if lease else None,
            self.events(0, events, run_id),
        )

    def counts(self, run_id: int) -> figures.Counts:
        """How many samples came through each step, and why the others did not."""
        return figures.counts(self.conn, run_id)

    # -- events -----------------------------------------------------------------------------

    def count_events(self, run_id: int | None = None, level: str | None = None) -> int:
        """How many events there are, of one run or of all, of one level or of all."""
        return count_events(self.conn, run_id, level)

    def events(
        self, first: int, count: int, run_id: int | None = None, level: str | None = None
    ) -> list[Event]:
        """``count`` events from the newest to the oldest, skipping ``first``; of one run or level where it is given.

        Args:
            first: how many of the newest are skipped.
            count: how many at most.
            run_id: of one run; None for all.
            level: info, warning or error; None for all.
        """
        return events_of(self.conn, first, count, run_id, level)

    # -- samples ----------------------------------------------------------------------------

    def sample(self, run_id: int | None, sample_id: int) -> SampleView | None:
        """One sample with its texts, losses, scores, decisions and marks; None where it is gone."""
        return view_sample(self.conn, run_id, sample_id)

    def histogram(
        self, run_id: int, score: ScoreName, width: float, bins: int
    ) -> tuple[list[int], float | None]:
        """As :func:`srtui.store.distributions.histogram` counts.

        Args:
            run_id: of the run.
            score: one of srtui.store.figures.SCORES.
            width: of a step, in the score's unit.
            bins: how many steps.
        """
        return histogram(self.conn, run_id, score, width, bins)

    def score_pairs(self, run_id: int, limit: int = 4000) -> list[ScorePair]:
        """As :func:`srtui.store.distributions.score_pairs` gives them."""
        return score_pairs(self.conn, run_id, limit)

    # -- training ---------------------------------------------------------------------------

    def trained(self) -> list[int]:
        """The runs that have a training, the newest first."""
        return trained_runs(self.conn)

    def training(self, run_id: int) -> TrainingView | None:
        """A run's training with its curves and checkpoints; None where there is none."""
        return training_view(self.conn, run_id)


def _is_current(path: Path) -> bool:
    """Whether a store has this version's tables already; looked up without loading sqlite-utils."""
    if not path.exists():
        raise UserError(
            f"{path}: there is no store yet; bring data in with srtui import FILE, or run a recipe."
        )
    try:
        conn = open_read_only(path)
        try:
            names = [r[0] for r in conn.execute("SELECT name FROM _sqlite_migrations ORDER BY id")]
        finally:
            conn.close()
    except sqlite3.Error:
        return False
    return set(names) == set(NEEDED)


NEEDED = (
    "0001_initial",
    "0002_dashboard",
    "0003_evaluation",
    "0004_training",
    "0005_endings",
    "0006_template_version",
    "0007_safety",
    "0008_figures",
    "0009_given_up",
    "0010_gates",
    "0011_whole_datasets",
    "0012_embeddings",
    "0013_conversations",
    "0014_calibration",
    "0015_pilot",
    "0016_whose_scores",
    "0017_scale",
    "0018_text_embeddings",
    "0019_by_hand",
    "0020_margins",
)
"""The migrations that these queries were written for."""
