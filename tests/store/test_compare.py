"""Two runs beside each other, against the same read row by row."""

from __future__ import annotations

import json

from srtui.store import Store
from srtui.store.compare import compare_runs, decided_otherwise, held_out_of
from srtui.wording import compared_words, held_out_words
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import make_workspace
from tests.sql import sql_rows
from tests.tui.scripted_store import make_demo_store


def made(tmp_path: object) -> Workspace:
    workspace = make_workspace(tmp_path / "ws")  # type: ignore[operator]
    make_demo_store(workspace)
    return workspace


def test_what_differs_is_what_the_rows_say(tmp_path: object) -> None:
    workspace = made(tmp_path)
    with Store(workspace.store_path, read_only=True) as store:
        a, b = store.runs.named("quickstart").id, store.runs.named("another-seed").id
        compared, found = compare_runs(store.conn, a, b), decided_otherwise(store.conn, a, b)
        samples = [set(store.runs.sample_ids(run)) for run in (a, b)]
        chosen = [
            {(r[0], r[1]): r[2] for r in sql_rows(
                store, f"SELECT sample_id, stage, chosen_id FROM decision WHERE run_id = {run}")}
            for run in (a, b)
        ]  # fmt: skip
        kept = [
            dict(
                tuple(r) for r in sql_rows(store, f"SELECT sample_id, kept FROM outcome WHERE run_id = {run}")
            )
            for run in (a, b)
        ]
        held = [
            {
                r[0]
                for r in sql_rows(
                    store, f"SELECT sample_id FROM run_sample WHERE run_id = {run} AND held_out"
                )
            }
            for run in (a, b)
        ]
        mine = held_out_of(store.conn, a, a)
    shared = samples[0] & samples[1]
    assert (compared.shared, compared.only_a) == (len(shared), len(samples[0] - samples[1]))
    wanted = {(i, s) for (i, s), v in chosen[0].items() if chosen[1].get((i, s), v) != v}
    wanted |= {(i, "outcome") for i, k in kept[0].items() if kept[1].get(i, k) != k}
    assert {(d.sample, d.stage) for d in found} == wanted
    assert sum(compared.otherwise.values()) == len(wanted) == len(found)
    assert compared.kept_a == sum(kept[0][i] for i in shared if i in kept[0])
    assert compared.held_out == (len(held[0] & held[1]), len(held[0] - held[1]), len(held[1] - held[0]))
    assert mine.same == bool(held[0])
    assert {d.key for d in compared.recipe} >= {"seed"}
    assert any("seed: " in line for line in compared_words(compared))


def test_the_command_says_it_and_refuses_what_is_not_there(tmp_path: object) -> None:
    workspace = made(tmp_path)
    said = srtui(workspace, "diff", "quickstart", "another-seed", "--limit", "3")
    assert said.returncode == 0, said.stderr
    assert "A is quickstart, B is another-seed" in said.stdout
    whole = json.loads(srtui(workspace, "diff", "quickstart", "another-seed", "--json").stdout)
    assert whole["type"] == "diff"
    assert len(whole["samples"]) <= 20
    alone = srtui(workspace, "diff", "quickstart", "quickstart").stdout
    assert "recipes are the same" in alone
    assert srtui(workspace, "diff", "quickstart", "nothing").returncode == 2


def test_losses_on_other_samples_are_not_said_to_compare() -> None:
    from srtui.store.compare import HeldOut

    assert "do not compare" in held_out_words(HeldOut(3, 1, 0))
    assert "losses compare" in held_out_words(HeldOut(3, 0, 0))
    assert "no losses" in held_out_words(HeldOut(0, 0, 0))
