"""What a judge is worth: its agreement with known judgements, and the tie margin that this gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from srtui.evaluation.results import HALF_STEP, JudgedItem, pairs_of, parse_rate, position, unjudged
from srtui.evaluation.statistics import VERDICTS, Verdict, cohen, verdict, wilson
from srtui.store.evaluations import Item, Judgement

LEAST_PAIRS = 20
"""Fewer known judgements than this give no tie margin."""


def tie_margin(pairs: Sequence[JudgedItem]) -> float | None:
    """The margin with which most of this judge's verdicts are the known judge's, the least of several;
    None for fewer than 20 pairs."""
    if len(pairs) < LEAST_PAIRS:
        return None
    known = [known_verdict(p.item) for p in pairs]
    gaps = sorted({abs(d) for p in pairs for d in (p.ab, p.ba)})
    steps = [0.0, *gaps[:: max(1, len(gaps) // 50)]]

    def same(margin: float) -> int:
        return sum(k == verdict(p.ab, p.ba, margin) for k, p in zip(known, pairs, strict=True))

    return max(steps, key=lambda m: (same(m), -m))


def _unseen(pairs: Sequence[JudgedItem]) -> list[Verdict]:
    """This judge's verdicts, each half with the tie margin of the other, so that none chose its own."""
    margins = [tie_margin(pairs[n::2]) for n in (0, 1)]
    chosen = [HALF_STEP if m is None else m for m in margins]
    return [verdict(p.ab, p.ba, chosen[(n + 1) % 2]) for n, p in enumerate(pairs)]


def calibration_result(
    items: Sequence[Item], judgements: Sequence[Judgement], skipped: Mapping[str, int], seed: int = 0
) -> dict[str, Any]:
    """How far a judge agrees with known judgements, over win, tie and lose of both orders together.

    Its ties have a margin that the other half of the pairs gave; ``tie_margin`` is that of all, for later
    evaluations (None: too few pairs). ``better_than_chance`` is so where the interval of Cohen's kappa lies above
    0. ``known_itself`` is how the known judge agrees with itself between its two orders: nobody can be asked for
    much more.

    Args:
        items: the pairs, with their known scores.
        judgements: the judge's, both orders of each pair.
        skipped: by reason, how many pairs could not be asked about.
        seed: of the bootstrap's draws.
    """
    pairs = pairs_of(items, judgements)
    known = [known_verdict(p.item) for p in pairs]
    judged = _unseen(pairs)
    agreed = sum(a == b for a, b in zip(known, judged, strict=True))
    kappa = cohen(known, judged)
    known_counts, judged_counts = Counter(known), Counter(judged)
    n = len(pairs)
    chance = sum(known_counts[v] * judged_counts[v] for v in VERDICTS) / n**2 if n else None
    table = {
        a: {b: sum((x, y) == (a, b) for x, y in zip(known, judged, strict=True)) for b in VERDICTS}
        for a in VERDICTS
    }
    better = kappa["low"] is not None and kappa["low"] > 0
    orders = [_orders(p.item) for p in pairs]
    return {
        "pairs": len(items),
        "judged": n,
        "unjudged": unjudged(judgements),
        "skipped": dict(skipped),
        "agreement": wilson(agreed, n),
        "chance": chance,
        "kappa": kappa,
        "better_than_chance": better,
        "tie_margin": tie_margin(pairs),
        "table": table,
        "rank_correlation": _spearman(
            [p.ab + p.ba for p in pairs], [sum(_differences(p.item)) for p in pairs]
        ),
        "known_itself": cohen([a for a, _ in orders], [b for _, b in orders]),
        "position": position(pairs, seed),
        "parse": parse_rate(judgements),
        "categories": {
            c: {
                "agreement": wilson(
                    sum(a == b for p, a, b in zip(pairs, known, judged, strict=True) if p.item.category == c),
                    sum(p.item.category == c for p in pairs),
                ),
                "kappa": cohen(*_of_category(pairs, known, judged, c)),
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
    agreement = f"kappa {kappa['value']:.2f}"
    if kappa["low"] is not None:
        agreement += f", 95 % interval {kappa['low']:.2f} to {kappa['high']:.2f}"
    if not result["better_than_chance"]:
        return (
            f"{judge} is no better than chance on these {result['judged']} judgements ({agreement}): do not trust "
            "its verdicts."
        )
    return f"{judge} agrees with these {result['judged']} judgements beyond chance ({agreement})."


def known_verdict(item: Item) -> Verdict:
    """The known judge's verdict on a pair, from its scores in both orders."""
    return verdict(*_differences(item))


def _differences(item: Item) -> tuple[float, float]:
    """Answer 1's score less answer 2's, by the known judge, in each order."""
    scores, reverse = item.reference["scores"], item.reference["scores_reversed"]
    return scores[0] - scores[1], reverse[1] - reverse[0]


def _orders(item: Item) -> tuple[Verdict, Verdict]:
    first, second = _differences(item)
    return verdict(first, first), verdict(second, second)


def _of_category(
    pairs: Sequence[JudgedItem], known: Sequence[str], judged: Sequence[str], category: str
) -> tuple[list[str], list[str]]:
    chosen = [n for n, p in enumerate(pairs) if p.item.category == category]
    return [known[n] for n in chosen], [judged[n] for n in chosen]


def _spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation of the judges' differences of scores; None where one of them never varies."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)
