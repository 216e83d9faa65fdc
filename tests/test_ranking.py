"""The best are ranked by the scores of one student; a proxy's stand beside them and are never mixed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from srtui.pipeline.ranking import score_what_is_ranked, trained_on
from srtui.recipe import Recipe, parse
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.imports import NewRow
from srtui.store.scores import StoredScore
from srtui.workspace import Workspace
from tests.sql import sql_rows

# By sample: the proxy finds all of them far better than the student does, and in the other order.
PROXY = {1: 0.99, 2: 0.98, 3: 0.97, 4: 0.96}
STUDENT = {1: 0.10, 2: 0.20, 3: 0.30, 4: 0.40}


def score(variant: int, value: float, metric: str = "ifd") -> StoredScore:
    return StoredScore(variant, metric, None, None, value, None)


class Student:
    """A scorer whose losses are known; what it scores is stored as a real one's is."""

    def __init__(self, store: Store, setting: int) -> None:
        self.store, self.setting_id, self.scored = store, setting, []  # type: ignore[var-annotated]

    def scores(self, ids: Iterable[int], metric: str) -> dict[int, Any]:
        return self.store.scores.of_variants(ids, self.setting_id, metric)

    def score(
        self, ids: Iterable[int], metric: str, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[int, float]]:
        missing = [i for i in ids if i not in self.scores([i], metric)]
        self.scored += missing
        self.store.scores.add(self.setting_id, [score(i, STUDENT[i], metric) for i in missing])
        yield len(missing), 1.0


@pytest.fixture
def run(workspace: Workspace) -> tuple[Store, int, Student]:
    """Four kept samples; the proxy alone decided 1 and 2, the student 3 and 4."""
    store = Store(workspace.store_path)
    store.imports.add_samples(
        "d", "f", "sha", "alpaca", [NewRow(n, Pair(f"i {n}", "", "r"), "{}") for n in range(4)]
    )
    recipe = parse({"name": "r", "dataset": "d", "selection": {"top_count": 2}}, "test")
    run_id = store.runs.create(
        "r", 1, "r.toml", recipe.model_dump_json(), "f", [(i, False) for i in range(1, 5)]
    ).id
    proxy = store.scores.setting("small", "small", "nf4", "alpaca", "default", 64)
    student = store.scores.setting("big", "big", "nf4", "alpaca", "default", 64)
    store.runs.update(run_id, setting_id=student)
    store.scores.add(proxy, [score(i, v) for i, v in PROXY.items()])
    store.scores.add(student, [score(i, STUDENT[i]) for i in (3, 4)])
    with store.transaction():
        for i in range(1, 5):
            value, setting = (PROXY[i], proxy) if i < 3 else (STUDENT[i], student)
            store.decisions.add_outcome(run_id, i, i, True, "selected", value, 0.5, setting)
    return store, run_id, Student(store, student)


def test_a_proxys_score_never_outranks_the_students(run: tuple[Store, int, Student]) -> None:
    store, run_id, _ = run
    assert [s for s, _ in trained_on(store, store.runs.get(run_id))] == [3, 4]
    assert [r[1] for r in store.decisions.selected_scores(run_id)] == [None, None, 0.30, 0.40]


def test_what_is_ranked_is_scored_by_the_student_first(run: tuple[Store, int, Student]) -> None:
    store, run_id, student = run
    STUDENT[1] = 0.9
    logged: list[str] = []
    watch = SimpleNamespace(
        event=lambda level, message: logged.append(message),
        should_stop=lambda: False,
        raise_if_stopped=lambda: None,
    )
    this = store.runs.get(run_id)
    context = SimpleNamespace(
        store=store,
        run=this,
        recipe=Recipe.model_validate(this.recipe),
        watch=watch,
        variant_scorer=lambda: student,
    )
    score_what_is_ranked(context)  # type: ignore[arg-type]
    assert student.scored == [1, 2]
    assert logged == ["The student scores 2 texts that are ranked and that only a proxy has scored."]
    assert [s for s, _ in trained_on(store, this)] == [1, 4]
    score_what_is_ranked(context)  # type: ignore[arg-type]
    assert student.scored == [1, 2]
    STUDENT[1] = 0.1


def test_an_outcome_says_whose_its_scores_are(run: tuple[Store, int, Student]) -> None:
    store, run_id, student = run
    found = [
        r[0]
        for r in sql_rows(
            store, "SELECT setting_id FROM outcome WHERE run_id = ? ORDER BY sample_id", (run_id,)
        )
    ]
    assert found[2:] == [student.setting_id] * 2
    assert student.setting_id not in found[:2]


def test_a_run_that_resumes_with_another_student_is_scored_again(run: tuple[Store, int, Student]) -> None:
    """A student with another name is another way of scoring: nothing of the old one stays among the new."""
    from srtui.pipeline.context import Context

    store, run_id, student = run
    renamed = Student(store, store.scores.setting("big", "big:cpu", "nf4", "alpaca", "default", 64))
    logged: list[str] = []
    watch = SimpleNamespace(
        event=lambda level, message: logged.append(message),
        should_stop=lambda: False,
        raise_if_stopped=lambda: None,
    )
    context = Context.__new__(Context)
    context.store, context.run, context.watch = store, store.runs.get(run_id), watch  # type: ignore[assignment]
    context.recipe, context._variant_scorer = Recipe.model_validate(context.run.recipe), None
    context._load = lambda name, quantization: renamed  # type: ignore[assignment, method-assign, return-value]
    assert context.variant_scorer() is renamed  # type: ignore[comparison-overlap]
    assert renamed.scored == [3, 4]
    assert "2 texts are scored again" in logged[0]
    assert store.runs.get(run_id).setting_id == renamed.setting_id
    assert store.scores.of_variants([3, 4], renamed.setting_id, "ifd") == {3: (0.30, None), 4: (0.40, None)}
    assert store.scores.of_variants([3, 4], student.setting_id, "ifd") == {3: (0.30, None), 4: (0.40, None)}
