"""Stored judgements as figures. Pure functions; docs/evaluation.md says what each figure is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srtui.evaluation.statistics import (
    VERDICTS,
    Verdict,
    bootstrap_mean,
    cohen,
    length_controlled,
    preference,
    verdict,
    wilson,
)
from srtui.store.evaluations import Item, Judgement

Lengths = Mapping[int, tuple[int, int]]
"""Characters of A's and B's answer, by item."""


@dataclass(frozen=True)
class Pair:
    """Both orders of one item, both with scores. A's score less B's is ``ab`` with A shown first."""

    item: Item
    first: Judgement
    second: Judgement

    @property
    def ab(self) -> float:
        return (self.first.score_a or 0.0) - (self.first.score_b or 0.0)

    @property
    def ba(self) -> float:
        return (self.second.score_a or 0.0) - (self.second.score_b or 0.0)

    @property
    def verdict(self) -> Verdict:
        return verdict(self.ab, self.ba)

    @property
    def score_a(self) -> float:
        return ((self.first.score_a or 0.0) + (self.second.score_a or 0.0)) / 2

    @property
    def score_b(self) -> float:
        return ((self.first.score_b or 0.0) + (self.second.score_b or 0.0)) / 2

    @property
    def preference(self) -> float:
        """How surely the judge prefers A, 0 to 1, from its distributions, over both orders."""
        both = [j.probabilities for j in (self.first, self.second)]
        return sum(preference(p["a"], p["b"]) for p in both if p) / 2


def pairs_of(items: Sequence[Item], judgements: Sequence[Judgement]) -> list[Pair]:
    """Items judged in both orders."""
    found = {(j.item, j.ordering): j for j in judgements if j.score_a is not None and j.score_b is not None}
    return [
        Pair(i, found[i.item, "ab"], found[i.item, "ba"])
        for i in items
        if (i.item, "ab") in found and (i.item, "ba") in found
    ]


def pairwise_result(
    items: Sequence[Item], judgements: Sequence[Judgement], lengths: Lengths, seed: int = 0
) -> dict[str, Any]:
    """Win, tie, lose of A against B, scores, position bias and parse rate, in all and by category."""
    pairs = pairs_of(items, judgements)
    categories = sorted({i.category for i in items})
    return {
        "items": len(items),
        "unjudged": _unjudged(judgements),
        **_compared(pairs, seed),
        "preference": bootstrap_mean([p.preference for p in pairs], seed),
        "length": {
            "a": _mean([lengths[p.item.item][0] for p in pairs]),
            "b": _mean([lengths[p.item.item][1] for p in pairs]),
        },
        "position": position(pairs, seed),
        "parse": parse_rate(judgements),
        "categories": {c: _compared([p for p in pairs if p.item.category == c], seed) for c in categories},
    }


def winrate_result(
    items: Sequence[Item], judgements: Sequence[Judgement], lengths: Lengths, seed: int = 0
) -> dict[str, Any]:
    """As :func:`pairwise_result`, and the win rate with length regressed out."""
    pairs = pairs_of(items, judgements)
    a, b = ([lengths[p.item.item][side] for p in pairs] for side in (0, 1))
    controlled = length_controlled([p.preference for p in pairs], a, b)
    return {**pairwise_result(items, judgements, lengths, seed), "length_controlled": controlled}


def turns_result(items: Sequence[Item], judgements: Sequence[Judgement], seed: int = 0) -> dict[str, Any]:
    """Mean scores by category and turn; an item's score is the mean of its turns."""
    scores = {(j.item, j.turn): j.score_a for j in judgements if j.score_a is not None}
    turns = sorted({j.turn for j in judgements})
    categories = sorted({i.category for i in items})

    def of(keep: Callable[[Item], bool], turn: int | None = None) -> Any:
        chosen = [i.item for i in items if keep(i)]
        rows = [[s for (item, t), s in scores.items() if item == n and turn in (None, t)] for n in chosen]
        return bootstrap_mean([sum(row) / len(row) for row in rows if row], seed)

    return {
        "items": len(items),
        "judged": len({item for item, _ in scores}),
        "unjudged": _unjudged(judgements),
        "score": of(lambda i: True),
        "turns": {str(t): of(lambda i: True, t) for t in turns},
        "parse": parse_rate(judgements),
        "categories": {
            c: {
                "score": of(lambda i, c=c: i.category == c),  # type: ignore[misc]
                "turns": {str(t): of(lambda i, c=c: i.category == c, t) for t in turns},  # type: ignore[misc]
            }
            for c in categories
        },
    }


