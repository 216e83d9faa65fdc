"""Overruling leads somewhere: a run is trained again with a person's choices, and nothing else is done again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui.pipeline.ranking import trained_on
from srtui.store import Store
from tests.commands import srtui
from tests.conftest import make_workspace, small_recipe
from tests.sql import sql_value

pytestmark = pytest.mark.model


def test_it_trains_on_what_was_taken_and_reuses_all_else(tmp_path: Path, pair_folder: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", pair_folder)
    done = srtui(workspace, "run", str(small_recipe(workspace)), "--json", "--set", "selection.policy=all")
    assert done.returncode == 0, done.stderr
    refused = srtui(workspace, "retrain", "small")
    assert refused.returncode == 2
    assert "Nothing was overruled" in refused.stderr
    with Store(workspace.store_path) as store:
        run = store.runs.named("small")
        sample, chosen = next(iter(trained_on(store, run)))
        others = [v.id for v in store.corpus.variants_of(sample) if v.id != chosen]
        assert others, "the teacher rewrote nothing of this sample"
        store.marks.overrule(run.id, sample, others[0])
        rows = [sql_value(store, f"SELECT count(*) FROM {t}") for t in ("generation", "score", "span_loss")]
    again = srtui(workspace, "retrain", "small", "--json")
    assert again.returncode == 0, again.stderr
    figures = json.loads(again.stdout.splitlines()[-1])
    assert (figures["run"], figures["overruled"], figures["training"]["status"]) == ("small-2", 1, "done")
    for stage in ("reflect-instruction", "choose-instruction"):
        assert figures["stages"][stage]["detail"]["reused"] == 6
    with Store(workspace.store_path, read_only=True) as store:
        run, second = store.runs.named("small"), store.runs.named("small-2")
        assert dict(trained_on(store, second))[sample] == others[0]
        assert store.decisions.held_out(second.id) == store.decisions.held_out(run.id)
        assert rows == [
            sql_value(store, f"SELECT count(*) FROM {t}") for t in ("generation", "score", "span_loss")
        ]
    assert (
        json.loads(srtui(workspace, "retrain", "small", "--json").stdout.splitlines()[-1])["run"] == "small-2"
    )
