"""Whole evaluations: answers cached, a kill survived, figures read back."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from srtui.evaluation import evaluator, sources
from srtui.evaluation.contestants import find_contestant
from srtui.evaluation.fingerprint import prepare, settings_of
from srtui.evaluation.judge_model import JudgeModel, load_judge_prompt
from srtui.evaluation.writing import AnswerSettings
from srtui.progress import Stopped
from srtui.store import Store
from srtui.store.evaluations import Evaluation
from srtui.store.runs import Run
from srtui.workspace import Workspace
from tests.attack.ground import Ground
from tests.commands import Command
from tests.commands import srtui as run_command
from tests.conftest import ROOT, make_workspace
from tests.sql import sql_rows, sql_value

PROMPTS = ROOT / "recipes" / "eval-prompts.jsonl"
JUDGE = "tiny.F16"


class Silent:
    def progress(self, progress: Any) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        pass


def compare(workspace: Workspace, store: Store, a: str, b: str, words: int = 8) -> Evaluation:
    source = sources.prompts(PROMPTS, 2)
    both = [find_contestant(workspace, store, name) for name in (a, b)]
    judge = JudgeModel.find(workspace.models, JUDGE, load_judge_prompt("pairwise", 2), words)
    settings = settings_of(AnswerSettings(max_tokens=8), 1)
    evaluation, _ = prepare(store, "pairwise", source, both, judge, settings)
    if evaluation.state == "done":
        return evaluation
    sides = dict(zip(("a", "b"), both, strict=True))
    return evaluator.Evaluator(store, evaluation, source, sides, judge, Silent()).work()  # type: ignore[arg-type]


@pytest.mark.model
def test_a_run_against_its_base_and_nothing_is_asked_twice(
    tuned: tuple[Workspace, Store, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, store, run = tuned
    first = compare(workspace, store, "tuned", "base:tuned")
    assert first.state == "done" and first.run_a_id == first.run_b_id == run.id
    assert first.result is not None and first.result["judged"] == 2
    assert first.result["parse"]["rate"]["n"] == 4 and first.result["calibration"] is None
    answers = store.evaluations.answers(first.id)
    assert all(a.new_tokens > 0 and a.template == "alpaca" for a in answers.values())
    assert any(answers[n, "a", 1].text != answers[n, "b", 1].text for n in range(2))  # the adapter is on
    judged = store.evaluations.judged(first.id)
    assert all(p.judgement.words and p.answer_a and p.answer_b for p in judged)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr("srtui.evaluation.evaluation_place.open_writer", never)
    monkeypatch.setattr(JudgeModel, "scores", never)
    monkeypatch.setattr(JudgeModel, "write", never)
    assert compare(workspace, store, "tuned", "base:tuned").id == first.id
    turned = compare(workspace, store, "base:tuned", "tuned")
    assert turned.id != first.id and turned.result is not None
    assert (turned.result["win"], turned.result["lose"]) == (first.result["lose"], first.result["win"])
    assert turned.result["score_a"]["value"] == pytest.approx(first.result["score_b"]["value"])
    assert turned.result["preference"]["value"] == pytest.approx(1 - first.result["preference"]["value"])
    assert store.check() == []


@pytest.mark.model
def test_a_stop_is_obeyed_and_resumed(pair_workspace: Workspace, tmp_path: Path) -> None:
    workspace, store = pair_workspace, Store(pair_workspace.store_path)
    names = [answers(tmp_path / f"{x}.json", x) for x in ("a", "b")]
    source = sources.prompts(PROMPTS, 2)
    both = [find_contestant(workspace, store, name) for name in names]
    judge = JudgeModel.find(workspace.models, JUDGE, load_judge_prompt("pairwise", 2), 0)
    settings = settings_of(AnswerSettings(), 0)
    evaluation, is_new = prepare(store, "pairwise", source, both, judge, settings)
    assert is_new
    work = (store, evaluation, source, dict(zip(("a", "b"), both, strict=True)), judge, Silent())

    def after_one() -> bool:
        return bool(sql_value(store, "SELECT count(*) FROM judgement"))

    with pytest.raises(Stopped):
        evaluator.Evaluator(*work, after_one).work()  # type: ignore[arg-type]
    assert store.evaluations.get(evaluation.id).state == "stopped"
    assert len(store.evaluations.judgements(evaluation.id)) == 1
    assert prepare(store, "pairwise", source, both, judge, settings) == (
        store.evaluations.get(evaluation.id),
        False,
    )
    assert evaluator.Evaluator(*work).work().state == "done"  # type: ignore[arg-type]
    assert len(store.evaluations.judgements(evaluation.id)) == 4


@pytest.mark.model
def test_people_get_answers_and_no_judge(pair_workspace: Workspace, tmp_path: Path) -> None:
    workspace, store = pair_workspace, Store(pair_workspace.store_path)
    both = [find_contestant(workspace, store, answers(tmp_path / f"{x}.json", x)) for x in ("a", "b")]
    source = sources.prompts(PROMPTS, 2)
    evaluation, _ = prepare(store, "human", source, both, None, settings_of(AnswerSettings(), 3))
    sides = dict(zip(("a", "b"), both, strict=True))
    made = evaluator.Evaluator(store, evaluation, source, sides, None, Silent()).work()  # type: ignore[arg-type]
    assert (made.state, made.done, made.total) == ("stopped", 0, 2)  # nobody has judged yet
    assert len(store.evaluations.unjudged_by(made.id, "ada")) == 2


def srtui(workspace: Workspace, *words: str) -> subprocess.CompletedProcess[str]:
    return run_command(workspace, "eval", *words)


def answers(path: Path, text: str, leave_out: int = 0) -> str:
    items = sources.prompts(PROMPTS, 6 - leave_out).items
    path.write_text(json.dumps([{"instruction": i.turns[0], "output": f"{text} {i.item}"} for i in items]))
    return str(path)


@pytest.mark.model
def test_killed_and_resumed(tmp_path: Path, pair_folder: Path) -> None:
    """Two files of answers, so all the work is the judge's; killed after its first judgement."""
    a, b = answers(tmp_path / "a.json", "Yes, gladly:"), answers(tmp_path / "b.json", "No.")
    words = ("pairwise", a, b, "--prompts", str(PROMPTS), "--limit", "6", "--judge", JUDGE, "--words", "0")
    results = []
    for name, kill in (("one", True), ("two", False)):
        workspace = make_workspace(tmp_path / name, pair_folder)
        if kill:
            Store(workspace.store_path).close()
            killed = Command(workspace, "eval", *words, kill_at=("decode", 8))
            assert killed.wait().returncode == -signal.SIGKILL
            with Store(workspace.store_path, read_only=True) as store:
                kept = sql_rows(store, "SELECT id, created_at FROM judgement")
            assert 0 < len(kept) < 12
        done = srtui(workspace, *words, "--json")
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout)["result"])
        with Store(workspace.store_path) as store:
            rows = sql_rows(store, "SELECT id, created_at FROM judgement")
            assert len(rows) == 12 and store.check() == []
            if kill:
                assert [tuple(r) for r in rows[: len(kept)]] == [tuple(r) for r in kept]
    assert results[0] == results[1]