def calibration_result(
    items: Sequence[Item], judgements: Sequence[Judgement], skipped: Mapping[str, int], seed: int = 0
) -> dict[str, Any]:
    """How far a judge agrees with known judgements, over win, tie and lose of both orders together.

    ``better_than_chance`` is so where the interval of Cohen's kappa lies above 0. ``known_itself`` is
    how the known judge agrees with itself between its two orders: nobody can be asked for much more.
    """
    pairs = pairs_of(items, judgements)
    known = [known_verdict(p.item) for p in pairs]
    found = [p.verdict for p in pairs]
    same = sum(a == b for a, b in zip(known, found, strict=True))
    kappa = cohen(known, found)
    count, mine = Counter(known), Counter(found)
    n = len(pairs)
    chance = sum(count[v] * mine[v] for v in VERDICTS) / n**2 if n else None
    table = {
        a: {b: sum((x, y) == (a, b) for x, y in zip(known, found, strict=True)) for b in VERDICTS}
        for a in VERDICTS
    }
    better = kappa["low"] is not None and kappa["low"] > 0
    own = [_orders(p.item) for p in pairs]
    return {
        "pairs": len(items),
        "judged": n,
        "unjudged": _unjudged(judgements),
        "skipped": dict(skipped),
        "agreement": wilson(same, n),
        "chance": chance,
        "kappa": kappa,
        "better_than_chance": better,
        "table": table,
        "rank_correlation": _spearman(
            [p.ab + p.ba for p in pairs], [sum(_differences(p.item)) for p in pairs]
        ),
        "known_itself": cohen([a for a, _ in own], [b for _, b in own]),
        "position": position(pairs, seed),
        "parse": parse_rate(judgements),
        "categories": {
            c: {
                "agreement": wilson(
                    sum(a == b for p, a, b in zip(pairs, known, found, strict=True) if p.item.category == c),
                    sum(p.item.category == c for p in pairs),
                ),
                "kappa": cohen(*_of_category(pairs, known, found, c)),
            }
            for c in sorted({i.category for i in items})
        },
    }


def worth(judge: str, result: Mapping[str, Any]) -> str:
    """What a calibration says of a judge, in a sentence."""
    kappa = result["kappa"]
    if kappa["value"] is None:
        return (
            f"{judge} and the known judge cannot be compared on {result['judged']} pairs (one verdict only); "
            "take more."
        )
    where = f"kappa {kappa['value']:.2f}"
    if kappa["low"] is not None:
        where += f", 95 % interval {kappa['low']:.2f} to {kappa['high']:.2f}"
    if not result["better_than_chance"]:
        return (
            f"{judge} is no better than chance on these {result['judged']} judgements ({where}): do not trust "
            "its verdicts."
        )
    return f"{judge} agrees with these {result['judged']} judgements beyond chance ({where})."


def known_verdict(item: Item) -> Verdict:
    """The known judge's verdict on a pair, from its scores in both orders."""
    return verdict(*_differences(item))


def position(pairs: Sequence[Pair], seed: int = 0) -> dict[str, Any]:
    """Does the place decide? ``first`` is the score of the answer shown first less that of the second,
    a mean over both orders, 0 without bias; ``first_twice`` counts items where whichever stood first
    was ahead, ``second_twice`` the contrary, ``consistent`` those where the same answer was ahead."""
    twice = Counter(
        "first_twice" if p.ab > 0 > p.ba else "second_twice" if p.ab < 0 < p.ba else "consistent"
        for p in pairs
    )
    return {
        "first": bootstrap_mean([(p.ab - p.ba) / 2 for p in pairs], seed),
        **{name: twice[name] for name in ("consistent", "first_twice", "second_twice")},
    }


def parse_rate(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """How often the judge's own words give scores, why not, and how near they are to its probabilities
    (``difference``, mean absolute). ``mass`` is the mean probability that it gave to any score at all."""
    asked = [j for j in judgements if j.score_a is not None and j.parsed != "not asked"]
    parsed = [j for j in asked if j.parsed == "parsed"]
    gaps = [
        abs(text - score)
        for j in parsed
        for text, score in ((j.text_score_a, j.score_a), (j.text_score_b, j.score_b))
        if text is not None and score is not None
    ]
    masses = [m for j in judgements if j.probabilities for m in j.probabilities["mass"]]
    return {
        "rate": wilson(len(parsed), len(asked)),
        "unparsed": dict(Counter(j.parsed for j in asked if j.parsed != "parsed")),
        "difference": _mean(gaps),
        "mass": _mean(masses),
    }


def _compared(pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    count = Counter(p.verdict for p in pairs)
    n = len(pairs)
    return {
        "judged": n,
        **{v: count[v] for v in VERDICTS},
        "win_rate": wilson(count["win"] + count["tie"] / 2, n),
        "winning_score": (count["win"] - count["lose"]) / n + 1 if n else None,
        "score_a": bootstrap_mean([p.score_a for p in pairs], seed),
        "score_b": bootstrap_mean([p.score_b for p in pairs], seed),
        "score_difference": bootstrap_mean([p.score_a - p.score_b for p in pairs], seed),
    }


def _unjudged(judgements: Sequence[Judgement]) -> dict[str, int]:
    return dict(Counter(j.parsed for j in judgements if j.score_a is None))


def _differences(item: Item) -> tuple[float, float]:
    """Answer 1's score less answer 2's, by the known judge, in each order."""
    scores, reverse = item.reference["scores"], item.reference["scores_reversed"]
    return scores[0] - scores[1], reverse[1] - reverse[0]


def _orders(item: Item) -> tuple[Verdict, Verdict]:
    first, second = _differences(item)
    return verdict(first, first), verdict(second, second)


def _of_category(
    pairs: Sequence[Pair], known: Sequence[str], found: Sequence[str], category: str
) -> tuple[list[str], list[str]]:
    chosen = [n for n, p in enumerate(pairs) if p.item.category == category]
    return [known[n] for n in chosen], [found[n] for n in chosen]


def _spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation of the judges' differences of scores; None where one of them never varies."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
