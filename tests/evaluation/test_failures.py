"""Answers that are not there, through the whole engine: files of answers and a scripted judge."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from srtui.cli import app
from srtui.errors import UserError
from srtui.evaluation import evaluator, length_control, multiple_choice, sources
from srtui.evaluation.contestants import find_contestant
from srtui.evaluation.fingerprint import prepare, settings_of
from srtui.evaluation.judge_model import SCORES, JudgeModel, JudgeQuestion, JudgeScores, load_judge_prompt
from srtui.evaluation.rates import margin_of
from srtui.evaluation.results import TOO_LONG
from srtui.evaluation.writing import AnswerSettings
from srtui.store import Store
from srtui.store.evaluations import Evaluation, NewEvaluation
from tests.conftest import make_workspace


class Silent:
    def progress(self, progress: Any) -> None: ...

    def event(self, level: str, message: str) -> None: ...


@dataclasses.dataclass(frozen=True)
class Scripted(JudgeModel):
    """Scores an answer by the number in it; what is longer than 40 characters is too long for it."""

    def scores(
        self, questions: Sequence[JudgeQuestion], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[JudgeQuestion, JudgeScores | str, float, int]]:
        for question in questions:
            long = [n for n, text in enumerate(question.shown, 1) if len(text) > 40]
            if long:
                yield question, f"answer_{long[0]}_too_long" if len(long) == 1 else "judge_context", 0.0, 1
                continue
            points = [int(text.split()[-1]) for text in question.shown]
            rows = tuple(tuple(float(k == p) for k in SCORES) for p in points)
            yield question, JudgeScores(rows, (1.0,) * len(rows), float(points[0] > points[-1])), 0.0, 1


def judge() -> Scripted:
    return Scripted("scripted", Path("j.gguf"), "j", load_judge_prompt("pairwise", 2), 0)


def answers(path: Path, texts: Sequence[str]) -> str:
    path.write_text(json.dumps([{"instruction": f"q{n}", "output": t or " "} for n, t in enumerate(texts)]))
    return str(path)


def evaluate(tmp_path: Path, store: Store, a: Sequence[str], b: Sequence[str], **more: Any) -> Evaluation:
    workspace = make_workspace(tmp_path / "ws")
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"instruction": f"q{n}"} for n in range(len(a))]))
    both = [
        find_contestant(workspace, store, answers(tmp_path / f"{name}.json", texts))
        for name, texts in (("a", a), ("b", b))
    ]
    source, settings = sources.prompts(prompts), settings_of(AnswerSettings(), 0, **more)
    evaluation, _ = prepare(store, "pairwise", source, both, judge(), settings)
    sides: Any = dict(zip(("a", "b"), both, strict=True))
    return evaluator.Evaluator(store, evaluation, source, sides, judge(), Silent()).work()


def test_saying_nothing_wins_nothing(tmp_path: Path) -> None:
    """A was judged on the two items that it answered, and won 100 %."""
    with Store(tmp_path / "s.db") as store:
        done = evaluate(tmp_path, store, ["9", "9", "", "", "x" * 50 + " 9"], ["5", "5", "5", "", "5"])
        assert done.result is not None
        r = done.result
        assert (r["judged"], r["win"], r["tie"], r["lose"]) == (5, 2, 1, 2)
        assert r["win_rate"]["value"] == pytest.approx(0.5) and r["unjudged"] == {}
        assert r["failed"] == {
            "a": 2, "b": 0, "both": 1,
            "why": {"no answer of A (empty)": 1, "no answer of A (empty) or B (empty)": 1, TOO_LONG["a"]: 1},
        }  # fmt: skip
        assert r["question"].startswith("This compares two models as they are")
        shown = {j.parsed for j in store.evaluations.judgements(done.id)}
        assert TOO_LONG["a"] in shown


def test_what_is_shown_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path / "ws")
    with Store(workspace.store_path) as store:
        evaluate(tmp_path, store, ["9", ""], ["5", "5"], tie_margin={"value": 0.5, "from": "stated"})
    monkeypatch.setenv("SRTUI_WORKSPACE", str(workspace.root))
    shown = CliRunner().invoke(app, ["eval", "show", "1"]).output
    assert "no answer" in shown and "A 1 (lost)" in shown and "0.50 points or less apart" in shown


def test_a_margin_is_stated_or_calibrated_or_half_a_step(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        assert margin_of(store, judge(), None)["value"] == 0.5
        new = NewEvaluation(
            "calibration", "f", "known", {}, "p", "s", {}, judge="J", judge_identity=judge().identity
        )
        evaluation, _ = store.evaluations.prepare(new)
        nothing = {"value": None, "low": None, "high": None}
        store.evaluations.update(
            evaluation.id,
            status="done",
            result={
                "judged": 0, "pairs": 0, "skipped": {}, "agreement": nothing, "chance": None, "kappa": nothing,
                "known_itself": nothing, "tie_margin": 0.8, "rank_correlation": None, "table": {},
                "better_than_chance": False,
                "position": {"first": nothing, "first_twice": 0, "second_twice": 0, "consistent": 0},
                "parse": {"mass": None, "rate": nothing | {"n": 0}, "unparsed": {}},
            },
        )  # fmt: skip
        assert margin_of(store, judge(), None) == {"value": 0.8, "from": f"calibration {evaluation.id}"}
        assert margin_of(store, judge(), 0.0) == {"value": 0.0, "from": "stated"}
        other = dataclasses.replace(judge(), sha256="another")
        assert margin_of(store, other, None)["from"] == "half a step of the scale"


def test_people_are_not_asked_about_an_answer_of_space(tmp_path: Path) -> None:
    """Such an item was never judged, so the evaluation was never done."""
    with Store(tmp_path / "s.db") as store:
        done = evaluate(tmp_path, store, ["9", "   "], ["5", "5"])
        assert [i.item for i in store.evaluations.unjudged_by(done.id, "ada")] == [0]
        assert store.evaluations.blank_answers(done.id) == {1: frozenset({"a"})}


def test_a_question_that_no_choice_could_be_scored_on_is_wrong(tmp_path: Path) -> None:
    """lm-eval takes the first choice then, which was right here."""
    never = float("-inf")
    sample = {
        "filtered_resps": [(never, False), (never, False)], "target": 0, "doc_id": 0, "acc": 1.0, "acc_norm": 1.0,
        "arguments": [["q", " a"], ["q", " b"]],
    }  # fmt: skip
    with Store(tmp_path / "s.db") as store:
        evaluation, _ = store.evaluations.prepare(NewEvaluation("choice", "f", "m", {}, "t", "s", {}))
        result = multiple_choice._keep(store, evaluation.id, {"samples": {"t": [sample]}, "n-shot": {}})
        assert result["accuracy"]["value"] == 0.0 and result["failed"] == {"questions": 1}
        assert result["tasks"]["t"]["accuracy_norm"]["value"] == 0.0


def test_anchors_come_from_own_judgements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srtui eval anchors, from win rates of three models, and a file that is for other prompts."""
    monkeypatch.setattr(
        length_control, "STRENGTHS", length_control.STRENGTHS[3:6]
    )  # which it is, is tested elsewhere
    workspace = make_workspace(tmp_path / "ws")
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps([{"instruction": f"q{n}", "output": "5"} for n in range(12)]))
    source = sources.references(reference)
    with Store(workspace.store_path) as store:
        for name in ("one", "two", "three"):
            texts = [f"{name} {'x' * (n % 5)} {1 + (n * len(name)) % 9}" for n in range(12)]
            contestant = find_contestant(workspace, store, answers(tmp_path / f"{name}.json", texts))
            names = (name, "reference.json")
            evaluation, _ = prepare(
                store,
                "winrate",
                source,
                [contestant],
                judge(),
                settings_of(AnswerSettings(), 0),
                names,
            )
            done = evaluator.Evaluator(store, evaluation, source, {"a": contestant}, judge(), Silent()).work()
            assert done.result is not None and done.result["length_controlled"]["raw"] is not None
    monkeypatch.setenv("SRTUI_WORKSPACE", str(workspace.root))
    out = tmp_path / "anchors.csv"
    made = CliRunner().invoke(app, ["eval", "anchors", "1", "2", "3", "--gamed", "3", "--out", str(out)])
    assert made.exit_code == 0, made.output
    assert "12 difficulties from 3 models, 12 gamed rows" in made.output
    again = CliRunner().invoke(app, ["eval", "anchors", "1", "2", "3", "--gamed", "3", "--out", str(out)])
    assert again.exit_code == 0, again.output  # its own table, which it may write again
    for path, why in ((workspace.store_path, "is the store"), (reference, "--force")):
        before = path.read_bytes()
        over = CliRunner().invoke(app, ["eval", "anchors", "1", "2", "3", "--out", str(path)])
        assert isinstance(over.exception, UserError) and why in str(over.exception)
        assert path.read_bytes() == before
    wrong = CliRunner().invoke(app, ["eval", "anchors", "1", "--gamed", "3", "--out", str(out)])
    assert isinstance(wrong.exception, UserError) and "none of the evaluations named" in str(wrong.exception)
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"instruction": f"another {n}", "output": "5"} for n in range(12)]))
    words = ["eval", "winrate", "x", "--reference", str(other), "--judge", "j", "--anchors", str(out)]
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, UserError) and "made for other prompts" in str(found.exception)
