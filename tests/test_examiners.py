"""Arms compared by a judge and by multiple choice: the figures, from scripted answers and verdicts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from srtui import recipe as recipes
from srtui.cli import app
from srtui.evaluation import multiple_choice, sources
from srtui.evaluation.contestants import Contestant
from srtui.evaluation.judge_model import SCORES, JudgeModel, JudgeQuestion, JudgeScores, load_judge_prompt
from srtui.evaluation.writing import AnswerSettings
from srtui.pipeline import examiners
from srtui.pipeline.ablate import ArmResult
from srtui.pipeline.prepare import prepare
from srtui.store import Store
from srtui.store.evaluations import Item, Judgement, NewEvaluation
from tests.conftest import make_workspace, small_recipe


class Quiet:
    def progress(self, progress: object) -> None: ...

    def event(self, level: str, message: str) -> None: ...


@dataclasses.dataclass(frozen=True)
class LikesLength(JudgeModel):
    """A judge that gives an answer a point for each character, up to ten."""

    def scores(
        self, questions: Sequence[JudgeQuestion], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[JudgeQuestion, JudgeScores | str, float, int]]:
        for question in questions:
            points = [max(1, min(10, len(text))) for text in question.shown]
            rows = tuple(tuple(float(k == p) for k in SCORES) for p in points)
            yield (
                question,
                JudgeScores(
                    rows, (1.0, 1.0), 0.5 + 0.5 * (points[0] > points[1]) - 0.5 * (points[0] < points[1])
                ),
                0.0,
                1,
            )


def test_arms_by_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path / "ws")
    path = small_recipe(workspace)
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"instruction": f"q{n}"} for n in range(4)]))
    # Seed by seed: the arm's answers are longer on 3 of 4, then on 2 of 4; one of them is not there.
    answers = {
        "arm": ["long one", "long one", "long one", ""], "arm.s1": ["long one", "", "x", "long one"],
        "full": ["short"] * 4, "full.s1": ["short"] * 4,
    }  # fmt: skip

    def find(_: Any, __: Any, name: str, template: str | None = None) -> Contestant:
        texts = {f"q{n}": text for n, text in enumerate(answers[name])}
        return Contestant(name, "file", Path(name), name, texts=texts)

    monkeypatch.setattr(examiners, "find_contestant", find)
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        runs = {name: dataclasses.replace(run, name=name) for name in answers}
        judge = LikesLength("scripted", Path("j.gguf"), "j", load_judge_prompt("pairwise", 2), 0)
        source = sources.prompts(prompts)
        by = examiners.JudgeExaminer(workspace, store, source, judge, Quiet(), AnswerSettings())
        row = by.examine(
            ArmResult("random", "random", []), [runs["arm"], runs["arm.s1"]], [runs["full"], runs["full.s1"]]
        )
        assert row.judged is not None and row.judged.mean == pytest.approx((3 + 2) / 8 - 0.5)
        assert row.judged.low < row.judged.mean < row.judged.high and len(row.evaluations) == 2
        first = store.evaluations.get(row.evaluations[0])
        assert first.result is not None and first.result["failed"]["a"] == 1 and first.result["lose"] == 1
        assert first.settings["tie_margin"]["from"] == "half a step of the scale"
        again = by.examine(row, [runs["arm"]], [runs["full"]])
        assert again.evaluations[-1] == first.id  # nothing is asked twice
        assert by.examine(ArmResult("full", "", []), [], []).judged is None


def test_arms_by_multiple_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path / "ws")
    path = small_recipe(workspace)
    right = {"arm": [1, 1, 1, 0], "full": [1, 0, 1, 0]}
    monkeypatch.setattr(
        examiners, "find_contestant", lambda _, __, name: Contestant(name, "student", Path(name), name)
    )

    def evaluate(store: Store, one: Contestant, *_: Any) -> Any:
        items = [Item(n, "t", (f"q{n}",)) for n in range(4)]
        new = NewEvaluation("choice", one.name, one.name, {}, "tasks", "sha", {}, items=items)
        evaluation, is_new = store.evaluations.prepare(new)
        if is_new:
            said = [Judgement(n, "a", score_a=float(v)) for n, v in enumerate(right[one.name])]
            store.evaluations.add_judgements(evaluation.id, said)
        return evaluation

    monkeypatch.setattr(multiple_choice, "evaluate", evaluate)
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        arm, full = (dataclasses.replace(run, name=name) for name in right)
        by = examiners.ChoiceExaminer(workspace, store, tmp_path, Quiet())
        row = by.examine(ArmResult("random", "random", []), [arm], [full])
        assert row.accuracy == 0.75 and row.choice is not None and row.choice.mean == 0.25
        assert by.examine(ArmResult("full", "", []), [full], [full]).accuracy == 0.5


def test_a_judge_needs_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path / "ws")
    path = small_recipe(workspace)
    monkeypatch.setenv("SRTUI_WORKSPACE", str(workspace.root))
    done = CliRunner().invoke(app, ["ablate", str(path), "--judge", "x"])
    assert done.exit_code != 0 and "--judge needs --prompts" in f"{done.output} {done.exception}"
