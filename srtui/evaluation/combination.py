"""A logistic combination of measures, fitted on pairs of answers of which the better one is known.

The log odds that answer 1 is the better one are the sum of weight x (value of answer 1 - value of answer 2): a
Bradley-Terry model without a constant, so that which answer stands first decides nothing. A small ridge penalty on
the weights of standardised differences keeps measures that say the same from running away.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from srtui.errors import UserError
from srtui.hashing import draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDS = 5
RIDGE = 1.0
"""The penalty: half of it times the sum of squared weights, of differences with a root mean square of 1."""
LEAST_PAIRS = 50
"""Fewer decided pairs with all values give no weights."""

Values = Sequence["tuple[float, float] | None"]
"""By pair a measure's scores of its two answers; None where one has none."""


@dataclass(frozen=True)
class Combination:
    """``weights`` by measure, for levels as they are; ``held_out`` the value of each pair's two answers by the
    weights of folds that it was not in."""

    weights: dict[str, float]
    held_out: list[tuple[float, float] | None]


def fit_combination(
    preferred: Sequence[int],
    columns: Mapping[str, Values],
    seed: int = 0,
    questions: Sequence[Hashable] | None = None,
) -> Combination | str:
    """Weights over all decided pairs with all values, and held-out values over 5 folds drawn by ``seed``; or why
    there are none.

    Args:
        preferred: 1 or 2 for the better answer of each pair, 0 for a tie.
        columns: by measure, the values of each pair's answers, higher preferred.
        seed: draws the folds.
        questions: what each pair answers; pairs of one question may share an answer, and are in one fold. None where
            each has its own.
    """
    names = _different(columns)
    rows = [n for n, p in enumerate(preferred) if p and all(columns[name][n] is not None for name in names)]
    if len(rows) < LEAST_PAIRS:
        return f"{len(rows)} decided pairs have all values, and it takes {LEAST_PAIRS}"
    x = np.array([[_difference(columns[name][n]) for name in names] for n in rows])
    y = np.array([float(preferred[n] == 1) for n in rows])
    of_question: dict[Hashable, list[int]] = {}
    for row, n in enumerate(rows):
        of_question.setdefault(row if questions is None else questions[n], []).append(row)
    if len(of_question) < FOLDS:
        return f"the pairs are of {len(of_question)} questions, and it takes {FOLDS} to hold some out"
    fold = np.empty(len(rows), dtype=np.int64)
    for place, members in enumerate(sorted(of_question.values(), key=lambda own: draw(seed, "fold", own[0]))):
        fold[members] = place % FOLDS
    held_out: list[tuple[float, float] | None] = [None] * len(preferred)
    for k in range(FOLDS):
        weights = fit_logistic(x[fold != k], y[fold != k])
        for i in np.flatnonzero(fold == k):
            n = rows[i]
            pair_levels = [_pair(columns[name][n]) for name in names]
            held_out[n] = (
                float(sum(w * b[0] for w, b in zip(weights, pair_levels, strict=True))),
                float(sum(w * b[1] for w, b in zip(weights, pair_levels, strict=True))),
            )
    whole = fit_logistic(x, y)
    return Combination(dict(zip(names, map(float, whole), strict=True)), held_out)


def refuse_too_few(decided: int) -> None:
    """Raises UserError where so many decided pairs give no weights, whatever values they will have."""
    if decided < LEAST_PAIRS:
        raise UserError(
            f"There are {decided} decided pairs, and weights take {LEAST_PAIRS}; add pairs, or leave out --fit to see "
            "what each measure is worth."
        )


def fit_logistic(x: NDArray[Any], y: NDArray[Any], ridge: float = RIDGE) -> NDArray[Any]:
    """Weights (k,) of a logistic model without a constant: x (n, k), y (n,) 0 or 1. Newton's method on the penalised
    log loss of columns scaled to a root mean square of 1; the weights are of the columns as they came."""
    scale = np.sqrt((x**2).mean(axis=0))
    scale[scale == 0] = 1.0
    z = x / scale
    weights = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(z @ weights, -500, 500)))
        slope = z.T @ (p - y) + ridge * weights
        curvature = (z * (p * (1 - p))[:, None]).T @ z + ridge * np.eye(len(weights))
        step = np.linalg.solve(curvature, slope)
        # A full step may overshoot where the loss is far from a parabola; no weight moves by more than 5 at once.
        weights = weights - step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-10:
            break
    fitted: NDArray[Any] = weights / scale
    return fitted


def _different(columns: Mapping[str, Values]) -> list[str]:
    """The measures that are not one of those before by another scale."""
    names: list[str] = []
    for name, values in columns.items():
        if not any(_alike(values, columns[other]) for other in names):
            names.append(name)
    return names


def _alike(first: Values, other: Values) -> bool:
    known_pairs = [
        (_difference(a), _difference(b))
        for a, b in zip(first, other, strict=True)
        if a is not None and b is not None
    ]
    a, b = np.array(known_pairs).T if known_pairs else (np.zeros(1), np.zeros(1))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return size > 0 and abs(float(a @ b)) / size > 0.9999


def _pair(values: tuple[float, float] | None) -> tuple[float, float]:
    assert values is not None  # noqa: S101 - rows without a value were left out
    return values


def _difference(values: tuple[float, float] | None) -> float:
    first, second = _pair(values)
    return first - second
