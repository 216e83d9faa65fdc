"""Blind order and what people's choices amount to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.evaluation.people import blind_order, human_result, keep_result, ordering, turned
from srtui.evaluation.writing import file_answer
from srtui.store import Store
from srtui.store.evaluations import Item, Judgement, NewEvaluation

ITEMS = [Item(n, "math" if n % 2 else "writing", (f"q {n}",)) for n in range(200)]


def test_the_order_is_blind_and_fair_and_its_own_for_each_person() -> None:
    ada, ben = blind_order(ITEMS, 7, "ada"), blind_order(ITEMS, 7, "ben")
    assert ada == blind_order(ITEMS, 7, "ada")
    assert [i.item for i, _ in ada] != [i.item for i, _ in ben]
    assert sorted(i.item for i, _ in ada) == list(range(200))
    assert 70 < sum(side == "ab" for _, side in ada) < 130
    # What is left after a break has the sides that it had before.
    left = blind_order(ITEMS[50:], 7, "ada")
    assert left == [pair for pair in ada if pair[0].item >= 50]
    assert blind_order(ITEMS, 8, "ada") != ada


@given(st.integers(0, 2**31), st.text(max_size=5), st.integers(0, 10**6))
def test_turning_back(seed: int, name: str, item: int) -> None:
    order = ordering(seed, name, item)
    assert {turned("left", order), turned("right", order)} == {"a", "b"}
    assert turned("left", order) == order[0]
    assert turned("tie", order) == "tie"


def test_an_unknown_key_is_no_choice() -> None:
    with pytest.raises(ValueError, match="no choice"):
        turned("up", "ab")


def said(item: int, name: str, choice: Any, order: Any = "ab") -> Judgement:
    return Judgement(item, order, annotator=name, choice=choice)


def test_who_says_nothing_has_lost() -> None:
    none: dict[int, Any] = {1: frozenset("a"), 2: frozenset("b"), 3: frozenset("ab")}
    found = human_result(ITEMS[:5], [said(0, "ada", "a")], none)
    assert (found["judged"], found["win"], found["tie"], found["lose"]) == (4, 2, 1, 1)
    assert found["failed"] == {"a": 1, "b": 1, "both": 1} and found["judgements"] == 1


def test_what_choices_amount_to() -> None:
    judgements = [
        said(0, "ada", "a"), said(0, "ben", "a", "ba"),  # win
        said(1, "ada", "b"), said(1, "ben", "tie"),  # lose
        said(2, "ada", "a"), said(2, "ben", "b"),  # tie
        said(3, "ada", "bad"), said(3, "ben", "skip"),  # tie, by one
    ]  # fmt: skip
    found = human_result(ITEMS[:5], judgements)
    assert (found["items"], found["judged"], found["judgements"], found["skipped"]) == (5, 4, 7, 1)
    assert (found["win"], found["tie"], found["lose"], found["both_bad"]) == (1, 2, 1, 1)
    assert found["win_rate"]["value"] == 0.5
    assert found["left"]["value"] == 2 / 5
    assert found["annotators"]["ben"] == {"a": 1, "tie": 1, "b": 1, "skip": 1}
    assert found["agreement"]["method"] == "Cohen"
    assert found["agreement"]["kappa"]["n"] == 3
    assert found["categories"]["writing"]["win"] == 1
    three = human_result(
        ITEMS[:5], [*judgements, said(0, "cyd", "a"), said(1, "cyd", "b"), said(2, "cyd", "a")]
    )
    assert three["agreement"]["method"] == "Fleiss"
    assert three["agreement"]["kappa"]["n"] == 3
    assert len(three["agreement"]["pairs"]) == 3
    alone = human_result(ITEMS[:5], [said(0, "ada", "a")])
    assert alone["agreement"]["method"] is None
    assert human_result(ITEMS[:2], [])["win_rate"]["value"] is None


def test_the_outcome_is_stored(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        rows = store.evaluations
        new = NewEvaluation("human", "f", "A", {}, "p", "s", {"seed": 1}, "B", {}, items=ITEMS[:2])
        evaluation, _ = rows.prepare(new)
        texts = [(n, side, 1, file_answer(f"{side} {n}", "m")) for n in range(2) for side in ("a", "b")]
        rows.add_answers(evaluation.id, texts)  # type: ignore[arg-type]
        rows.human_choice(evaluation.id, 1, "ada", "ba", turned("left", "ba"))
        assert keep_result(store, evaluation.id)["lose"] == 1
        found = rows.get(evaluation.id)
        assert (found.state, found.done, found.total) == ("stopped", 1, 2)
        rows.human_choice(evaluation.id, 0, "ada", "ab", turned("left", "ab"))
        keep_result(store, evaluation.id)
        found = rows.get(evaluation.id)
        assert found.state == "done" and found.result is not None and found.result["win"] == 1
