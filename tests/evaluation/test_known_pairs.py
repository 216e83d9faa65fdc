"""Known preferences: what a file may say, and what people said in this store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srtui.errors import UserError
from srtui.evaluation.known_pairs import REPEATED, preferences_of_people, read_preferences
from srtui.evaluation.writing import file_answer
from srtui.store import Store
from srtui.store.evaluations import Item, Judgement, NewEvaluation


def rows_file(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return path


def row(preference: Any, **more: Any) -> dict[str, Any]:
    return {"instruction": "q", "answer_1": "one", "answer_2": "two", "preference": preference} | more


@pytest.mark.parametrize(
    ("said", "preferred"),
    [
        (1, 1),
        (2, 2),
        ("1", 1),
        ("ties", 0),
        ("tie", 0),
        (0, 0),
        (1.5, 0),
        (1.2, 1),
        (1.9, 2),
        (2.0, 2),
        ("A", 1),
    ],
)
def test_what_a_preference_may_be(tmp_path: Path, said: Any, preferred: int) -> None:
    assert read_preferences([rows_file(tmp_path, row(said))]).pairs[0].preferred == preferred


@pytest.mark.parametrize("said", [3, -1, "left", True, [1], 0.5])
def test_what_it_may_not_be(tmp_path: Path, said: Any) -> None:
    with pytest.raises(UserError, match=r'row 2: "preference" must be 1, 2 or "ties"'):
        read_preferences([rows_file(tmp_path, row(1), row(said))])


def test_what_cannot_be_compared_is_counted(tmp_path: Path) -> None:
    path = rows_file(
        tmp_path, row(1), row(2, answer_1=" "), row(1, answer_2="one"), row(None), row(2, input="i"),
        {"instruction": "q", "answer_1": "x", "answer_2": "y", "scores": [7, 5], "scores_reversed": [4, 8]},
        {"instruction": "q", "answer_1": "x", "answer_2": "y", "scores": [0, 5], "scores_reversed": [4, 8]},
    )  # fmt: skip
    found = read_preferences([path])
    assert [(p.preferred, p.input) for p in found.pairs] == [(1, ""), (2, "i"), (1, "")]
    assert found.skipped == {
        "with an empty answer": 1, "with two answers that are the same": 1, "without a preference": 1,
        "without a score": 1,
    }  # fmt: skip
    assert found.digest == read_preferences([path]).digest != read_preferences([path], 2).digest


def test_two_answers_are_one_pair_however_often_they_are_judged(tmp_path: Path) -> None:
    """Several annotators decide by majority, whichever answer stood first; a file that is named twice proves no more."""
    said = [("a", "b", 1), ("b", "a", 2), ("a", "b", 2), ("a", "c", 2), ("c", "a", 2)]
    rows = [{"instruction": "q", "answer_1": x, "answer_2": y, "preference": p} for x, y, p in said]
    path = rows_file(tmp_path, *rows)
    found = read_preferences([path])
    assert [(p.answers, p.preferred) for p in found.pairs] == [(("a", "b"), 1), (("a", "c"), 0)]
    assert found.skipped == {"with the two answers of an earlier row (decided by majority)": 3}
    assert len(read_preferences([path, path]).pairs) == 2
    assert [p.preferred for p in read_preferences([path], 1).pairs] == [1]


def test_a_row_that_is_no_pair_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='row 1 has no "answer_2"'):
        read_preferences([rows_file(tmp_path, {"instruction": "q", "answer_1": "a", "preference": 1})])
    with pytest.raises(UserError, match="no pair with a known preference"):
        read_preferences([rows_file(tmp_path, row(None))])


def test_what_people_said(tmp_path: Path) -> None:
    """By majority, in the order in which the first of them saw it; the same from the store and from its JSON."""
    items = [Item(n, "all", (f"q {n}",), {"parts": [f"q {n}", "in"]} if n == 1 else None) for n in range(4)]
    with Store(tmp_path / "s.db") as store:
        new = NewEvaluation("human", "f", "A", {}, "p.jsonl", "sha", {}, "B", {}, items=items)
        evaluation, _ = store.evaluations.prepare(new, "g")
        store.evaluations.add_answers(
            evaluation.id,
            [(n, side, 1, file_answer(f"{side} says {n}", side)) for n in range(4) for side in ("a", "b")],  # type: ignore[misc]
        )
        store.evaluations.add_judgements(
            evaluation.id,
            [
                Judgement(0, "ab", annotator="ada", choice="a"),
                Judgement(1, "ba", annotator="ada", choice="a"),
                Judgement(1, "ba", annotator="ben", choice="a"),
                Judgement(2, "ab", annotator="ada", choice="bad"),
                Judgement(3, "ab", annotator="ada", choice="skip"),
            ],
        )
        answers = store.evaluations.answers(evaluation.id)
        store.evaluations.add_judgements(
            evaluation.id,
            [
                replace(j, answer_a_id=answers[j.item, "a", 1].id, answer_b_id=answers[j.item, "b", 1].id)
                for j in store.evaluations.judgements(evaluation.id)
            ],
        )
        found = preferences_of_people(store.evaluations, evaluation.id)
        assert [(p.answers, p.preferred) for p in found.pairs] == [
            (("a says 0", "b says 0"), 1),
            (("b says 1", "a says 1"), 2),
            (("a says 2", "b says 2"), 0),
        ]
        assert (found.pairs[1].instruction, found.pairs[1].input) == ("q 1", "in")
        assert found.skipped == {"that nobody has judged": 1}
        shown = {
            "kind": "human",
            "judgements": [
                {
                    "judgement": {"choice": j.judgement.choice, "ordering": j.judgement.ordering},
                    "item": {"item": j.item.item, "turns": list(j.item.turns), "reference": j.item.reference},
                    "answer_a": {"text": j.answer_a.text if j.answer_a else ""},
                    "answer_b": {"text": j.answer_b.text if j.answer_b else ""},
                }
                for j in store.evaluations.judged(evaluation.id)
            ],
        }
    file = tmp_path / "shown.json"
    file.write_text(json.dumps(shown), encoding="utf-8")
    assert read_preferences([file]).digest == found.digest
    good = {"item": 1, "turns": ["q"], "reference": None}
    for item in (
        {}, good | {"turns": []}, good | {"turns": [5]}, good | {"turns": "q"}, good | {"item": 1e999},
        good | {"reference": {"parts": [1]}},
    ):  # fmt: skip
        judged = {
            "item": item, "judgement": {"choice": "a", "ordering": "ab"},
            "answer_a": {"text": "p"}, "answer_b": {"text": "r"},
        }  # fmt: skip
        file.write_text(json.dumps({"kind": "human", "judgements": [judged]}), encoding="utf-8")
        with pytest.raises(UserError, match="judgement 1 is not as"):
            read_preferences([file])


def test_a_pair_counts_once(tmp_path: Path) -> None:
    """By majority, whichever order its answers stand in: a file that is there five times knows no more."""
    turned = {"instruction": "q", "answer_1": "two", "answer_2": "one"}
    path = rows_file(
        tmp_path, row(1), turned | {"preference": 2}, row(2), row(1, input="i"), row(2, input="i"),
        row(2, answer_2="three"),
    )  # fmt: skip
    found = read_preferences([path])
    assert [(p.input, p.answers, p.preferred) for p in found.pairs] == [
        ("", ("one", "two"), 1),
        ("i", ("one", "two"), 0),
        ("", ("one", "three"), 2),
    ]
    assert found.skipped == {REPEATED: 3}
    assert read_preferences([path, path]).digest == found.digest


@pytest.mark.parametrize("number", ["NaN", "1e400", "-Infinity"])
def test_scores_are_numbers(tmp_path: Path, number: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        f'{{"instruction": "q", "answer_1": "a", "answer_2": "b", "scores": [{number}, 1], "scores_reversed": [1, 2]}}',
        encoding="utf-8",
    )
    with pytest.raises(UserError, match='row 1: "scores" must be two numbers'):
        read_preferences([path])


def test_an_evaluation_by_a_judge_is_none(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        new = NewEvaluation("pairwise", "f", "A", {}, "p.jsonl", "sha", {}, "B", {})
        evaluation, _ = store.evaluations.prepare(new, "g")
        with pytest.raises(UserError, match="comes from people"):
            preferences_of_people(store.evaluations, evaluation.id)
