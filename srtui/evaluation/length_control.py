"""The win rate with length taken out: AlpacaEval 2's model (Dubois et al. 2024, arXiv 2404.04475, section 3).

    logit P(model preferred) = theta + phi tanh(d / sd(d)) + psi difficulty(instruction)

with d the difference of lengths in characters; the controlled rate is the mean of its predictions at
d = 0. One evaluation cannot separate phi from theta where nearly all answers are shorter (or longer) than
the reference's, so theirs brings two things from outside, which a file holds here (:class:`Anchors`):
how hard each instruction is, fitted over many models, and judgements of the reference's own model asked
to be concise and to be verbose ("gamed"), which share phi and psi and no theta, and weigh 0.2 together.
The fit is L1-regularised, its strength chosen by cross-validation over 5 folds by log loss.

No L1 logistic fit that takes shares as targets is among srtui's dependencies (statsmodels' has no
sparse design and penalises the likelihood's mean; scikit-learn is there for development only), so
:func:`fit_l1` hands the smooth form of the problem to scipy's L-BFGS-B; tests hold it against liblinear.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from srtui.errors import UserError
from srtui.evaluation.statistics import Estimate, no_estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAMED_WEIGHT = 0.2
"""What all gamed rows of one instruction weigh together; a judged row weighs 1."""

STRENGTHS = tuple(10.0 ** (-4 + 8 * k / 9) for k in range(10))
"""Inverse strengths of the L1 penalty that cross-validation chooses from: scikit-learn's ten."""

FOLDS = 5
LEAST_ITEMS = 10
LEAST_SHARE = 0.05
"""Without anchors, this share of the items at least must be as long as the reference or longer, and as
long or shorter: else a rate at equal lengths is extrapolated. (With 1 % on one side a plain fit gives
19.8 % where AlpacaEval publishes 5.9 %.)"""

DRAWS = 200


@dataclass(frozen=True)
class LengthItem:
    """One judged item: ``preference`` for the model, 0 to 1, None where nobody judged it; lengths in
    characters. ``failed`` marks an item that was decided because an answer is missing: it counts in the
    rates as it is, and says nothing about length."""

    item: int
    preference: float | None
    length_model: int
    length_reference: int
    failed: bool = False


