"""Gates in a run: a stopped rewrite is stored with its reason, counted, and not compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui.pipeline import import_file
from srtui.pipeline.gate_trial import try_gates
from srtui.pipeline.rederive import faults
from srtui.report.facts import gather
from srtui.store import Store
from srtui.store.summary import summarise
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import small_recipe

BAD = "The new instruction asks for a better answer."
GOOD = "Three fruits grow in this garden, and all of them on trees."


@pytest.fixture
def rewritten(pair_workspace: Workspace, tmp_path: Path) -> Workspace:
    """Six samples with a rewritten answer each; every other one talks about the task."""
    small_recipe(pair_workspace, 6)
    data = pair_workspace.recipes / "small.jsonl"
    rewrites = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for n, row in enumerate(rewrites):
        row["output"] = f"{BAD if n % 2 else GOOD} ({n})"
    file = tmp_path / "rewrites.json"
    file.write_text(json.dumps(rewrites), encoding="utf-8")
    with Store(pair_workspace.store_path) as store:
        import_file(store, data, "small")
        import_file(store, file, "small", as_variant="response_reflected")
    return pair_workspace


def run(workspace: Workspace, **gates: object) -> None:
    recipe = small_recipe(
        workspace,
        6,
        reflection={"source": "store"},
        selection={"instruction_by": "original", "response_by": "reflected", "policy": "all"},
        training={"enabled": False},
        gates=gates,
    )
    srtui(workspace, "run", str(recipe))


def test_a_gated_rewrite_is_recorded_and_not_compared(rewritten: Workspace) -> None:
    run(rewritten, about_the_task=True, cut_off=True)
    with Store(rewritten.store_path, read_only=True) as store:
        this = store.runs.named("small")
        summary = summarise(store, this.id)
        assert summary.gated == {"instruction": {}, "response": {"about_the_task": 3}}
        assert (summary.accepted["response"].choices, summary.accepted["response"].taken) == (3, 3)
        assert summary.reflections["response"].parsed == 6  # the teacher's work is counted as it was
        for n, sample in enumerate(store.runs.sample_ids(this.id)):
            decision = store.decisions.of_sample(this.id, sample)["response"]
            chosen = store.corpus.variants([decision.chosen_id])[decision.chosen_id]
            gated = store.decisions.gated_of(this.id, sample)
            assert bool(decision.reflected) == (n % 2 == 0)
            assert chosen.pair.response.startswith(GOOD) == (n % 2 == 0)
            assert [one.gate for one in gated.get("response", [])] == ["about_the_task"] * (n % 2)
            if n % 2:
                assert len(decision.compared) == 1
                assert decision.reason.endswith(
                    'no rewrite of it to compare: talk about the task: the new answer says "The new instruction"'
                )
        assert any(
            "talk about the task" in step.why_not for step in gather(store, rewritten.root, this.id).flow
        )
        assert not list(faults(store))  # the counts of gated rewrites are those of the rows
    printed = srtui(rewritten, "status", "small").stdout
    assert "new answers stopped by gates" in printed
    assert "3 rewrites, not compared: 3 talk about the task" in " ".join(printed.split())
    shown = json.loads(srtui(rewritten, "show", "2", "--json").stdout)
    assert shown["runs"]["small"]["gated"]["response"][0]["gate"] == "about_the_task"


def test_without_gates_every_rewrite_is_compared_and_a_trial_says_what_they_would_stop(
    rewritten: Workspace,
) -> None:
    run(rewritten)
    with Store(rewritten.store_path, read_only=True) as store:
        this = store.runs.named("small")
        assert summarise(store, this.id).gated == {"instruction": {}, "response": {}}
        assert summarise(store, this.id).accepted["response"].taken == 6
        trials = try_gates(store, this, examples=2)
        assert (trials.rewrites, trials.taken, trials.any_stopped, trials.any_taken) == (6, 6, 3, 3)
    printed = json.loads(srtui(rewritten, "data", "gates", "small", "--json").stdout)
    by_gate = {gate["gate"]: gate for gate in printed["gates"]}
    assert (by_gate["about_the_task"]["stopped"], by_gate["about_the_task"]["taken"]) == (3, 3)
    assert by_gate["refusal"]["stopped"] == 0
    assert "All together stop 3 of 6 rewrites" in " ".join(
        srtui(rewritten, "data", "gates", "small").stdout.split()
    )
