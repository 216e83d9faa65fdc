"""The mathematics of comparisons: pure functions over counts and scores.

Intervals are at 95 %. statsmodels and scipy do the work and are imported where they are needed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import numpy as np

Verdict = Literal["win", "tie", "lose"]
VERDICTS: tuple[Verdict, ...] = ("win", "tie", "lose")
DRAWS = 5000


class Estimate(TypedDict):
    """A value with its 95 % interval; bounds are None where the data give none. ``n`` is how many
    observations it stands on."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def no_estimate(n: int = 0) -> Estimate:
    """The estimate where there is none: of ``n`` samples, without value and interval."""
    return Estimate(value=None, low=None, high=None, n=n)


def wilson(successes: float, n: float) -> Estimate:
    """A share with its Wilson score interval (Wilson 1927); half successes are allowed, and parts of an observation."""
    if n == 0:
        return no_estimate()
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, method="wilson")
    return Estimate(value=successes / n, low=float(low), high=float(high), n=int(n))


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """A mean with its percentile bootstrap interval (Efron 1979), the same for the same seed."""
    if not values:
        return no_estimate()
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(value=mean, low=None, high=None, n=len(values))
    from scipy.stats import bootstrap

    resampled = bootstrap(
        (np.asarray(values, dtype=float),), np.mean, n_resamples=DRAWS, method="percentile",
        batch=max(1, 2**22 // len(values)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = resampled.confidence_interval
    return Estimate(value=mean, low=float(low), high=float(high), n=len(values))


def verdict(first: float, second: float, margin: float = 0.0) -> Verdict:
    """A against B over both orders; each argument is A's score less B's in one order, a tie where it is
    no more than ``margin`` either way.

    A wins where it is ahead in both orders, or in one with a tie in the other; a disagreement is a
    tie (AlpaGasus, Chen et al. 2023, section 4; Li et al. 2024, section 4).
    """
    total = sum((d > margin) - (d < -margin) for d in (first, second))
    return "win" if total > 0 else "lose" if total < 0 else "tie"


def preference(p_a: Sequence[float], p_b: Sequence[float]) -> float:
    """P(A's score is above B's) + half of P(they are equal), for two distributions over the same scores."""
    a, b = np.asarray(p_a, dtype=float), np.asarray(p_b, dtype=float)
    below = np.concatenate([[0.0], np.cumsum(b)[:-1]])
    return float(np.sum(a * (below + b / 2)) / (a.sum() * b.sum()))


def cohen(first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Cohen's kappa (1960) of two raters over the same items, with its asymptotic interval.

    None where chance alone would agree wholly: both raters have only ever said the same one thing.
    """
    n = len(first)
    names = sorted({*first, *second})
    if n == 0 or len(names) < 2:
        return no_estimate(n)
    from statsmodels.stats.inter_rater import cohens_kappa

    table = np.zeros((len(names), len(names)))
    for a, b in zip(first, second, strict=True):
        table[names.index(a), names.index(b)] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agreement = cohens_kappa(table)
    value = float(agreement.kappa)
    if not math.isfinite(value):
        return no_estimate(n)
    low, high = float(agreement.kappa_low), float(agreement.kappa_upp)
    if not math.isfinite(low) or not math.isfinite(high):
        return Estimate(value=value, low=None, high=None, n=n)
    return Estimate(value=value, low=max(low, -1.0), high=min(high, 1.0), n=n)


def fleiss(ratings: Sequence[Sequence[str]], seed: int = 0) -> Estimate:
    """Fleiss' kappa (1971); ``ratings`` has a row an item, a column a rater. Bootstrap over items."""
    n = len(ratings)
    names = sorted({word for row in ratings for word in row})
    if n == 0 or len(names) < 2:
        return no_estimate(n)
    from statsmodels.stats.inter_rater import fleiss_kappa

    table = np.array([[list(row).count(name) for name in names] for row in ratings], dtype=float)

    def kappa(rows: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(fleiss_kappa(rows))

    value = kappa(table)
    generator = np.random.default_rng(seed)
    drawn = [kappa(table[generator.integers(0, n, n)]) for _ in range(1000)] if n > 1 else []
    kept = [k for k in drawn if math.isfinite(k)]
    if not kept:
        return Estimate(value=value, low=None, high=None, n=n)
    low, high = np.percentile(kept, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high), n=n)