@dataclass(frozen=True)
class Anchors:
    """A table of difficulties and gamed rows. ``difficulty`` is in logits, by item; the arrays are one
    value a gamed row, lengths as (reference - model) / sd. ``models`` counts the gamed models;
    ``questions`` are digests of what was asked, where the file has them."""

    difficulty: Mapping[int, float]
    preference: tuple[float, ...] = ()
    length: tuple[float, ...] = ()
    gamed_difficulty: tuple[float, ...] = ()
    models: int = 0
    questions: Mapping[int, str] = field(default_factory=dict)
    name: str = ""
    sha256: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What is stored with an evaluation."""
        return {"file": self.name, "sha256": self.sha256, "items": len(self.difficulty), "gamed": self.models}


class LengthControlled(TypedDict):
    """A win rate with length taken out, 0 to 1, or None in it and a ``reason`` why there is none.

    ``raw`` is the mean preference, missing answers included. ``slope`` is phi in logits, with its interval:
    above 0 the judge prefers longer answers. ``difficulty`` is psi, None without anchors; ``strength`` the
    inverse penalty that was chosen, None without a penalty. (Older results have ``length``, the slope alone.)
    """

    win_rate: Estimate
    raw: float | None
    slope: Estimate
    difficulty: float | None
    strength: float | None
    anchors: dict[str, Any] | None
    reason: str | None


def alpaca_rows(records: Sequence[Mapping[str, Any]]) -> list[LengthItem]:
    """AlpacaEval's annotations: ``preference`` from 1 (reference) to 2 (model), 0 a draw, null not judged;
    ``item``, ``length_model``, ``length_reference``."""
    rows = []
    for r in records:
        preference = r["preference"]
        value = (
            None
            if preference is None or math.isnan(preference)
            else 0.5
            if preference == 0
            else float(preference) - 1.0
        )
        rows.append(LengthItem(int(r["item"]), value, int(r["length_model"]), int(r["length_reference"])))
    return rows


def raw_rate(rows: Sequence[LengthItem]) -> float | None:
    """The mean preference, 0 to 1, over what was judged; None where nothing was."""
    preferences = [r.preference for r in rows if r.preference is not None]
    return math.fsum(preferences) / len(preferences) if preferences else None


def is_extreme(raw: float, controlled: float) -> bool:
    """AlpacaEval's rule for a fit that failed: a controlled rate that is further from the raw one than a
    quarter of the way to the end of the scale, and than 10 points. Both 0 to 1."""
    too_small = controlled < min(raw - raw / 4, raw - 0.1)
    too_large = controlled > max(raw + (1 - raw) / 4, raw + 0.1)
    return too_small or too_large


def controlled_rate(
    rows: Sequence[LengthItem], anchors: Anchors | None = None, seed: int = 0, draws: int = DRAWS
) -> LengthControlled:
    """The rate that the model would have if its answers were as long as the reference's.

    With anchors, their model whole; its interval is a percentile bootstrap over items at the strength
    that was chosen. Without, theta and phi alone, unpenalised, with a robust covariance (preferences are
    shares, not draws); given only where the answers' lengths allow it and :func:`is_extreme` does not
    hold. Raises UserError where the anchors lack an item.

    Args:
        rows: one an item: preference and both lengths.
        anchors: difficulties and gamed rows; None without.
        seed: of the bootstrap.
        draws: of the bootstrap.
    """
    raw = raw_rate(rows)
    identities = anchors.identity if anchors else None
    judged = sum(r.preference is not None for r in rows)

    def none(reason: str, slope: Estimate | None = None) -> LengthControlled:
        slope = slope or no_estimate()
        return LengthControlled(
            win_rate=no_estimate(judged), raw=raw, slope=slope, difficulty=None,
            strength=None, anchors=identities, reason=reason,
        )  # fmt: skip

    used = [r for r in rows if not r.failed]
    has_preference = np.array([r.preference is not None for r in used], dtype=bool)
    difference = np.array([r.length_reference - r.length_model for r in used], dtype=float)
    if int(has_preference.sum()) < LEAST_ITEMS:
        return none(f"fewer than {LEAST_ITEMS} judged items")
    spread = float(difference.std(ddof=1))
    if spread == 0.0:
        return none("all length differences are equal")
    length = np.tanh(difference / spread)
    target = np.array([0.0 if r.preference is None else r.preference for r in used])
    decided = [r.preference for r in rows if r.failed and r.preference is not None]

    def whole(predicted: float) -> float:
        """The rate over all: what is predicted for each answer that is there, and the missing as they are."""
        return (predicted * len(used) + math.fsum(decided)) / (len(used) + len(decided))

    if anchors is None:
        return _plain(length, target, has_preference, difference, raw or 0.0, whole, none, judged)
    missing = next((r.item for r in used if r.item not in anchors.difficulty), None)
    if missing is not None:
        raise UserError(
            f"{anchors.name or 'The anchors'}: no difficulty for item {missing}; the table must be made for "
            "the same prompts, in the same order."
        )
    difficulty = np.array([anchors.difficulty[r.item] for r in used])
    design = np.column_stack([length, difficulty, np.ones(len(used))])[has_preference]
    gamed = np.column_stack([anchors.length, anchors.gamed_difficulty, np.zeros(len(anchors.length))])
    gamed[:, 0] = np.tanh(gamed[:, 0])
    light = GAMED_WEIGHT / max(1, anchors.models)
    x = np.vstack([gamed, design])
    y = np.concatenate([anchors.preference, target[has_preference]])
    weights = np.concatenate([np.full(len(gamed), light), np.ones(len(design))])
    strength, fitted = fit_l1_cv(x, y, weights)

    def rate(b: NDArray[Any]) -> float:
        return whole(float(_logistic(b[2] + b[1] * difficulty).mean()))

    generator = np.random.default_rng(seed)
    first, n = len(gamed), len(design)
    drawn = []
    for _ in range(draws):
        resample = np.concatenate([np.arange(first), first + generator.integers(0, n, n)])
        drawn.append(fit_l1(x[resample], y[resample], weights[resample], strength, start=fitted))
    bounds = np.percentile([[rate(b), -b[0]] for b in drawn], [2.5, 97.5], axis=0) if drawn else None

    def between(value: float, column: int) -> Estimate:
        low, high = (None, None) if bounds is None else map(float, bounds[:, column])
        return Estimate(value=value, low=low, high=high, n=judged)

    slope = between(float(-fitted[0]), 1)
    return LengthControlled(
        win_rate=between(rate(fitted), 0), raw=raw, slope=slope,
        difficulty=float(fitted[1]), strength=strength, anchors=identities, reason=None,
    )  # fmt: skip


def _plain(
    length: NDArray[Any], target: NDArray[Any], has_preference: NDArray[Any], difference: NDArray[Any], raw: float,
    whole: Callable[[float], float], none: Callable[..., LengthControlled], judged: int,
) -> LengthControlled:  # fmt: skip
    """Theta and phi alone."""
    # Not statsmodels.api, which takes seconds to import.
    from statsmodels.genmod import families
    from statsmodels.genmod.generalized_linear_model import GLM
    from statsmodels.tools.sm_exceptions import PerfectSeparationError

    longer, shorter = (
        float((difference[has_preference] <= 0).mean()),
        float((difference[has_preference] >= 0).mean()),
    )
    if min(longer, shorter) < LEAST_SHARE:
        side = "as long as the reference's" if longer < shorter else "as short as the reference's"
        return none(
            f"only {min(longer, shorter):.1%} of the answers are {side}, so a rate at equal lengths "
            "would be a guess; --anchors brings what it takes"
        )
    x = np.column_stack([np.ones(int(has_preference.sum())), -length[has_preference]])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = GLM(target[has_preference], x, family=families.Binomial()).fit(cov_type="HC1")
    except (np.linalg.LinAlgError, ValueError, PerfectSeparationError) as error:
        return none(f"the regression has no solution ({error})")
    (theta, phi), (e_theta, e_phi) = map(float, fit.params), map(float, fit.bse)
    # A logit beyond 15 is what a fit runs away to when length alone separates wins from losses.
    if not all(map(math.isfinite, (theta, phi, e_theta, e_phi))) or max(abs(theta), abs(phi)) > 15:
        return none("wins and losses are separated by length alone, so its part cannot be estimated")
    slope = Estimate(value=phi, low=phi - _Z * e_phi, high=phi + _Z * e_phi, n=judged)
    value, low, high = (whole(float(_logistic(theta + k * e_theta))) for k in (0.0, -_Z, _Z))
    if is_extreme(raw, value):
        return none(
            f"without anchors the fit moves the rate from {raw:.1%} to {value:.1%}, further than AlpacaEval's "
            "rule for a failed fit allows; --anchors brings what it takes",
            slope,
        )
    return LengthControlled(
        win_rate=Estimate(value=value, low=low, high=high, n=judged), raw=raw, slope=slope,
        difficulty=None, strength=None, anchors=None, reason=None,
    )  # fmt: skip


_Z = 1.959964


def fit_l1(
    x: Any, y: NDArray[Any], weights: NDArray[Any], strength: float, start: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Coefficients (k,) that minimise |b|_1 + strength * sum of weights * log loss, with no intercept.

    ``x`` is (n, k), dense or sparse; ``y`` (n,) are shares, 0 to 1. L1 is made smooth by b = u - v with
    u, v >= 0.

    Args:
        x: (n, k), dense or sparse.
        y: (n,), shares from 0 to 1.
        weights: (n,), from 0.
        strength: of the data against the penalty; higher shrinks less.
        start: (k,), where the search begins; zeros if None.
    """
    from scipy.optimize import minimize

    k = x.shape[1]
    scale = 1.0 / (1.0 + strength * float(weights.sum()))

    def loss(coefficients: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        z = x @ (coefficients[:k] - coefficients[k:])
        value = float(weights @ (np.logaddexp(0.0, z) - y * z))
        slope = x.T @ (weights * (_logistic(z) - y)) * strength
        total = (coefficients.sum() + strength * value) * scale
        return total, np.concatenate([1.0 + slope, 1.0 - slope]) * scale

    begin = np.zeros(2 * k) if start is None else np.concatenate([start.clip(0), (-start).clip(0)])
    minimum = minimize(
        loss, begin, jac=True, method="L-BFGS-B", bounds=[(0, None)] * (2 * k),
        options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13, "gtol": 1e-9},
    )  # fmt: skip
    return np.asarray(minimum.x[:k] - minimum.x[k:])


