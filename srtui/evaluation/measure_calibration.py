"""What a measure is worth: how far its choice between two answers is that of somebody who knows.

Pure functions over values. A measure is a column of (value of answer 1, value of answer 2), higher preferred; None
where an answer has no value. docs/method.md defines every figure and the three verdicts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from srtui.evaluation.combination import Values
from srtui.evaluation.known_pairs import KnownPair
from srtui.evaluation.statistics import Estimate, no_estimate, wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTH = "length"
"""The measure that all others are held against: the longer answer, in characters."""

LIKE = 1.5
"""Two answers are of like length where the longer one has no more than this many times the other's characters."""

LEAST_PAIRS = 20
"""Fewer decided pairs than this say nothing of a measure."""

LEVEL = 0.05
"""Of McNemar's tests against length: two are made, over all pairs and over those of like length, at half of it."""

MeasureVerdict = Literal["better than chance", "no better than length", "no better than chance"]
Bounds = list["float | None"]


class MeasureWorth(TypedDict):
    """The figures of one measure; each triple is a value with its 95 % interval, None where there is none."""

    agreement: Bounds
    n: int
    like_length: Bounds
    like_length_n: int
    auc: Bounds
    with_length: Bounds
    with_position: Bounds
    beyond_length: Bounds
    against_length: dict[str, Any]
    unscored: int
    verdict: MeasureVerdict
    sentence: str


def length_ratio(pair: KnownPair) -> float:
    """Characters of the longer answer by those of the other."""
    low, high = sorted(len(a) for a in pair.answers)
    return high / max(low, 1)


