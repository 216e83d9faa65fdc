"""Which question a comparison answers, and who judges whom."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from srtui import models
from srtui import recipe as recipes
from srtui.evaluation.contestants import Contestant, same_weights
from srtui.evaluation.question import compares_with_control, differences, question_of
from srtui.pipeline.prepare import prepare
from srtui.store import Store
from srtui.store.evaluations import NewEvaluation
from srtui.store.runs import Run
from srtui.workspace import Workspace
from tests.conftest import small_recipe

ORIGINAL = {"policy": "all", "instruction_by": "original", "response_by": "original"}


def ask(
    store: Store, a: tuple[Run | None, bool], b: tuple[Run | None, bool], kind: Any = "pairwise"
) -> str | None:
    def identity(is_tuned: bool) -> dict[str, Any]:
        return {"adapter": "adapter" if is_tuned else None}

    new = NewEvaluation(
        kind, f"{a} {b} {kind}", "A", identity(a[1]), "p", "s", {}, "B", identity(b[1]),
        a[0].id if a[0] else None, b[0].id if b[0] else None,
    )  # fmt: skip
    return question_of(store, store.evaluations.prepare(new)[0])


@pytest.fixture
def runs(workspace: Workspace) -> Any:
    def make(store: Store, name: str, **sections: dict[str, object]) -> Run:
        path = small_recipe(workspace, **sections)
        what = recipes.load(path).model_copy(update={"name": name})
        return prepare(workspace, store, what, path)[0]

    with Store(workspace.store_path) as store:
        yield store, make


def test_each_comparison_says_what_it_asks(runs: Any) -> None:
    store, make = runs
    full, original = make(store, "full"), make(store, "full.original", selection=ORIGINAL)
    random = make(store, "full.random", selection={"instruction_by": "random", "response_by": "random"})
    other = make(store, "other", training={"learning_rate": 0.5})
    base = ask(store, (full, True), (full, False))
    assert base is not None and "nearly any finetuning does" in base and "--only original" in base
    control = ask(store, (full, True), (original, True))
    assert control is not None and "the control that says whether the method helped" in control
    assert ask(store, (original, True), (full, True)) == control
    both: Any = NewEvaluation(
        "pairwise", "c", "A", {"adapter": "x"}, "p", "s", {}, "B", {"adapter": "x"}, full.id, original.id
    )
    evaluation, _ = store.evaluations.prepare(both)
    assert compares_with_control(store, evaluation)
    assert not compares_with_control(store, dataclasses.replace(evaluation, identity_b={"adapter": None}))
    assert not compares_with_control(store, dataclasses.replace(evaluation, run_b_id=random.id))
    assert "another way to choose is worth" in str(ask(store, (full, True), (random, True)))
    assert "differ in training.learning_rate, so" in str(ask(store, (full, True), (other, True)))
    assert "differ in nothing that trains" in str(ask(store, (full, True), (full, True)))
    assert "does not say what made" in str(ask(store, (full, True), (None, False)))
    assert "how often A is preferred to B" in str(ask(store, (full, True), (None, False), "winrate"))
    assert ask(store, (full, True), (None, False), "turns") is None


def test_the_control_trains_as_long(runs: Any) -> None:
    store, make = runs
    full, original = make(store, "full"), make(store, "full.original", selection=ORIGINAL)
    for run, steps in ((full, 10), (original, 40)):
        store.training.start(run.id, 5, steps)
    found = ask(store, (full, True), (original, True))
    assert found is not None and "training.steps" in found and "the control" not in found
    assert differences(full.recipe, full.recipe) == []


def test_a_judge_that_is_the_teacher_is_named(
    runs: Any, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    store, make = runs
    run = make(store, "tuned")
    monkeypatch.setattr(models, "resolve_teacher", lambda folder, name: Path(name))
    monkeypatch.setattr(models, "file_sha256", lambda path: f"sha of {path}")
    teacher = f"sha of {run.recipe['teacher']['model']}"
    tuned = Contestant("tuned", "student", Path("m"), "m", adapter=Path("a"), run_id=run.id)
    base = Contestant("base:tuned", "student", Path("m"), "m", run_id=run.id)
    [said] = same_weights(workspace, store, "J", teacher, [tuned, base])
    assert "J is the teacher of tuned" in said
    [said] = same_weights(workspace, store, "J", "m", [base])
    assert "J is base:tuned itself" in said
    assert same_weights(workspace, store, "J", "another", [tuned, base]) == []
