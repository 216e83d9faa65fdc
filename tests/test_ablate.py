"""Ablations: intervals against another implementation, the arms' recipes, and some arms for real."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import make_workspace, small_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from srtui import recipe as recipes
from srtui.errors import UserError
from srtui.pipeline.ablate import ARMS, Ablation, Interval, check_arms, paired_interval
from srtui.store import Store


class Quiet:
    def progress(self, progress: object) -> None: ...

    def event(self, level: str, message: str) -> None: ...


def test_one_seed_is_the_ordinary_bootstrap() -> None:
    random = np.random.default_rng(0)
    arm, full = random.normal(3.1, 0.5, (1, 40)), random.normal(3.0, 0.5, (1, 40))
    found = paired_interval(arm, full, 1)
    reference = stats.bootstrap(
        ((arm - full)[0],), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.mean == pytest.approx(float((arm - full).mean()))
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.01)


def test_seeds_that_differ_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    full = np.zeros((3, 40))
    steady = random.normal(0.1, 0.2, (1, 40)).repeat(3, axis=0)
    shaky = steady + np.array([[-0.3], [0.0], [0.3]])
    one, other = paired_interval(steady, full, 0), paired_interval(shaky, full, 0)
    assert other.high - other.low > 2 * (one.high - one.low)
    assert not one.within_noise and other.within_noise


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=20), st.integers(0, 9))
def test_an_interval_surrounds_its_mean(values: list[float], seed: int) -> None:
    arm = np.array([values])
    found = paired_interval(arm, np.zeros_like(arm), seed)
    assert min(values) - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(values) + 1e-9
    assert found == paired_interval(arm, np.zeros_like(arm), seed)


def test_within_noise() -> None:
    assert Interval(0.1, -0.1, 0.3).within_noise
    assert not Interval(-0.2, -0.3, -0.1).within_noise


def test_every_arm_is_a_recipe() -> None:
    for arm in ARMS.values():
        recipes.parse(
            {"dataset": "x", "name": "x", "selection": {**arm.selection, "encoder": "some"}}, "here"
        )
    with pytest.raises(UserError, match="--only none: the arms are full, original"):
        check_arms(["none"])


def test_without_held_out_samples_there_is_nothing_to_compare(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    path = small_recipe(workspace, training={"held_out": 0.0})
    with Store(workspace.store_path) as store, pytest.raises(UserError, match=r"training\.held_out above 0"):
        Ablation(workspace, store, recipes.load(path), path, Quiet())


@pytest.mark.model
def test_arms_share_what_is_stored(tmp_path: Path, models_folder: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", models_folder)
    path = small_recipe(
        workspace,
        selection={"policy": "keep"},
        training={"held_out": 0.34, "epochs": 2, "learning_rate": 0.01},
    )
    with Store(workspace.store_path) as store:
        ablation = Ablation(workspace, store, recipes.load(path), path, Quiet())
        found = ablation.work(["original", "coherence"])
        rows = {row.arm: row for row in found.rows}
        assert list(rows) == ["untuned", "full", "original", "coherence"]
        assert found.sets["original"] == 2
        assert rows["original"].samples == 4
        assert "selection.encoder" in rows["coherence"].problem
        assert set(rows["original"].against_full) == set(found.sets)
        for kind in found.sets:
            losses = {name: rows[name].losses[kind] for name in ("untuned", "full", "original")}
            assert len(set(losses.values())) == 3, losses  # each arm is another student
        steps = {
            store.runs.training(run.id)["result"]["steps"]  # type: ignore[index]
            for run in store.runs.all()
        }
        assert steps == {found.steps}
        kinds = {r[0] for r in store.rows("SELECT DISTINCT status FROM reflection WHERE run_id = 2")}
        assert kinds == {"not_asked"}

        before = [
            store.value(f"SELECT count(*) FROM {table}") for table in ("generation", "run", "span_loss")
        ]
        assert asdict(ablation.work(["original", "coherence"])) == asdict(found)
        after = [store.value(f"SELECT count(*) FROM {table}") for table in ("generation", "run", "span_loss")]
        assert after == before
