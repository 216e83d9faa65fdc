"""Ablations: intervals against another implementation, the arms' recipes, and some arms for real."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from srtui import recipe as recipes
from srtui.errors import UserError
from srtui.pipeline.ablate import ARMS, Ablation, Interval, check_arms, paired_interval
from srtui.store import Store
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import make_workspace, small_recipe
from tests.sql import sql_rows, sql_value


class Quiet:
    def progress(self, progress: object) -> None: ...

    def event(self, level: str, message: str) -> None: ...


def test_one_seed_is_the_ordinary_t_interval() -> None:
    random = np.random.default_rng(0)
    arm, full = random.normal(3.1, 0.5, (1, 40)), random.normal(3.0, 0.5, (1, 40))
    found = paired_interval(arm, full)
    reference = stats.ttest_1samp((arm - full)[0], 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(float((arm - full).mean()))
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))


def test_seeds_that_differ_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    full = np.zeros((3, 40))
    steady = random.normal(0.1, 0.2, (1, 40)).repeat(3, axis=0)
    shaky = steady + np.array([[-0.3], [0.0], [0.3]])
    one, other = paired_interval(steady, full), paired_interval(shaky, full)
    assert other.high - other.low > 2 * (one.high - one.low)
    assert not one.within_noise and other.within_noise


@pytest.mark.parametrize(
    ("seeds", "apart", "least"), [(2, 0.3, 0.94), (3, 0.3, 0.94), (3, 0.0, 0.94), (5, 0.2, 0.94)]
)
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int, apart: float, least: float) -> None:
    """Three seeds drawn anew from three held it 78 times in 100, two from two 67 times."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        table = (
            0.05
            + random.normal(0, apart, (seeds, 1))
            + random.normal(0, 0.3, (1, 30))
            + random.normal(0, 0.1, (seeds, 30))
        )
        found = paired_interval(table, np.zeros_like(table))
        held += found.low <= 0.05 <= found.high
    assert least <= held / 1000


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=20))
def test_an_interval_surrounds_its_mean(values: list[float]) -> None:
    arm = np.array([values, values[::-1]])
    found = paired_interval(arm, np.zeros_like(arm))
    assert found.low <= found.mean <= found.high and found == paired_interval(arm, np.zeros_like(arm))


def test_within_noise() -> None:
    assert Interval(0.1, -0.1, 0.3).within_noise
    assert not Interval(-0.2, -0.3, -0.1).within_noise


def test_a_difference_of_shares_has_bounds() -> None:
    wide = paired_interval(np.array([[1.0, 0.0, 0.0, 0.0]]), np.ones((1, 4)))
    assert wide.low < -1 and wide.within(1.0) == Interval(wide.mean, -1.0, wide.high)


def test_every_arm_is_a_recipe() -> None:
    # What some arms need beside the recipe that they vary: an encoder, and fitted weights.
    given = {
        "encoder": "some",
        "weights": {
            "student": "s", "student_id": "s", "template": "alpaca", "template_version": "v", "protocol": "default",
            "data": "pairs.jsonl", "data_digest": "d", "pairs": 60, "accuracy": (0.6, 0.5, 0.7),
            "length_accuracy": (0.6, 0.5, 0.7), "weights": {"ifd": 1.0},
        },
    }  # fmt: skip
    for arm in ARMS.values():
        recipes.parse({"dataset": "x", "name": "x", "selection": {**given, **arm.selection}}, "here")
    with pytest.raises(UserError, match="--only none: the arms are full, original"):
        check_arms(["none"])


def test_without_held_out_samples_there_is_nothing_to_compare(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    path = small_recipe(workspace, training={"held_out": 0.0})
    with Store(workspace.store_path) as store, pytest.raises(UserError, match=r"training\.held_out above 0"):
        Ablation(workspace, store, recipes.load(path), path, Quiet())


@pytest.mark.model
def test_arms_share_what_is_stored(pair_workspace: Workspace) -> None:
    workspace = pair_workspace
    path = small_recipe(
        workspace,
        selection={"policy": "keep"},
        training={"held_out": 0.34, "learning_rate": 0.01},
    )
    with Store(workspace.store_path) as store:
        ablation = Ablation(workspace, store, recipes.load(path), path, Quiet())
        found = ablation.work(["original", "both", "coherence"])
        rows = {row.arm: row for row in found.rows}
        assert list(rows) == ["untuned", "full", "original", "both", "coherence"]
        assert found.sets["original"] == 2
        assert rows["original"].samples == 4
        assert "selection.encoder" in rows["coherence"].problem
        assert any("asked by the arm original" in sentence for sentence in found.words)
        assert set(rows["original"].against_full) == set(found.sets)
        for kind in found.sets:
            losses = {name: rows[name].losses[kind] for name in ("untuned", "original", "both")}
            assert len(set(losses.values())) == 3, losses  # each arm is another student
        steps = {
            store.training.of_run(run.id).result["steps"]  # type: ignore[union-attr]
            for run in store.runs.all()
        }
        assert steps == {found.steps}
        kinds = {r[0] for r in sql_rows(store, "SELECT DISTINCT status FROM reflection WHERE run_id = 2")}
        assert kinds == {"not_asked"}

        before = [
            sql_value(store, f"SELECT count(*) FROM {table}") for table in ("generation", "run", "span_loss")
        ]
        assert asdict(ablation.work(["original", "both", "coherence"])) == asdict(found)
        after = [
            sql_value(store, f"SELECT count(*) FROM {table}") for table in ("generation", "run", "span_loss")
        ]
        assert after == before


@pytest.mark.model
def test_arms_are_compared_by_a_judge_and_by_multiple_choice_too(pair_workspace: Workspace) -> None:
    recipe = small_recipe(
        pair_workspace, 12, selection={"policy": "keep"}, training={"held_out": 0.34, "learning_rate": 0.01}
    )
    words = ["ablate", str(recipe), "--only", "original", "--judge", "tiny.F16"]
    words += ["--prompts", "recipes/eval-prompts.jsonl", "--tasks", "recipes/choice", "--eval-limit", "4"]
    done = srtui(pair_workspace, *words, "--max-tokens", "12", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["arm"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    judged, chosen = rows["original"]["judged"], rows["original"]["choice"]
    assert -0.5 <= judged["low"] <= judged["mean"] <= judged["high"] <= 0.5
    assert -1 <= chosen["low"] <= chosen["mean"] <= chosen["high"] <= 1
    assert rows["full"]["judged"] is None  # nothing is compared with itself
    with Store(pair_workspace.store_path, read_only=True) as store:
        kinds = Counter(store.evaluations.get(n).kind for row in rows.values() for n in row["evaluations"])
    assert kinds["pairwise"] == 1 and kinds["choice"] >= 2
    again = srtui(pair_workspace, *words, "--max-tokens", "12")
    assert again.returncode == 0 and "original" in again.stdout
