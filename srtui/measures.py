"""IFD and r-IFD, as pure mathematics (Li et al., ACL 2024, sections 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Metric = Literal["ifd", "rifd"]


@dataclass(frozen=True)
class SpanLoss:
    """The loss of a target: ``nll`` is summed over its ``tokens``, in nats. With a ``reason`` there
    is no loss, and ``nll`` is None. Stored as it is computed."""

    nll: float | None
    tokens: int
    truncated: bool = False
    reason: str | None = None

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


def share_at_or_over_one(values: Sequence[float]) -> float:
    """Share of scores that the selection drops."""
    return sum(v >= 1 for v in values) / len(values) if values else 0.0
