"""Training rows: checkpoints, going back to one, and the migration that brings them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from srtui.sample import Pair
from srtui.store import Store
from srtui.store.imports import NewRow
from srtui.store.views import Views
from srtui.training.preflight import Preflight
from tests.conftest import RECIPE
from tests.sql import sql_rows


def a_training(store: Store) -> tuple[int, int]:
    done = store.imports.add_samples("d", "f", "sha", "alpaca", [NewRow(0, Pair("i", "", "r"), "{}", "0")])
    run = store.runs.create("r", done.dataset_id, "r.toml", RECIPE, "f", [(1, False)]).id
    return run, store.training.start(run, 4, 12)


def test_checkpoints_are_listed_by_step_and_keep_their_state(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    run, training = a_training(store)
    for step in (8, 4):
        store.training.add_checkpoint(training, step, f"runs/r/checkpoint-{step}", 1000 + step, 0.5)
    store.training.mark_checkpoint(training, 4, "removed")
    store.training.mark_checkpoint(training, 8, "corrupt")
    assert [(c.step, c.state) for c in store.training.checkpoints(training)] == [
        (4, "removed"),
        (8, "corrupt"),
    ]
    store.training.add_checkpoint(training, 8, "runs/r/checkpoint-8", 9, 0.1)  # trained once more
    assert [(c.step, c.state, c.bytes) for c in store.training.checkpoints(training)][1] == (8, "good", 9)
    plan = Preflight(4, 0, 90, 40, 2, 1.5, 9, 10, True, False).facts()
    store.training.set_plan(training, plan)
    seen = Views(store.path).training(run)
    assert seen is not None
    assert seen.plan == plan
    assert [c.step for c in seen.checkpoints] == [4, 8]


def test_going_back_forgets_later_metrics_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    _, training = a_training(store)
    for step in range(1, 6):
        store.training.add_metrics(training, step, {"loss": float(step)})
    store.training.rewind(training, 3)
    assert [r[0] for r in sql_rows(store, "SELECT step FROM training_metric ORDER BY step")] == [1, 2, 3]


def test_the_migration_keeps_a_training_of_before(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        run, _ = a_training(store)
    old = sqlite3.connect(path)
    old.executescript(
        "DROP TABLE checkpoint; ALTER TABLE training_run DROP COLUMN plan; "
        "DELETE FROM _sqlite_migrations WHERE name = '0004_training';"
    )
    old.close()
    with Store(path) as store:
        kept = store.training.of_run(run)
        assert kept is not None
        assert (kept.examples, kept.plan) == (4, {})
        assert store.check() == []