def fit_l1_cv(
    x: Any, y: NDArray[Any], weights: NDArray[Any], fold: NDArray[Any] | None = None
) -> tuple[float, NDArray[Any]]:
    """(the strength of least log loss over 5 folds, the coefficients with it over all rows).

    Rows go to folds in turn, or as ``fold`` (n,) has them. Each fold's loss is the weighted one's mean
    over its rows, and folds count the same, as AlpacaEval's cross-validation has it.

    Args:
        x: (n, k), dense or sparse.
        y: (n,), shares from 0 to 1.
        weights: (n,), from 0.
        fold: (n,), from 0 to 4; in turn if None.
    """
    fold = np.arange(len(y)) % FOLDS if fold is None else fold
    losses = np.zeros(len(STRENGTHS))
    for n in range(FOLDS):
        train, test = fold != n, fold == n
        b = None
        for place, strength in enumerate(STRENGTHS):
            b = fit_l1(x[train], y[train], weights[train], strength, start=b)
            q = _logistic(x[test] @ b).clip(1e-15, 1 - 1e-15)
            cost = y[test] * np.log(q) + (1 - y[test]) * np.log(1 - q)
            losses[place] -= float((cost * weights[test]).mean())
    best = STRENGTHS[int(losses.argmin())]
    return best, fit_l1(x, y, weights, best)


def _logistic(x: Any) -> Any:
    return np.exp(-np.logaddexp(0.0, -x))