def calibrated(
    pairs: Sequence[KnownPair], measures: Mapping[str, Values], names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The result of a calibration.

    ``measures`` are by name, each with a value for every pair; ``length`` is added. ``names`` are what the sentences
    call them. Ties are left out: whoever judged saw no better answer. Pairs of one question do not
    count as independent, but for the intervals of the AUC and of correlations.
    """
    lengths: Values = [
        (math.log(max(1, len(p.answers[0]))), math.log(max(1, len(p.answers[1])))) for p in pairs
    ]
    columns = {LENGTH: lengths, **{name: v for name, v in measures.items() if name != LENGTH}}
    decided = [n for n, p in enumerate(pairs) if p.preferred]
    like = [n for n in decided if length_ratio(pairs[n]) <= LIKE]
    return {
        "pairs": len(pairs),
        "questions": len({p.question for p in pairs}),
        "decided": len(decided),
        "ties": len(pairs) - len(decided),
        "like_length": len(like),
        "measures": {
            name: measure_worth(pairs, values, lengths, (names or {}).get(name, name), name == LENGTH)
            for name, values in columns.items()
        },
        "between": _between(pairs, columns),
    }


def measure_worth(
    pairs: Sequence[KnownPair], values: Values, lengths: Values, shown: str, is_length: bool = False
) -> MeasureWorth:
    """What one measure is worth.

    Args:
        pairs: the known pairs.
        values: by pair the measure's scores of its two answers; None where one has none.
        lengths: by pair the logarithms of its answers' characters.
        shown: what its sentence calls the measure.
        is_length: it is length itself, which is not held against itself.
    """
    used = [n for n, p in enumerate(pairs) if p.preferred and values[n] is not None]
    like = [n for n in used if length_ratio(pairs[n]) <= LIKE]
    right = {n: _right(values[n], pairs[n].preferred) for n in used}
    by_length = {n: _right(lengths[n], pairs[n].preferred) for n in used}
    agreement, among_like = (_agreement(right, pairs, group) for group in (used, like))
    over_all, over_like = (_mcnemar(right, by_length, pairs, group) for group in (used, like))
    verdict = _verdict(agreement, over_all, over_like, is_length)
    lead = np.array([_lead(values[n], pairs[n].preferred) for n in used])
    longer = np.array([_lead(lengths[n], pairs[n].preferred) for n in used])
    first = np.array([1.0 if pairs[n].preferred == 1 else -1.0 for n in used])
    return MeasureWorth(
        agreement=_bounds(agreement),
        n=len(used),
        like_length=_bounds(among_like),
        like_length_n=len(like),
        auc=_bounds(area(lead * first, first > 0)),
        with_length=_bounds(
            no_estimate(len(used)) if is_length else partial_correlation(lead, longer, first)
        ),
        with_position=_bounds(partial_correlation(lead, first, None if is_length else longer)),
        beyond_length=_bounds(
            no_estimate(len(used)) if is_length else partial_correlation(lead * first, first, longer * first)
        ),
        against_length={"all": over_all, "like_length": over_like},
        unscored=sum(p.preferred != 0 for p in pairs) - len(used),
        verdict=verdict,
        sentence=_sentence(shown, verdict, agreement, among_like, is_length),
    )


def _right(values: tuple[float, float] | None, preferred: int) -> float:
    """1 where the measure prefers the better answer, 1/2 where it prefers neither."""
    lead = _lead(values, preferred)
    return 1.0 if lead > 0 else 0.5 if lead == 0 else 0.0


def _lead(values: tuple[float, float] | None, preferred: int) -> float:
    """How far the preferred answer's value is above the other's."""
    assert values is not None  # noqa: S101 - callers leave out what has no values
    return values[0] - values[1] if preferred == 1 else values[1] - values[0]


def _agreement(right: Mapping[int, float], pairs: Sequence[KnownPair], indices: Sequence[int]) -> Estimate:
    """The share that is right, with its Wilson interval. Where questions have several pairs, which may share an answer,
    it is that of as many independent pairs as would vary as much (Kish's design effect)."""
    n, total = len(indices), sum(right[i] for i in indices)
    of_question: dict[Hashable, list[int]] = {}
    for i in indices:
        of_question.setdefault(pairs[i].question, []).append(i)
    if len(of_question) == n:
        return wilson(total, n)
    share, questions = total / n, len(of_question)
    if questions < 2:
        return Estimate(value=share, low=None, high=None, n=n)
    alone = sum((right[i] - share) ** 2 for i in indices)
    together = sum(sum(right[i] - share for i in own) ** 2 for own in of_question.values())
    effect = together * questions / (questions - 1) / alone if alone else n / questions
    worth = n / max(1.0, effect)
    bounds = wilson(share * worth, worth)
    return Estimate(value=share, low=bounds["low"], high=bounds["high"], n=n)


def _mcnemar(
    right: Mapping[int, float],
    other: Mapping[int, float],
    pairs: Sequence[KnownPair],
    indices: Sequence[int],
) -> dict[str, Any]:
    """How often one alone is right, and the exact probability (two-sided) of a split so uneven by chance
    (McNemar 1947). Pairs in which one of them prefers neither are left out. Of a question with several pairs the
    difference falls to one side or the other as a whole."""
    only_first = [n for n in indices if right[n] == 1 and other[n] == 0]
    only_other = [n for n in indices if right[n] == 0 and other[n] == 1]
    ahead = Counter(pairs[n].question for n in only_first)
    ahead.subtract(pairs[n].question for n in only_other)
    p = sign_flips([count for count in ahead.values() if count])
    return {"alone_right": len(only_first), "length_alone_right": len(only_other), "p": p}


def sign_flips(differences: Sequence[int]) -> float:
    """The exact probability of a sum at least as far from 0 as that of ``differences``, none of them 0, where each has
    either sign with probability one half. Of ones it is the binomial test."""
    from scipy.signal import fftconvolve
    from scipy.stats import binom, binomtest

    sizes = Counter(map(abs, differences))
    if not sizes:
        return 1.0
    if set(sizes) == {1}:
        return float(binomtest(sum(d > 0 for d in differences), len(differences)).pvalue)
    chances = np.ones(1)  # of a sum of -most, -most + 1, ... most
    for size, count in sizes.items():
        of_size = np.zeros(2 * size * count + 1)
        of_size[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = fftconvolve(chances, of_size)
    most, total = len(chances) // 2, abs(sum(differences))
    outside = np.abs(np.arange(-most, most + 1)) >= total
    return float(min(1.0, max(0.0, chances[outside].sum())))


def _verdict(
    agreement: Estimate, over_all: Mapping[str, Any], over_like: Mapping[str, Any], is_length: bool
) -> MeasureVerdict:
    if agreement["low"] is None or agreement["n"] < LEAST_PAIRS or agreement["low"] <= 0.5:
        return "no better than chance"
    if is_length:
        return "better than chance"
    beats = any(
        t["p"] < LEVEL / 2 and t["alone_right"] > t["length_alone_right"] for t in (over_all, over_like)
    )
    return "better than chance" if beats else "no better than length"


def _sentence(
    shown: str, verdict: MeasureVerdict, agreement: Estimate, like: Estimate, is_length: bool
) -> str:
    if agreement["value"] is None:
        return f"{shown} has no value for any decided pair, so nothing is known of it."
    estimate = (
        f"it agrees in {_share(agreement)} of {agreement['n']} pairs, and in {_share(like)} of the {like['n']} of "
        "like length"
    )
    if agreement["n"] < LEAST_PAIRS:
        return f"{shown} was tried on too few pairs to know: {estimate}."
    if verdict == "no better than chance":
        below = agreement["high"] is not None and agreement["high"] < 0.5
        warning = "; it prefers the worse answer" if below else ""
        return f"{shown} is no better than chance: {estimate}{warning}."
    if verdict == "no better than length":
        return f"{shown} is no better than taking the longer answer: {estimate}."
    beyond = "" if is_length else " and than taking the longer answer"
    return f"{shown} is better than chance{beyond}: {estimate}."


def _share(e: Estimate) -> str:
    if e["value"] is None or e["low"] is None or e["high"] is None:
        return "-"
    return f"{e['value']:.1%} ({e['low']:.1%} to {e['high']:.1%})"


def _bounds(e: Estimate) -> Bounds:
    return [e["value"], e["low"], e["high"]]


def _between(pairs: Sequence[KnownPair], columns: Mapping[str, Values]) -> dict[str, dict[str, float | None]]:
    """By two measures, the share of the decided pairs in which both take the same answer; a pair for which one of
    them prefers neither is half the same."""

    def signs(values: Values) -> NDArray[Any]:
        return np.array(
            [
                math.nan if v is None else float(np.sign(v[0] - v[1]))
                for v, p in zip(values, pairs, strict=True)
                if p.preferred
            ]
        )

    signs_by_measure = {name: signs(values) for name, values in columns.items()}

    def same(a: NDArray[Any], b: NDArray[Any]) -> float | None:
        known = np.isfinite(a) & np.isfinite(b)
        return float(((1 + a[known] * b[known]) / 2).mean()) if known.any() else None

    return {
        name: {other: same(a, b) for other, b in signs_by_measure.items()}
        for name, a in signs_by_measure.items()
    }


def area(score: NDArray[Any], positive: NDArray[Any]) -> Estimate:
    """Area under the ROC curve of ``score`` (n,) for telling ``positive`` (n,) rows from the others, ties as half,
    with DeLong's interval (DeLong et al. 1988), cut at 0 and 1. None where all rows are of one kind."""
    from scipy.stats import rankdata

    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return no_estimate(m + n)
    ranks = rankdata(score)
    above = (
        ranks[positive] - rankdata(score[positive])
    ) / n  # for each positive, the share of negatives below it
    below = 1 - (ranks[~positive] - rankdata(score[~positive])) / m
    value = float(above.mean())
    if m < 2 or n < 2:
        return Estimate(value=value, low=None, high=None, n=m + n)
    half = 1.959964 * math.sqrt(float(above.var(ddof=1)) / m + float(below.var(ddof=1)) / n)
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=m + n)


def partial_correlation(x: NDArray[Any], y: NDArray[Any], given: NDArray[Any] | None = None) -> Estimate:
    """Spearman's rank correlation of ``x`` and ``y`` (n,) with ``given`` (n,) held fixed, and Fisher's interval.

    Ranks of x and y are correlated after a straight line through the ranks of ``given`` is taken from each. None
    where a column never varies or nothing of it is left.
    """
    from scipy.stats import rankdata

    n, held = len(x), int(given is not None)
    if n < 5:
        return no_estimate(n)
    a, b = (rankdata(column) - (n + 1) / 2 for column in (x, y))
    whole = math.sqrt(float(a @ a) * float(b @ b))
    if given is not None:
        c = rankdata(given) - (n + 1) / 2
        if float(c @ c) == 0:
            held = 0
        else:
            a, b = (column - (column @ c) / (c @ c) * c for column in (a, b))
    size = math.sqrt(float(a @ a) * float(b @ b))
    if whole == 0 or size <= 1e-9 * whole:
        return no_estimate(n)
    value = max(-1.0, min(1.0, float(a @ b) / size))
    if abs(value) == 1.0:
        return Estimate(value=value, low=value, high=value, n=n)
    half = 1.959964 / math.sqrt(n - 3 - held)
    centre = math.atanh(value)
    return Estimate(value=value, low=math.tanh(centre - half), high=math.tanh(centre + half), n=n)
