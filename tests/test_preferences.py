"""Pairs of what was compared: whose preference, by how much, and what gives none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.measures import MEASURES
from srtui.preferences import PairMaker, PreferencePair, pair_maker
from srtui.recipe import Recipe
from srtui.sample import Pair
from srtui.selection import ScoredText, choose_response, response_margin
from srtui.store.comparisons import AnswerComparison, ComparedAnswer

ratios = st.one_of(st.none(), st.floats(0.01, 10, allow_nan=False))


def answer(number: int, score: float | None, instruction: str = "x") -> ComparedAnswer:
    return ComparedAnswer(number, Pair(instruction, "", f"y{number}"), score)


def compared(
    scores: list[float | None], by: str = "rifd", person: ComparedAnswer | None = None
) -> AnswerComparison:
    """As a run stores it: the first is the text before, the student's choice is the real one."""
    answers = [answer(n, score) for n, score in enumerate(scores)]
    texts = [ScoredText(n, score) for n, score in enumerate(scores)]
    chosen = choose_response(texts[0], texts[1:], by).variant_id
    return AnswerComparison(7, False, answers, chosen, person, 0.5, 1.5)


def pairs(comparison: AnswerComparison, **how: object) -> list[PreferencePair]:
    return list(PairMaker(**{"by": "rifd", **how}).pairs([comparison]))  # type: ignore[arg-type]


def test_the_taken_answer_is_chosen_over_the_one_it_beat() -> None:
    (pair,) = pairs(compared([0.9, 0.6]))
    assert (pair.chosen, pair.rejected) == ("y1", "y0")
    assert pair.margin == pytest.approx(math.log(0.9) - math.log(0.6))
    assert (pair.chosen_by, pair.measure, pair.agreed) == ("student", "rifd", None)
    assert pair.gates == ("ifd below 1",)


def test_an_original_that_stays_has_beaten_its_rewrite() -> None:
    (pair,) = pairs(compared([0.6, 0.9]))
    assert (pair.chosen, pair.rejected) == ("y0", "y1")
    assert pair.margin is not None and pair.margin > 0


def test_several_candidates_give_several_pairs() -> None:
    comparison = compared([0.9, 0.5, 0.7, None])
    assert [(p.chosen_id, p.rejected_id) for p in pairs(comparison)] == [(1, 0), (1, 2)]
    assert [(p.chosen_id, p.rejected_id) for p in pairs(comparison, rejected="worst")] == [(1, 0)]


@given(st.lists(ratios, min_size=1, max_size=6), st.sampled_from(["rifd", "ifd", "perplexity", "coherence"]))
def test_every_pair_is_what_its_measure_says(scores: list[float | None], by: str) -> None:
    comparison = compared(scores, by)
    found = pairs(comparison, by=by)
    winner = scores[comparison.chosen_id]
    for pair in found:
        other = scores[pair.rejected_id]
        assert pair.chosen_id == comparison.chosen_id
        assert winner is not None and other is not None and pair.margin is not None and pair.margin > 0
        assert (winner > other) if MEASURES[by].higher_response else (winner < other)
    # Scores that differ by a last bit have the same logarithm: they are a tie.
    beaten = [
        s for s in scores
        if winner is not None and s is not None and s != winner and response_margin(by, winner, s) != 0
    ]  # fmt: skip
    assert len(found) == len(beaten)
    worst = pairs(comparison, by=by, rejected="worst")
    assert len(worst) == bool(beaten)
    if beaten:
        assert worst[0].margin == max(p.margin for p in found if p.margin is not None)


@pytest.mark.parametrize("by", ["random", "original", "reflected"])
def test_what_no_measure_chose_is_nobodys_preference(by: str) -> None:
    maker = PairMaker(by)
    assert list(maker.pairs([compared([0.9, 0.6], "rifd")])) == []
    assert maker.left_out["samples whose answer no measure chose"] == 1
    (of_a_person,) = maker.pairs([compared([0.9, 0.6], "rifd", answer(0, 0.9))])
    assert (of_a_person.chosen_by, of_a_person.margin) == ("person", None)


def test_a_persons_word_stands_before_the_students() -> None:
    (pair,) = pairs(compared([0.9, 0.6], person=answer(0, 0.9)))
    assert (pair.chosen, pair.rejected, pair.chosen_by) == ("y0", "y1", "person")
    assert pair.margin is not None and pair.margin < 0 and pair.agreed is False
    assert pair.gates == ()  # the outcome's scores are those of the student's choice
    (agreed,) = pairs(compared([0.9, 0.6], person=answer(1, 0.6)), only_agreed=True)
    assert agreed.agreed is True
    # A text of one's own beats both of them.
    by_hand = pairs(compared([0.9, 0.6], person=answer(9, None)))
    assert [(p.chosen, p.rejected, p.margin) for p in by_hand] == [("y9", "y0", None), ("y9", "y1", None)]
    # Another instruction is another question: there is nothing that it was compared with.
    assert pairs(compared([0.9, 0.6], person=answer(9, None, "another"))) == []


