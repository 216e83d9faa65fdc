"""What the rest of a data set takes, by what a sample of it took: means with 95 % intervals, fixed costs apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from srtui.evaluation.statistics import Estimate, no_estimate


def for_the_rest(cost: float, computed: int, weights: Sequence[float], left: int) -> Estimate:
    """What ``left`` more samples cost, where ``computed`` samples cost ``cost`` together.

    A sample's part of the cost is in proportion to its weight (its tokens, its bytes), so the interval of the mean
    is Student's t with the weights' coefficient of variation: mean * (1 -+ t * cv / sqrt(computed)). It holds the
    chance in which samples were drawn, and nothing else: another speed of the machine is not in it.

    Args:
        cost: seconds, or bytes.
        computed: how many samples made that cost; those whose work was stored already made none.
        weights: of each sample of the pilot, its tokens or bytes; only their ratios count.
        left: samples that are still to be done.
    """
    if computed < 1 or cost < 0:
        return no_estimate(computed)
    total = left * cost / computed
    spread = _variation(weights)
    if computed < 2 or spread is None:
        return Estimate(value=total, low=None, high=None, n=computed)
    from scipy.stats import t

    half = float(t.ppf(0.975, computed - 1)) * spread / math.sqrt(computed)
    return Estimate(value=total, low=total * max(0.0, 1 - half), high=total * (1 + half), n=computed)


def together(parts: Iterable[Estimate], fixed: float = 0.0) -> Estimate:
    """The sum of parts, and of what is ``fixed`` and known. Bounds are added as they are: what makes one stage long
    makes the others long too, so nothing is gained from their number."""
    all_parts = list(parts)
    values = [p["value"] for p in all_parts]
    if not all_parts or any(v is None for v in values):
        return no_estimate()
    lows, highs = [p["low"] for p in all_parts], [p["high"] for p in all_parts]
    return Estimate(
        value=fixed + sum(v for v in values if v is not None),
        low=None if None in lows else fixed + sum(v for v in lows if v is not None),
        high=None if None in highs else fixed + sum(v for v in highs if v is not None),
        n=min(p["n"] for p in all_parts),
    )


def _variation(weights: Sequence[float]) -> float | None:
    """The coefficient of variation; None where it is not known."""
    if len(weights) < 2 or (mean := math.fsum(weights) / len(weights)) <= 0:
        return None
    return math.sqrt(math.fsum((w - mean) ** 2 for w in weights) / (len(weights) - 1)) / mean
