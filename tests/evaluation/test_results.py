"""Judgements as figures, worked out by hand."""

from __future__ import annotations

import pytest

from srtui.evaluation.results import (
    calibration_result,
    pairwise_result,
    turns_result,
    winrate_result,
    worth,
)
from srtui.store.evaluations import Item, Judgement


def peak(score: int) -> list[float]:
    return [float(k == score) for k in range(1, 11)]


def judged(item: int, ab: tuple[int, int], ba: tuple[int, int]) -> list[Judgement]:
    """(A's score, B's score) with A shown first, and with B shown first."""
    return [
        Judgement(
            item, order, score_a=float(a), score_b=float(b), parsed="not asked",
            probabilities={"a": peak(a), "b": peak(b), "mass": [0.5, 0.7]},
        )
        for order, (a, b) in (("ab", ab), ("ba", ba))
    ]  # type: ignore[misc]  # fmt: skip


ITEMS = [Item(n, "math" if n < 2 else "writing", (f"q{n}",)) for n in range(5)]
JUDGEMENTS = [
    *judged(0, (8, 4), (7, 5)),  # A in both orders
    *judged(1, (8, 4), (3, 6)),  # whichever stands first
    *judged(2, (4, 6), (6, 6)),  # B once, and a tie
    *judged(3, (5, 5), (5, 5)),
    Judgement(4, "ab", parsed="judge_context"),
    Judgement(4, "ba", parsed="judge_context"),
]
LENGTHS = dict.fromkeys(range(5), (100, 50))


def test_pairwise() -> None:
    r = pairwise_result(ITEMS, JUDGEMENTS, LENGTHS)
    assert (r["judged"], r["win"], r["tie"], r["lose"]) == (4, 1, 2, 1)
    assert r["unjudged"] == {"judge_context": 2}
    assert r["win_rate"]["value"] == 0.5 and r["winning_score"] == 1.0
    assert r["score_a"]["value"] == pytest.approx((7.5 + 5.5 + 5 + 5) / 4)
    assert r["preference"]["value"] == pytest.approx((1 + 0.5 + 0.25 + 0.5) / 4)
    assert r["length"] == {"a": 100, "b": 50}
    # The first shown less the second: (4 - 2)/2, (4 + 3)/2, (-2 - 0)/2, 0.
    assert r["position"]["first"]["value"] == pytest.approx((1 + 3.5 - 1 + 0) / 4)
    assert r["position"]["first_twice"] == 1 and r["position"]["consistent"] == 3
    assert r["parse"]["rate"]["value"] is None and r["parse"]["mass"] == pytest.approx(0.6)
    assert r["categories"]["math"]["win"] == 1 and r["categories"]["writing"]["judged"] == 2


def test_parse_rate_counts_what_was_asked() -> None:
    said = [
        Judgement(0, "ab", score_a=7.0, score_b=5.0, text_score_a=8.0, text_score_b=5.0, parsed="parsed"),
        Judgement(0, "ba", score_a=7.0, score_b=5.0, parsed="no_score"),
    ]
    parse = pairwise_result(ITEMS[:1], said, LENGTHS)["parse"]
    assert parse["rate"]["value"] == 0.5 and parse["unparsed"] == {"no_score": 1}
    assert parse["difference"] == 0.5


def test_winrate_adds_the_length_control() -> None:
    r = winrate_result(ITEMS, JUDGEMENTS, LENGTHS)
    assert r["length_controlled"]["reason"] == "fewer than 10 judged items"


def test_turns() -> None:
    items = [Item(n, "math" if n else "writing", ("one", "two")) for n in range(3)]
    said = [
        Judgement(n, "a", turn=t, score_a=float(s)) for n, t, s in
        [(0, 1, 4), (0, 2, 6), (1, 1, 8), (1, 2, 2), (2, 1, 6)]
    ]  # fmt: skip
    said.append(Judgement(2, "a", turn=2, parsed="no answer (too_long)"))
    r = turns_result(items, said)
    assert r["turns"]["1"]["value"] == 6.0 and r["turns"]["2"]["value"] == 4.0
    assert r["score"]["value"] == pytest.approx((5 + 5 + 6) / 3)
    assert r["categories"]["math"]["turns"]["1"]["value"] == 7.0
    assert r["judged"] == 3 and r["unjudged"] == {"no answer (too_long)": 1}


def known(n: int, a: float, b: float) -> Item:
    return Item(n, "k", (f"q{n}",), {"scores": [a, b], "scores_reversed": [b, a]})


def test_a_judge_that_agrees_and_one_that_does_not() -> None:
    items = [known(n, 8, 4) if n % 2 else known(n, 4, 8) for n in range(40)]
    agreeing = [j for i in items for j in judged(i.item, *([(7, 3)] * 2 if i.item % 2 else [(3, 7)] * 2))]
    good = calibration_result(items, agreeing, {})
    assert good["kappa"]["value"] == 1.0 and good["better_than_chance"]
    assert good["rank_correlation"] == pytest.approx(1.0)
    assert "beyond chance" in worth("J", good)
    blind = [j for i in items for j in judged(i.item, *([(7, 3)] * 2 if i.item % 4 < 2 else [(3, 7)] * 2))]
    poor = calibration_result(items, blind, {"without a score": 2})
    assert poor["kappa"]["value"] == pytest.approx(0.0) and not poor["better_than_chance"]
    assert poor["agreement"]["value"] == 0.5 == poor["chance"]
    assert "no better than chance" in worth("J", poor) and "do not trust" in worth("J", poor)
    assert poor["known_itself"]["value"] == 1.0
    assert poor["table"]["win"] == {"win": 10, "tie": 0, "lose": 10}
    assert "cannot be compared" in worth("J", calibration_result(items[:1], [], {}))
