"""Pilots, ablations and evaluations whose models run in workers: what one process says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtui import recipe as recipes
from srtui.evaluation import multiple_choice, sources
from srtui.evaluation.contestants import find_contestant
from srtui.evaluation.evaluation_place import EvaluationPlace
from srtui.evaluation.evaluator import Evaluator
from srtui.evaluation.fingerprint import prepare, settings_of
from srtui.evaluation.judge_model import JudgeModel, load_judge_prompt
from srtui.evaluation.writing import AnswerSettings
from srtui.pipeline.ablate import Ablation
from srtui.store import Store
from srtui.store.evaluations import Judgement
from srtui.store.runs import Run
from srtui.workspace import Workspace
from tests.attack.ground import in_process
from tests.cluster.conftest import Nodes
from tests.cluster.runs import Hears
from tests.conftest import ROOT, small_recipe

pytestmark = pytest.mark.model

PROMPTS = ROOT / "recipes" / "eval-prompts.jsonl"


def twin(workspace: Workspace, root: Path) -> Workspace:
    """Another workspace with all that this one has."""
    shutil.copytree(workspace.root, root, symlinks=True)
    return Workspace(root)


def said(workspace: Workspace, *words: str) -> dict[str, Any]:
    """A command's result: the last line of its JSON, or all of it."""
    outcome = in_process(words, workspace.root, {"SRTUI_WORKSPACE": str(workspace.root)})
    assert outcome.code == 0, outcome.text
    lines = outcome.out.splitlines()
    result: dict[str, Any] = json.loads(lines[-1] if lines[-1] != "}" else outcome.out)
    return result


def test_a_pilot_says_the_same(pair_workspace: Workspace, nodes: Nodes, tmp_path: Path) -> None:
    recipe = small_recipe(pair_workspace, 8, student={"quantization": "f32"})
    other = twin(pair_workspace, tmp_path / "twin")
    pilot = ("pilot", str(recipe), "--samples", "3", "--json")
    there = said(pair_workspace, *pilot, "--on", str(nodes.address), "--workers", "1")
    here = said(other, *pilot)
    for name in (
        "samples",
        "strata",
        "targets",
        "limits",
        "kept",
        "gates",
        "at_or_over_one",
        "examples",
        "verdict",
    ):
        assert there[name] == here[name], name
    with Store(pair_workspace.store_path) as store:
        lines = [event.message for event in store.runs.events(1, 100)]
    assert any("Loaded teacher" in line for line in lines)


def test_an_ablation_measures_its_arms_in_workers(
    tuned: tuple[Workspace, Store, Run], place: Callable[..., Any], tmp_path: Path
) -> None:
    """The held-out losses of the student with an arm's adapter."""
    workspace, store, run = tuned
    adapter = workspace.root / "store" / "runs" / "tuned" / "adapter"
    other = twin(workspace, tmp_path / "twin")
    path = small_recipe(workspace, 8, student={"quantization": "f32"})
    recipe = recipes.load(path)
    texts = [v.id for v in store.corpus.variants(range(1, 9)).values()]
    with Store(other.store_path) as others:
        ways = ((workspace, store, place(workers=1)), (other, others, None))
        ablations = [Ablation(space, its, recipe, path, Hears(), place=where) for space, its, where in ways]
        for ablation in ablations:
            ablation._day = run.date
        there, here = (ablation._losses(adapter, {"original": texts}) for ablation in ablations)
    assert np.isfinite(here["original"]).all() and len(texts) == 8
    assert there["original"] == pytest.approx(here["original"], rel=1e-5)


def evaluated(
    workspace: Workspace, store: Store, place: EvaluationPlace | None
) -> tuple[list[tuple[Any, ...]], list[Judgement]]:
    """The answers of a student and of a GGUF to three prompts, and what a judge says of them, both orders."""
    source = sources.prompts(PROMPTS, 3)
    both = [find_contestant(workspace, store, name) for name in ("tuned", "tiny.F16")]
    judge = JudgeModel.find(workspace.models, "tiny.F16", load_judge_prompt("pairwise", 2), 0)
    evaluation, _ = prepare(
        store, "pairwise", source, both, judge, settings_of(AnswerSettings(max_tokens=8), 1)
    )
    sides: Any = dict(zip(("a", "b"), both, strict=True))
    done = Evaluator(store, evaluation, source, sides, judge, Hears(), place=place).work()
    assert done.state == "done"
    answers = store.evaluations.answers(done.id)
    return (
        [(*where, a.key, a.text, a.finish, a.prompt, a.new_tokens) for where, a in sorted(answers.items())],
        sorted(store.evaluations.judgements(done.id), key=lambda j: (j.item, j.ordering)),
    )


def test_contestants_and_judges_in_workers(
    tuned: tuple[Workspace, Store, Run],
    place: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(
        "srtui.cluster.cluster_evaluation.CPU_BATCH", 2
    )  # a student is given its prompts in two parts
    workspace, store, _ = tuned
    other = twin(workspace, tmp_path / "twin")
    answers, judgements = evaluated(workspace, store, place(workers=1))
    with Store(other.store_path) as others:
        same_answers, same_judgements = evaluated(other, others, None)
    assert answers == same_answers and len({text for _, _, _, _, text, *_ in answers}) > 1
    assert len(judgements) == len(same_judgements) == 6
    for there, here in zip(judgements, same_judgements, strict=True):
        assert (there.key, there.words, there.parsed) == (here.key, here.words, here.parsed)
        assert here.score_a is not None and there.score_a == pytest.approx(here.score_a, abs=1e-3)
        assert there.score_b == pytest.approx(here.score_b, abs=1e-3)


def test_multiple_choice_in_workers(
    tuned: tuple[Workspace, Store, Run], nodes: Nodes, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    workspace, store, _ = tuned
    task = ROOT / "recipes" / "choice" / "everyday.yaml"
    words = ("eval", "choice", "tuned", "--tasks", str(task), "--limit", "3", "--json")
    done = said(workspace, *words, "--on", str(nodes.address), "--workers", "1")
    assert done["result"]["judged"] == 3
    contestant = replace(find_contestant(workspace, store, "tuned"), run_id=None)
    with Store(tmp_path / "other.sqlite") as other:
        here = multiple_choice.evaluate(other, contestant, task, 3, None, Hears(), lambda: False)
        expected = [j.probabilities for j in other.evaluations.judgements(here.id)]
    there = [j.probabilities for j in store.evaluations.judgements(done["id"])]
    for mine, its in zip(there, expected, strict=True):
        assert mine is not None and its is not None
        assert mine["loglikelihoods"] == pytest.approx(its["loglikelihoods"], rel=1e-4)


def test_workers_alone_are_refused() -> None:
    for words in (["pilot", "r.toml"], ["ablate", "r.toml"], ["eval", "choice", "m", "--tasks", "t"]):
        outcome = in_process((*words, "--workers", "2"), ROOT, {})
        assert outcome.code == 2 and "--workers goes with --on" in outcome.err