@pytest.mark.model
def test_calibration_on_real_judgements(pair_workspace: Workspace) -> None:
    path = ROOT.parent / "shared" / "data" / "judge_gpt4_vicuna.jsonl"
    if not path.exists():
        pytest.skip("the real judgements are not at hand")
    done = srtui(pair_workspace, "calibrate", "--judge", JUDGE, str(path), "--limit", "2")
    assert done.returncode == 0, done.stderr
    assert "Cohen's kappa" in done.stdout
    assert "no better than chance" in done.stdout or "cannot be compared" in done.stdout
    shown = srtui(pair_workspace, "show", "1", "--json")
    assert len(json.loads(shown.stdout)["judgements"]) == 4


@pytest.mark.model
def test_win_rate_and_turns(pair_workspace: Workspace, tmp_path: Path) -> None:
    reference = answers(tmp_path / "reference.json", "A reference answer.")
    words = ("--judge", JUDGE, "--max-tokens", "8", "--words", "8", "--limit", "2", "--json")
    done = srtui(pair_workspace, "winrate", JUDGE, "--reference", reference, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["judged"] == 2 and "fewer than 10" in result["length_controlled"]["reason"]
    questions = str(ROOT / "recipes" / "eval-questions.jsonl")
    done = srtui(pair_workspace, "turns", JUDGE, "--questions", questions, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["judged"] == 2 and set(result["turns"]) == {"1", "2"}
    with Store(pair_workspace.store_path) as store:
        pairs = store.evaluations.judged(2)
        second = next(p for p in pairs if p.judgement.turn == 2 and p.answer_a is not None)
        assert second.answer_a is not None
        assert store.evaluations.answers(2)[0, "a", 1].text in second.answer_a.prompt  # the history is in it
    listed = srtui(pair_workspace, "list")
    assert "win rate" in listed.stdout and "turns" in listed.stdout


@pytest.mark.model
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("pairwise", "nobody", "base:nobody", "--prompts", str(PROMPTS), "--judge", JUDGE),
            "or name a run: none so far",
        ),
        (
            ("pairwise", JUDGE, JUDGE, "--prompts", "absent.jsonl", "--judge", JUDGE),
            "absent.jsonl does not exist",
        ),
        (
            ("pairwise", "short.json", JUDGE, "--prompts", str(PROMPTS), "--judge", JUDGE),
            "no answer to 35 of the 40",
        ),
        (
            ("pairwise", JUDGE, JUDGE, "--prompts", str(PROMPTS), "--judge", "nothing"),
            "nothing is neither a model",
        ),
        (("turns", JUDGE, "--questions", str(PROMPTS), "--judge", JUDGE), '"turns" must be a list'),
        (("choice", JUDGE, "--tasks", "recipes/quickstart.jsonl"), "no lm-eval task file"),
        (("show", "7"), "no evaluation 7"),
        (("calibrate", "--judge", JUDGE, str(PROMPTS)), '"scores" must be two numbers'),
    ],
)
def test_one_sentence_for_what_is_wrong(
    pair_workspace: Workspace, words: tuple[str, ...], sentence: str
) -> None:
    answers(pair_workspace.root / "short.json", "x", leave_out=1)
    done = Ground(pair_workspace.root.parent).run("eval", *words)
    assert done.code == 2
    assert sentence in done.err and "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1
