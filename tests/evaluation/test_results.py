"""Judgements as figures, worked out by hand."""

from __future__ import annotations

import pytest

from srtui.evaluation.judge_calibration import calibration_result, worth
from srtui.evaluation.results import TOO_LONG, pairwise_result, turns_result, winrate_result
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


def test_a_missing_answer_is_lost_and_reported() -> None:
    """It left the denominator, so a model that says nothing where it would lose gained."""
    said = [
        *JUDGEMENTS[:2],
        Judgement(1, "ab", parsed="no answer of A (empty)"),
        Judgement(1, "ba", parsed="no answer of A (empty)"),
        Judgement(2, "ab", parsed="no answer of B (too_long)"),
        Judgement(2, "ba", parsed="no answer of B (too_long)"),
        Judgement(3, "ab", parsed="no answer of A (empty)"),  # as older stores say it where both have none
        Judgement(3, "ba", parsed="no answer of A (empty)"),
        Judgement(4, "ab", parsed=TOO_LONG["a"]),
        Judgement(4, "ba", parsed="judge_context"),
    ]
    lengths = {0: (100, 50), 1: (0, 50), 2: (100, 0), 3: (0, 0), 4: (90000, 50)}
    r = pairwise_result(ITEMS, said, lengths)
    assert (r["judged"], r["win"], r["tie"], r["lose"]) == (5, 2, 1, 2)
    assert r["win_rate"]["value"] == 0.5 and r["win_rate"]["n"] == 5
    assert r["preference"]["value"] == pytest.approx((1 + 0 + 1 + 0.5 + 0) / 5)
    assert r["failed"]["a"] == 2 and r["failed"]["b"] == 1 and r["failed"]["both"] == 1
    assert r["failed"]["why"]["no answer of B (too_long)"] == 1 and r["unjudged"] == {}
    assert r["score_a"]["n"] == 1 and r["length"] == {"a": 100, "b": 50}
    assert r["categories"]["math"]["lose"] == 1 and r["categories"]["writing"]["win"] == 1
    controlled = winrate_result(ITEMS, said, lengths)["length_controlled"]
    assert controlled["raw"] == pytest.approx(0.5) and controlled["reason"] == "fewer than 10 judged items"


def test_a_difference_within_the_margin_is_a_tie() -> None:
    near = [
        Judgement(0, order, score_a=5.0001, score_b=5.0, probabilities=None, parsed="not asked")
        for order in ("ab", "ba")
    ]  # type: ignore[misc]
    assert pairwise_result(ITEMS[:1], near, LENGTHS)["win"] == 1
    r = pairwise_result(ITEMS[:1], near, LENGTHS, margin=0.5)
    assert (r["win"], r["tie"], r["tie_margin"]) == (0, 1, 0.5)


def test_preference_is_of_both_scores_together() -> None:
    """With marginals alone a second score that follows the first looks like a coin's."""
    half = [0.5 * (k in (4, 8)) for k in range(1, 11)]
    said = [
        Judgement(
            0, order, score_a=6.0, score_b=6.0, parsed="not asked",
            probabilities={"a": half, "b": half, "mass": [1.0, 1.0], "prefers_a": 0.9},
        )
        for order in ("ab", "ba")
    ]  # type: ignore[misc]  # fmt: skip
    assert pairwise_result(ITEMS[:1], said, LENGTHS)["preference"]["value"] == pytest.approx(0.9)


def test_a_judges_tie_margin_comes_from_its_calibration() -> None:
    """It says 0.2 points where the known judge sees a tie, and 2 where it does not."""
    items, said = [], []
    for n in range(40):
        apart = 2.0 if n % 4 < 2 else 0.2
        ahead = (-1) ** n
        known = {"scores": [5 + ahead * (apart > 1), 5], "scores_reversed": [5, 5 + ahead * (apart > 1)]}
        items.append(Item(n, "all", ("q",), known))
        said += [
            Judgement(n, order, score_a=5 + ahead * apart, score_b=5.0, parsed="not asked")
            for order in ("ab", "ba")
        ]  # type: ignore[misc]
    r = calibration_result(items, said, {})
    assert r["tie_margin"] == pytest.approx(0.2) and r["kappa"]["value"] == pytest.approx(1.0)
    assert calibration_result(items[:10], said[:20], {})["tie_margin"] is None


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
    assert r["turns"]["1"]["value"] == 6.0 and r["turns"]["2"]["value"] == 3.0  # none there: 1
    assert r["score"]["value"] == pytest.approx((5 + 5 + 3.5) / 3)
    assert r["categories"]["math"]["turns"]["1"]["value"] == 7.0
    assert r["judged"] == 3 and r["unjudged"] == {}
    assert r["failed"] == {"answers": 1, "why": {"no answer (too_long)": 1}}


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
