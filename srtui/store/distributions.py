"""How a run's scores are spread: what ``srtui scores`` prints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srtui.store import Store

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 20  # of the histogram, over 0 to 2; what is higher goes into the last
_STEPS = 2000  # to 1, in which the store counts scores (its migration 0008 has the formula)
QUANTILE_ERROR = 1 / _STEPS
_KINDS = ("original", "instruction_reflected", "response_reflected", "manual")
_COLUMNS = (
    "sample, variant, kind, metric, value, reason, conditional_nll, unconditional_nll, tokens, truncated"
)


_ROWS = (
    "SELECT v.sample_id AS sample, v.id AS variant, v.kind, s.metric, s.value, s.reason, "
    "c.nll / c.tokens AS conditional_nll, u.nll / u.tokens AS unconditional_nll, c.tokens AS tokens, "
    "coalesce(c.truncated, 0) AS truncated FROM run_sample rs JOIN variant v ON v.sample_id = rs.sample_id "
    "JOIN score s ON s.variant_id = v.id AND s.setting_id = ? AND s.metric = ? "
    "LEFT JOIN span_loss c ON c.key = s.conditional_key "
    "LEFT JOIN span_loss u ON u.key = s.unconditional_key "
    "WHERE rs.run_id = ? ORDER BY rs.sample_id, v.id"
)


def score_rows(store: Store, run_id: int) -> Iterator[dict[str, Any]]:
    """One row for each score of each variant of the run's samples, under the run's way of scoring; by
    metric, sample and variant, read as they are asked for.

    NLLs are means, in nats a token of the target; ``tokens`` counts the target.
    """
    setting = store.runs.get(run_id).setting_id or 0
    for metric in ("ifd", "rifd"):  # one after the other, for SQLite would sort all of both in memory
        for row in store.conn.execute(_ROWS, (setting, metric, run_id)):
            yield dict(row)


def score_columns() -> list[str]:
    """The keys of :func:`score_rows`, in order."""
    return _COLUMNS.split(", ")


@dataclass
class Spread:
    """How some scores (ratios of perplexities) are spread: quantiles by their share as text ("0.5"), how many
    are at or over 1, and counts in BINS bins over 0 to 2. ``mean`` is None where nothing has a score."""

    scored: int = 0
    mean: float | None = None
    quantiles: dict[str, float] = field(default_factory=dict)
    at_or_over_one: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)


@dataclass
class ScoreSpread:
    """The spread of one metric over one kind of variant: the fields of :class:`Spread`, how many targets
    were truncated, and how many texts have no score, by reason."""

    metric: str
    kind: str
    scored: int = 0
    mean: float | None = None
    quantiles: dict[str, float] = field(default_factory=dict)
    at_or_over_one: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)
    truncated: int = 0
    invalid: dict[str, int] = field(default_factory=dict)


def distributions(store: Store, run_id: int) -> list[ScoreSpread]:
    """By metric and kind of variant: count, mean, quantiles, share at or over 1, truncated, invalid by
    reason, and a histogram of BINS counts over 0 to 2.

    Read from the counts that the store keeps by steps of score. All are exact but the quantiles, which
    are off by at most QUANTILE_ERROR (0.1 where they are above 4).
    """
    spreads: dict[tuple[str, str], ScoreSpread] = {}
    steps: dict[tuple[str, str], list[tuple[int, int]]] = {}
    sums: dict[tuple[str, str], float] = {}
    for r in store.conn.execute(
        "SELECT metric, kind, reason, bin, n, total, truncated FROM score_bin WHERE run_id = ? ORDER BY metric, kind, bin",
        (run_id,),
    ):
        group = r["metric"], r["kind"]
        s = spreads.setdefault(group, ScoreSpread(*group))
        s.truncated += r["truncated"]
        if r["bin"] < 0:
            s.invalid[r["reason"]] = r["n"]
            continue
        s.scored += r["n"]
        sums[group] = sums.get(group, 0.0) + r["total"]
        s.at_or_over_one += r["n"] if r["bin"] >= _STEPS else 0
        s.histogram[min(BINS - 1, r["bin"] * BINS // (2 * _STEPS))] += r["n"]
        steps.setdefault(group, []).append((r["bin"], r["n"]))
    for group, s in spreads.items():
        if s.scored:
            s.mean = sums[group] / s.scored
            s.quantiles = {f"{q:g}": _quantile_of_steps(steps[group], q) for q in QUANTILES}
    return [spreads[m, k] for m in ("ifd", "rifd") for k in _KINDS if (m, k) in spreads]


def _quantile_of_steps(steps: Sequence[tuple[int, int]], share: float) -> float:
    """As :func:`quantile`, the scores of a step taken as spread evenly over it."""
    at = share * (sum(n for _, n in steps) - 1)

    def ranked(rank: int) -> float:
        before = 0
        for step, n in steps:
            if rank < before + n:
                low, width = (step / _STEPS, 1 / _STEPS) if step < 4 * _STEPS else ((step - 7960) / 10, 0.1)
                return low + width * (rank - before + 0.5) / n
            before += n
        raise IndexError(rank)

    low = ranked(math.floor(at))
    return low + (ranked(math.ceil(at)) - low) * (at - math.floor(at))


def spread(values: Sequence[float]) -> Spread:
    """How these scores are spread, exactly."""
    ordered = sorted(values)
    histogram = [0] * BINS
    for value in ordered:
        histogram[min(BINS - 1, int(value * BINS / 2))] += 1
    return Spread(
        len(ordered),
        statistics.fmean(ordered) if ordered else None,
        {f"{q:g}": quantile(ordered, q) for q in QUANTILES} if ordered else {},
        sum(v >= 1 for v in ordered),
        histogram,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the two nearest of at least one sorted value."""
    at = share * (len(ordered) - 1)
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
