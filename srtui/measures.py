"""IFD and r-IFD, as pure mathematics (Li et al., ACL 2024, sections 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Metric = Literal["ifd", "rifd"]


@dataclass(frozen=True)
class SpanLoss:
    """The loss of a target: ``nll`` is summed over its ``tokens``, in nats. With a ``reason`` there
    is no loss, and ``nll`` is None. Stored as it is computed. ``by_token`` (tokens,) has each token's own
    loss in nats where it was asked for."""

    nll: float | None
    tokens: int
    truncated: bool = False
    reason: str | None = None
    by_token: NDArray[Any] | None = field(default=None, compare=False, repr=False)

    @property
    def mean(self) -> float:
        """Mean NLL, nats a token: L(y|x) or L(y). Raises ValueError where there is no loss."""
        if self.nll is None:
            raise ValueError(f"a span without a loss ({self.reason}) has no mean")
        return self.nll / self.tokens


def perplexity(loss: SpanLoss) -> float:
    """exp of the mean NLL."""
    return math.exp(loss.mean)


def ifd(conditional: SpanLoss, unconditional: SpanLoss) -> tuple[float | None, str | None]:
    """IFD(y|x) = ppl(y|x) / ppl(y): the ratio, or None and the reason. Never a zero for a failure."""
    return _ratio(conditional, unconditional)


def rifd(conditional: SpanLoss, unconditional: SpanLoss) -> tuple[float | None, str | None]:
    """r-IFD(x|y) = ppl(x | prompt(y)) / ppl(x): the ratio, or None and the reason."""
    return _ratio(conditional, unconditional)


def _ratio(conditional: SpanLoss, unconditional: SpanLoss) -> tuple[float | None, str | None]:
    for loss in (conditional, unconditional):
        if loss.reason is not None:
            return None, loss.reason
        if loss.tokens <= 0:
            return None, "empty_target"
        if loss.nll is None or not math.isfinite(loss.nll):
            return None, "non_finite"
    try:
        value = math.exp(conditional.mean - unconditional.mean)
    except OverflowError:
        return None, "non_finite"
    # exp underflows to 0 for a difference below -745 nats a token: no language model says that.
    return (value, None) if value > 0 else (None, "non_finite")


def likelihood(conditional: SpanLoss) -> tuple[float | None, str | None]:
    """log p(y|x) / tokens of y, in nats a token: how probable the student finds a response, length-normalised
    (GRAPE, Zhang et al. 2025, arXiv 2502.04194); or None and the reason."""
    if conditional.reason is not None:
        return None, conditional.reason
    if conditional.tokens <= 0:
        return None, "empty_target"
    value = -conditional.mean
    return (value, None) if math.isfinite(value) else (None, "non_finite")


INFORMATIVE = 0.5
"""The share of a data set's response tokens that S-IFD counts (T-SHIRT's released default)."""


def informative_threshold(differences: Sequence[NDArray[Any]], share: float = INFORMATIVE) -> float:
    """The |difference| above which a token is informative: one percentile over all tokens of a data set.

    ``differences`` are arrays (tokens,) of loss given the instruction less loss without, in nats. Raises
    ValueError where there is no token (T-SHIRT, Fu et al. 2025, arXiv 2506.01317).
    """
    import numpy as np

    if not sum(len(d) for d in differences):
        raise ValueError("there is no token to take a percentile of")
    return float(np.quantile(np.abs(np.concatenate(differences)), 1 - share))


def selective_ifd(difference: NDArray[Any], threshold: float) -> float:
    """S-IFD: exp of the mean difference (tokens,) over the informative tokens, those whose |difference| is above
    ``threshold``; 1 where none is. With a threshold below 0 it is IFD."""
    import numpy as np

    counted = np.asarray(difference, dtype=float)[np.abs(difference) > threshold]
    return math.exp(float(counted.mean())) if len(counted) else 1.0


def share_at_or_over_one(values: Sequence[float]) -> float:
    """Share of scores that the selection drops."""
    return sum(v >= 1 for v in values) / len(values) if values else 0.0