def test_the_filters() -> None:
    comparison, against = compared([0.9, 0.6, 0.65]), compared([0.9, 0.6], person=answer(0, 0.9))
    assert [p.rejected_id for p in pairs(comparison, min_margin=0.2)] == [0]
    assert pairs(comparison, only_agreed=True) == []
    assert pairs(against, only_agreed=True) == []
    assert pairs(against, min_margin=0.2) == []
    assert len(pairs(against, min_margin=0.2, people_first=True)) == 1


def test_what_is_left_out_is_counted() -> None:
    maker = PairMaker("rifd", min_margin=1.0)
    some = [
        compared([0.5]),
        compared([0.9, None]),
        compared([0.5, 0.5]),
        compared([0.9, 0.8]),
        compared([0.9, 0.1]),
    ]
    assert len(list(maker.pairs(some))) == 1
    assert +maker.left_out == {
        "samples with one answer to compare": 2,
        "rewrites that could not be compared": 1,
        "ties": 1,
        "pairs with a margin below 1": 1,
    }
    assert maker.made == {"student": 1}


@pytest.mark.parametrize(
    ("by", "chosen", "rejected", "margin"),
    [
        ("rifd", 0.5, 1.0, math.log(2)),
        ("ifd", 1.0, 0.5, math.log(2)),
        ("coherence", 0.7, 0.5, 0.2),
        ("rifd", 0.0, 1.0, None),
        ("rifd", None, 1.0, None),
        ("random", 0.2, 0.1, None),
        ("original", 0.2, 0.1, None),
    ],
)
def test_a_margin_is_positive_for_the_winner(
    by: str, chosen: float | None, rejected: float | None, margin: float | None
) -> None:
    found = response_margin(by, chosen, rejected)
    assert found == (None if margin is None else pytest.approx(margin))
    if margin is not None:
        assert response_margin(by, rejected, chosen) == pytest.approx(-margin)


def test_a_level_is_compared_as_it_is() -> None:
    """With length taken out, scores are residuals of logarithms, and may be negative."""
    assert response_margin("rifd", -0.5, 0.25, are_levels=True) == pytest.approx(0.75)
    assert response_margin("likelihood", -1.5, -2.0) == pytest.approx(0.5)
    assert [p.chosen_by for p in pairs(compared([-2.0, -1.5], "likelihood"), by="likelihood")] == ["student"]


def test_a_text_of_ones_own_has_no_margin_where_length_is_taken_out() -> None:
    """Its stored score is a ratio, and what was compared are residuals."""
    assert PairMaker("rifd").stored_metric == "rifd"
    assert PairMaker("rifd", length_control=True).stored_metric == ""


def test_the_raters_gate_is_one_that_a_rewrite_has_passed() -> None:
    recipe = Recipe(
        name="n",
        dataset="d.jsonl",
        teacher={"model": "t"},
        student={"model": "s"},
        gates={"rater": True},
        selection={"rater": "judge"},
    )
    (pair,) = pair_maker(recipe).pairs([compared([0.9, 0.6])])
    assert "rater" in pair.gates
    (kept,) = pair_maker(recipe).pairs([compared([0.6, 0.9])])
    assert "rater" not in kept.gates


@pytest.mark.parametrize(("said", "agreed"), [(0.7, True), (0.5, False), (0.2, False), (None, None)])
def test_a_rater_is_a_second_chooser(said: float | None, agreed: bool | None) -> None:
    asked: list[tuple[str, str]] = []

    def rater(some: Sequence[tuple[Pair, str]]) -> list[float | None]:
        asked.extend((pair.response, other) for pair, other in some)
        return [said] * len(some)

    (pair,) = pairs(compared([0.9, 0.6]), rater=rater)
    assert asked == [("y1", "y0")] and pair.agreed is agreed
    assert len(pairs(compared([0.9, 0.6]), rater=rater, only_agreed=True)) == (agreed is True)
    # A person is confirmed by all that were asked: here the student's measure says the contrary.
    against = compared([0.9, 0.6], person=answer(0, 0.9))
    assert {p.agreed for p in pairs(against, rater=rater)} == {False}


def test_a_rater_does_not_confirm_itself() -> None:
    def rater(some: Sequence[tuple[Pair, str]]) -> list[float | None]:
        return [0.9] * len(some)

    comparison = compared([3.0, 5.0], "teacher-score")
    (pair,) = pairs(comparison, by="teacher-score", rater=rater)
    assert (pair.chosen_by, pair.agreed) == ("rater", None)
