"""Runs that choose by the measures beyond the paper's, from the recipe to decisions that `db check` derives again."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtui.evaluation.rater import Rater
from srtui.measures import MEASURES, length_line
from srtui.pipeline import prepare
from srtui.pipeline.choose import Choosing
from srtui.pipeline.context import Context
from srtui.pipeline.watch import Watch
from srtui.recipe import load
from srtui.recipe.measure_weights import MeasureWeights
from srtui.sample import Pair
from srtui.selection import ScoredText
from srtui.store import Store
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import small_recipe
from tests.sql import sql_rows, sql_value

pytestmark = pytest.mark.model


class Quiet:
    def progress(self, progress: object) -> None: ...

    def event(self, level: str, message: str) -> None: ...


def chosen(
    workspace: Workspace,
    name: str,
    gates: dict[str, object] | None = None,
    candidates: int = 1,
    **selection: Any,
) -> list[dict[str, Any]]:
    """Run it without training; its decisions of answers with what was compared."""
    recipe = small_recipe(
        workspace,
        6,
        training={"enabled": False},
        selection={"policy": "keep", "response_by": "rifd"} | selection,
        gates=gates or {},
        reflection={"candidates": candidates},
    )
    text = recipe.read_text().replace('name = "small"', f'name = "{name}"')
    recipe.write_text(text)
    done = srtui(workspace, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    with Store(workspace.store_path) as store:
        run = store.runs.named(name)
        rows = sql_rows(
            store,
            "SELECT * FROM decision WHERE run_id = ? AND stage = 'response' ORDER BY sample_id",
            (run.id,),
        )
        return [dict(r) | {"compared": json.loads(r["compared"])} for r in rows]


def test_each_new_measure_decides(pair_workspace: Workspace) -> None:
    """By the highest value, and what it is follows from the losses; length control takes a line out of it."""
    found = {
        name: chosen(pair_workspace, name, None, n, response_by=name, instruction_by=name)
        for name, n in (("likelihood", 3), ("s-ifd", 1))
    }
    # Best of n: each candidate that differs is compared.
    assert max(len(d["compared"]) for d in found["likelihood"]) > 2
    plain = chosen(pair_workspace, "plain", response_by="ifd")
    level = chosen(pair_workspace, "level", response_by="ifd", length_control=True)
    for decisions in (*found.values(), plain, level):
        assert len(decisions) == 6
        for d in decisions:
            (before, first, _), *others = d["compared"]
            values = [v for _, v, _ in others if v is not None]
            if values and first is not None:
                assert bool(d["reflected"]) == (max(values) > first)
            assert d["chosen_id"] != before or not d["reflected"]
    compared = [one for d in found["likelihood"] for one in d["compared"] if one[1] is not None]
    with Store(pair_workspace.store_path) as store:
        for variant, value, _ in compared:
            mean = sql_value(
                store,
                "SELECT l.nll / l.tokens FROM score s JOIN span_loss l ON l.key = s.conditional_key "
                "WHERE s.metric = 'ifd' AND s.variant_id = ?",
                (variant,),
            )
            assert value == pytest.approx(-mean)
        lengths = {r["id"]: len(r["response"]) for r in sql_rows(store, "SELECT id, response FROM variant")}
        originals = sql_rows(
            store,
            "SELECT v.id, s.value FROM variant v JOIN score s ON s.variant_id = v.id WHERE v.kind = 'original' "
            "AND s.metric = 'ifd'",
        )
    assert compared and any("at equal length" in d["reason"] for d in level)
    line = length_line([(math.log(r["value"]), lengths[r["id"]]) for r in originals])
    assert not isinstance(line, str)
    by_ifd = {v: value for d in plain for v, value, _ in d["compared"]}
    same = [
        (residual, line.residual(math.log(by_ifd[v]), lengths[v]))
        for d in level
        for v, residual, _ in d["compared"]
        if residual is not None and by_ifd.get(v) is not None
    ]
    assert same
    for residual, expected in same:
        assert residual == pytest.approx(expected, abs=1e-6)
    check = srtui(pair_workspace, "db", "check", "--deep")
    assert check.returncode == 0, check.stdout + check.stderr


def test_length_is_taken_out_of_every_measure(pair_workspace: Workspace) -> None:
    """Of whatever source: what is left is the residual from numpy's line through the originals' levels."""
    recipe = small_recipe(
        pair_workspace,
        6,
        training={"enabled": False},
        reflection={"source": "store"},
        selection={"rater": "tiny.F16"},
    )
    with Store(pair_workspace.store_path) as store:
        run, _ = prepare(pair_workspace, store, load(recipe), recipe)
        watch = Watch(store, run.id, Quiet(), lambda: False)
        context = Context(pair_workspace, store, run, watch)
        scorer = context.variant_scorer()
        setting = store.scores.setting_by_id(scorer.setting_id)
        assert setting is not None
        weights = MeasureWeights(
            student=setting.student, student_id=setting.student_id, template=setting.template,
            template_version=setting.template_version, protocol=scorer.protocol, data="none", data_digest="",
            pairs=50, accuracy=(0.5, 0.4, 0.6), length_accuracy=(0.5, 0.4, 0.6),
            weights={"length": 0.3, "ifd": 1.0, "likelihood": -0.5}, rater=None,
        )  # fmt: skip
        context.recipe = context.recipe.model_copy(
            update={"selection": context.recipe.selection.model_copy(update={"weights": weights})}
        )
        originals = store.corpus.original_ids(run.id)
        logs = [math.log(len(v.pair.response)) for v in store.corpus.variants(originals).values()]
        for name, measure in MEASURES.items():
            if measure.source in ("draw", "encoder"):
                continue  # random has no length in it; coherence needs a model that is not here
            choosing = Choosing(context)
            values = [v for v, _ in choosing._values(measure, "response", originals, lambda share: None)]
            assert None not in values, name
            levels = [measure.level(v) for v in values if v is not None]
            slope, offset = np.polyfit(logs, levels, 1)
            scored = {i: ScoredText(i, v) for i, v in zip(originals, values, strict=True)}
            left = choosing._at_length(measure, "response", scored, lambda share: None)
            expected = [level - offset - slope * x for level, x in zip(levels, logs, strict=True)]
            assert [left[i].score for i in originals] == pytest.approx(expected, abs=1e-6), name
            assert np.corrcoef(expected, logs)[0, 1] == pytest.approx(0, abs=1e-6)
        context.unload_students()


def known_pairs(workspace: Workspace, count: int) -> Path:
    words = ["about", "other", "which", "there", "their", "would", "these", "people", "first", "water"]
    draws = random.Random(1)
    rows = []
    for n in range(count):
        first, second = (" ".join(draws.choices(words, k=draws.randrange(3, 9))) for _ in range(2))
        rows.append(
            {
                "instruction": f"Say {n}.",
                "answer_1": first,
                "answer_2": second,
                "preference": 1 + (len(second) > len(first)),
            }
        )
    path = workspace.root / "known.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def test_a_combination_is_fitted_and_chosen_by(pair_workspace: Workspace) -> None:
    file = known_pairs(pair_workspace, 60)
    words = ("choose", "calibrate", str(file), "--student", "tiny", "--fit", "recipes/weights.json")
    fitted = srtui(pair_workspace, *words)
    assert fitted.returncode == 0, fitted.stderr
    weights = json.loads((pair_workspace.recipes / "weights.json").read_text(encoding="utf-8"))
    assert weights["pairs"] == 60 and weights["weights"]["length"] > 0
    decisions = chosen(pair_workspace, "combined", response_by="combined", weights="weights.json")
    assert any(one[1] is not None for d in decisions for one in d["compared"])
    assert any("the combination" in d["reason"] for d in decisions)
    # Weights that no sum can hold give no value, and what has none is not taken.
    edited = weights | {"weights": dict.fromkeys(weights["weights"], 1e308)}
    (pair_workspace.recipes / "edited.json").write_text(json.dumps(edited), encoding="utf-8")
    by_edited = chosen(pair_workspace, "edited", response_by="combined", weights="edited.json")
    assert {why for d in by_edited for _, value, why in d["compared"] if value is None} == {"non_finite"}
    # Weights of another student are refused before anything is chosen by them.
    other = pair_workspace.recipes / "weights.json"
    other.write_text(json.dumps(weights | {"student_id": "another"}), encoding="utf-8")
    recipe = small_recipe(
        pair_workspace,
        6,
        training={"enabled": False},
        selection={"response_by": "combined", "weights": "weights.json"},
    )
    refused = srtui(pair_workspace, "run", str(recipe))
    assert refused.returncode == 2 and "fit them anew" in refused.stderr
    missing = small_recipe(pair_workspace, 6, selection={"response_by": "combined"})
    refused = srtui(pair_workspace, "run", str(missing))
    assert refused.returncode == 2 and "needs selection.weights" in refused.stderr


def test_a_rater_chooses_and_stops(pair_workspace: Workspace) -> None:
    """By its expected score; and as a gate, what it prefers the old answer to is not compared, and counted."""
    pair = Pair("Say it.", "", "about other which")
    with Store(pair_workspace.store_path) as store:
        rater = Rater(store, pair_workspace.models, "tiny.F16")
        (score, _), (blank, why) = rater.scores([pair, Pair("Say it.", "", " ")])
        assert score is not None and 1 < score < 10 and blank is None and why
        (ahead, _), (behind, _), (equal, _) = rater.preferences(
            [
                (pair, "there their"),
                (pair._replace(response="there their"), pair.response),
                (pair, pair.response),
            ]
        )
        assert ahead is not None and behind is not None
        assert ahead + behind == pytest.approx(1.0) and ahead != 0.5 and equal == pytest.approx(0.5)
        assert rater.known_preferences([(pair, "there their"), (pair, "never asked")]) == [ahead, None]
        ratings = sql_value(store, "SELECT count(*) FROM rating")
        assert rater.scores([pair]) == [(score, None)]
        assert sql_value(store, "SELECT count(*) FROM rating") == ratings
    decisions = chosen(
        pair_workspace, "rated", {"rater": True}, response_by="teacher-score", rater="tiny.F16"
    )
    values = [v for d in decisions for _, v, _ in d["compared"] if v is not None]
    assert all(1 <= v <= 10 for v in values)
    with Store(pair_workspace.store_path) as store:
        run = store.runs.named("rated")
        gated = sql_rows(store, "SELECT * FROM gated WHERE run_id = ?", (run.id,))
        for row in gated:
            assert row["gate"] == "rater" and "prefers the old answer" in row["reason"]
        rewrites = dict(store.generations.first_candidates(run.id, "response"))
        through = {v for d in decisions for v, *_ in d["compared"][1:]}
        assert through.isdisjoint(r["variant_id"] for r in gated)
        assert len(through) + len(gated) == len(rewrites) > 0
    summary = json.loads(srtui(pair_workspace, "status", "rated", "--json").stdout)
    assert sum(summary["gated"]["response"].values()) == len(gated)
    # A rater that chose does not confirm itself; beside the student it is a second chooser of every pair.
    chosen(pair_workspace, "beside", {"rater": True}, rater="tiny.F16")
    for name, said in (("rated", {"nobody asked"}), ("beside", {"yes", "no"})):
        exported = srtui(pair_workspace, "export", name, "--format", "preference", "--out", "-")
        agreed = {json.loads(line)["agreed"] for line in exported.stdout.splitlines()}
        assert agreed <= said and bool(agreed) == (exported.returncode == 0)
    check = srtui(pair_workspace, "db", "check", "--deep")
    assert check.returncode == 0, check.stdout + check.stderr
