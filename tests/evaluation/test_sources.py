"""Files of prompts, answers, questions and known judgements; what is wrong with one is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui.errors import UserError
from srtui.evaluation import sources
from srtui.evaluation.judge_calibration import known_verdict
from tests.conftest import ROOT


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows) if isinstance(rows, list) else str(rows), encoding="utf-8")
    return path


def test_our_own_files() -> None:
    prompts = sources.prompts(ROOT / "recipes" / "eval-prompts.jsonl")
    assert len(prompts.items) == 40
    assert len({i.category for i in prompts.items}) >= 7
    assert len(sources.prompts(ROOT / "recipes" / "eval-prompts.jsonl", 3).items) == 3
    questions = sources.questions(ROOT / "recipes" / "eval-questions.jsonl")
    assert all(len(i.turns) == 2 for i in questions.items)


def test_an_input_stays_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", [{"instruction": "Add.", "input": "1 and 2", "dataset": "sums"}])
    [item] = sources.prompts(path).items
    assert item.turns == ("Add.\n1 and 2",) and item.category == "sums"
    assert sources.parts(item) == ("Add.", "1 and 2")
    answers = write(tmp_path / "a.json", [{"instruction": "Add.", "input": "1 and 2", "output": "3"}])
    assert sources.answers_of(answers)[sources.asked_text(item)] == "3"


def test_references_bring_their_answers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.json", [{"instruction": "Hi.", "output": "Hello.", "generator": "x", "dataset": "d"}]
    )
    source = sources.references(path)
    assert source.answers == {0: ("Hello.",)} and source.items[0].category == "d"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("", "nothing in it"),
        ("{no json", "line 1 is not valid JSON"),
        ("[1, 2", "not valid JSON"),
        ([1], "row 1 is not an object"),
        ([{"text": " "}], 'row 1: "text" must be a text that is not empty'),
        ([{"category": "x"}], 'row 1 has no "instruction"'),
        ([{"instruction": "a"}, {"instruction": "a "}], "rows 1 and 2 ask the same"),
        ([{"instruction": "a"}, {"instruction": "\ud83d alone"}], r"row 2: a text holds U\+D83D alone"),
    ],
)
def test_bad_prompts(tmp_path: Path, rows: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        sources.prompts(write(tmp_path / "p.jsonl", rows))


def test_bad_questions_and_judgements(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='"turns" must be a list'):
        sources.questions(write(tmp_path / "q.json", [{"turns": "one"}]))
    with pytest.raises(UserError, match='"reference" must be a list'):
        sources.questions(write(tmp_path / "q.json", [{"turns": ["one"], "reference": ["a", "b"]}]))
    row = {"instruction": "q", "answer_1": "a", "answer_2": "b", "scores": [1, 2], "scores_reversed": [1]}
    with pytest.raises(UserError, match='"scores_reversed" must be two numbers'):
        sources.known_judgements([write(tmp_path / "k.json", [row])])
    failed = row | {"scores_reversed": [-1, -1]}
    with pytest.raises(UserError, match="no known judgement"):
        sources.known_judgements([write(tmp_path / "k.json", [failed])])
    with pytest.raises(UserError, match="does not exist"):
        sources.prompts(tmp_path / "absent.json")


def test_known_scores_are_turned_the_right_way(tmp_path: Path) -> None:
    """scores_reversed begins with answer 2's score."""
    row = {"instruction": "q", "answer_1": "a", "answer_2": "b", "scores": [9, 5], "scores_reversed": [4, 8]}
    good = sources.known_judgements([write(tmp_path / "k.json", [row])])
    assert known_verdict(good.items[0]) == "win"
    assert good.answers[0] == ("a", "b") and good.items[0].category == "k"
    split = row | {"scores_reversed": [8, 4]}
    assert known_verdict(sources.known_judgements([write(tmp_path / "k.json", [split])]).items[0]) == "tie"
