"""A pilot end to end, with the tiny pair: what it says is so, and the run does none of its work again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srtui import recipe as recipes
from srtui.pilot.result import PilotResult
from srtui.pipeline.pilot_history import corrected, forecast_outcomes
from srtui.store import Store
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import make_workspace, small_recipe
from tests.sql import sql_rows, sql_value

pytestmark = pytest.mark.model
ROWS, DRAWN = 30, 10


@pytest.fixture(scope="module")
def piloted(
    tmp_path_factory: pytest.TempPathFactory, pair_folder: Path
) -> tuple[Workspace, Path, dict[str, Any]]:
    """A pilot of ten of thirty samples, from the command line."""
    workspace = make_workspace(tmp_path_factory.mktemp("piloted") / "ws", pair_folder)
    recipe = small_recipe(workspace, ROWS)
    done = srtui(workspace, "pilot", str(recipe), "--samples", str(DRAWN), "--json")
    assert done.returncode == 0, done.stderr
    return workspace, recipe, json.loads(done.stdout.splitlines()[-1])


def test_what_it_says_is_what_the_store_holds(piloted: tuple[Workspace, Path, dict[str, Any]]) -> None:
    workspace, _, said = piloted
    assert (said["type"], said["run"], said["samples"], said["of"]) == ("pilot", "small.pilot", DRAWN, ROWS)
    assert sum(s["chosen"] for s in said["strata"]) == DRAWN
    assert sum(s["of"] for s in said["strata"]) == ROWS
    with Store(workspace.store_path, read_only=True) as store:
        run = store.runs.named("small.pilot")
        for target in ("instruction", "response"):
            t = said["targets"][target]
            assert t["asked"] == DRAWN == t["first_try"] + t["after_retries"] + sum(t["failed"].values())
            cut = sql_value(
                store,
                "SELECT count(DISTINCT v.sample_id) FROM generation g JOIN variant v ON v.id = g.parent_variant_id "
                f"WHERE g.stage = '{target}' AND g.attempt = 1 AND EXISTS (SELECT 1 FROM json_each(g.segments) s "
                "WHERE json_extract(s.value, '$[0]') <> 'critique' AND json_extract(s.value, '$[1]') = 'length')",
            )
            assert round(t["cut"]["value"] * DRAWN) == cut
        kept = sql_value(store, f"SELECT count(*) FROM outcome WHERE run_id = {run.id} AND kept = 1")
        assert round(said["kept"]["value"] * DRAWN) == kept
        assert store.training.of_run(run.id) is None
        assert PilotResult.from_json(store.runs.pilot(run.id) or {}).samples == DRAWN
        assert store.check() == []
    limits = {limit["key"]: limit for limit in said["limits"]}
    assert limits["reflection.answer_tokens"]["now"] == 56
    assert 0 < len(said["examples"]) <= 8
    assert said["verdict"]["word"] in ("go", "change", "worse")
    forecast = said["forecast"]
    assert forecast["left"] == ROWS - DRAWN
    for name in ("total", "disk"):
        e = forecast[name]
        assert 0 < e["low"] <= e["value"] <= e["high"]
    assert 0 < forecast["fixed"] < forecast["total"]["low"]
    assert forecast["training"]["value"] is None  # nothing was trained here: there is no guess
    assert forecast["memory"] > 100e6
    assert forecast["past"] == []
    answers = said["targets"]["response"]
    with Store(workspace.store_path, read_only=True) as store:
        ratings = sql_value(store, "SELECT count(*) FROM rating")
    assert (ratings > 0) == (answers["first_try"] + answers["after_retries"] > 0)
    assert said["own_rating"]["n"] <= answers["first_try"] + answers["after_retries"]


def test_the_run_computes_none_of_it_again(piloted: tuple[Workspace, Path, dict[str, Any]]) -> None:
    workspace, recipe, said = piloted
    with Store(workspace.store_path, read_only=True) as store:
        before = {bytes(r[0]) for r in sql_rows(store, "SELECT key FROM generation")}
        losses = sql_value(store, "SELECT count(*) FROM span_loss")
        sample_ids = store.runs.sample_ids(store.runs.named("small.pilot").id)
    assert losses
    done = srtui(workspace, "run", str(recipe), "--json", "--set", "training.enabled=false")
    assert done.returncode == 0, done.stderr
    assert (
        json.loads(done.stdout.splitlines()[-1])["stages"]["reflect-instruction"]["detail"]["reused"] == DRAWN
    )
    with Store(workspace.store_path, read_only=True) as store:
        run = store.runs.named("small")
        assert run.date == store.runs.named("small.pilot").date
        marks = ",".join(map(str, sample_ids))
        asked = {
            bytes(r[0])
            for r in sql_rows(
                store,
                "SELECT g.key FROM generation g JOIN variant v ON v.id = g.parent_variant_id "
                f"WHERE v.sample_id IN ({marks})",
            )
        }
        assert asked == before  # of the pilot's samples, the run has asked nothing new
        decided = [
            {(r[0], r[1]): r[2] for r in sql_rows(
                store, f"SELECT sample_id, stage, chosen_id FROM decision WHERE run_id = {store.runs.named(name).id} "
                f"AND sample_id IN ({marks})")}
            for name in ("small.pilot", "small")
        ]  # fmt: skip
        assert decided[0] == decided[1] != {}
        # What it took beside the forecast is known from then on, and corrects the next one.
        (outcome,) = forecast_outcomes(store, said["teacher"], said["student"])
        took = sum(s.seconds for s in store.runs.stages(run.id).values())
        assert outcome.off == pytest.approx(took / said["forecast"]["total"]["value"] - 1)
        assert forecast_outcomes(store, said["teacher"], "another") == []
        stored_pilot = store.runs.pilot(store.runs.named("small.pilot").id)
    forecast = PilotResult.from_json(stored_pilot or {}).forecast
    later = corrected(forecast, [outcome])
    assert later.total["value"] == pytest.approx(took) and later.past == [outcome.off]
    assert corrected(forecast, []) == forecast


def test_asked_again_it_reads_its_result(piloted: tuple[Workspace, Path, dict[str, Any]]) -> None:
    workspace, recipe, said = piloted
    again = srtui(workspace, "pilot", str(recipe), "--samples", str(DRAWN), "--json")
    assert json.loads(again.stdout.splitlines()[-1]) == said
    printed = srtui(workspace, "pilot", str(recipe), "--samples", str(DRAWN)).stdout
    words = " ".join(printed.split())
    assert "example 1 of" in words
    assert said["verdict"]["sentence"] in words
    assert f"srtui run {recipe}" in words
    for word in said["verdict"]["set"]:
        assert f"--set {word}" in words
        recipes.load(recipe, [word])  # the advice can be taken


def test_a_recipe_that_sets_it_itself_is_refused(tmp_path: Path, pair_folder: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", pair_folder)
    done = srtui(workspace, "pilot", str(small_recipe(workspace)), "--set", "pilot=3")
    assert done.returncode == 2
    assert "srtui pilot sets it itself" in done.stderr
