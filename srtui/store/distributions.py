"""How a run's scores are spread: what ``srtui scores`` prints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srtui.store import Store

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_PAPERS = {"instruction": "ifd", "response": "rifd"}
BINS = 20  # of the histogram, over 0 to 2; what is higher goes into the last
_COLUMNS = (
    "sample, variant, kind, metric, value, reason, conditional_nll, unconditional_nll, tokens, truncated"
)


def score_rows(store: Store, run_id: int) -> Iterator[dict[str, Any]]:
    """One row for each score of each variant of the run's samples, under the run's way of scoring.

    NLLs are means, in nats a token of the target; ``tokens`` counts the target.
    """
    setting = store.runs.get(run_id).setting_id or 0
    found = store.conn.execute(
        "SELECT v.sample_id AS sample, v.id AS variant, v.kind, s.metric, s.value, s.reason, "
        "c.nll / c.tokens AS conditional_nll, u.nll / u.tokens AS unconditional_nll, c.tokens AS tokens, "
        "coalesce(c.truncated, 0) AS truncated FROM run_sample rs JOIN variant v ON v.sample_id = rs.sample_id "
        "JOIN score s ON s.variant_id = v.id AND s.setting_id = ? "
        "LEFT JOIN span_loss c ON c.key = s.conditional_key "
        "LEFT JOIN span_loss u ON u.key = s.unconditional_key "
        "WHERE rs.run_id = ? ORDER BY s.metric, v.sample_id, v.id",
        (setting, run_id),
    )
    for row in found:
        yield dict(row)


def score_columns() -> list[str]:
    """The keys of :func:`score_rows`, in order."""
    return _COLUMNS.split(", ")


def distributions(store: Store, run_id: int) -> list[dict[str, Any]]:
    """By metric and kind of variant: count, quantiles, share at or over 1, truncated, invalid by
    reason, and a histogram of BINS counts over 0 to 2."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in score_rows(store, run_id):
        groups.setdefault((row["metric"], row["kind"]), []).append(row)
    kinds = ("original", "instruction_reflected", "response_reflected", "manual")
    return [
        {"metric": metric, "kind": kind, **spread([r["value"] for r in rows if r["value"] is not None])}
        | {"truncated": sum(bool(r["truncated"]) for r in rows), "invalid": _reasons(rows)}
        for metric in ("ifd", "rifd")
        for kind in kinds
        if (rows := groups.get((metric, kind)))
    ]


def chosen_scores(store: Store, run_id: int, stage: str) -> list[tuple[float, float]]:
    """(score of the text reflected on, score of what the student chose) of each sample that had a
    rewrite to choose and has both scores; IFD for ``instruction``, r-IFD for ``response``.

    None of a run that chooses by something else, as ablations do."""
    if store.runs.get(run_id).recipe["selection"].get(f"{stage}_by", _PAPERS[stage]) != _PAPERS[stage]:
        return []
    return [
        (r["first"], r["chosen"])
        for r in store.rows(
            "SELECT json_extract(compared, '$[0][1]') AS first, (SELECT json_extract(value, '$[1]') FROM json_each(compared) "
            "WHERE json_extract(value, '$[0]') = chosen_id) AS chosen FROM decision "
            "WHERE run_id = ? AND stage = ? AND json_array_length(compared) > 1 ORDER BY sample_id",
            (run_id, stage),
        )
        if r["first"] is not None and r["chosen"] is not None
    ]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Count, mean, quantiles, share at or over 1, and histogram of some scores."""
    ordered = sorted(values)
    histogram = [0] * BINS
    for value in ordered:
        histogram[min(BINS - 1, int(value * BINS / 2))] += 1
    return {
        "scored": len(ordered),
        "mean": statistics.fmean(ordered) if ordered else None,
        "quantiles": {f"{q:g}": quantile(ordered, q) for q in QUANTILES} if ordered else {},
        "at_or_over_one": sum(v >= 1 for v in ordered),
        "histogram": histogram,
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the two nearest of at least one sorted value."""
    at = share * (len(ordered) - 1)
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _reasons(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        if row["value"] is None:
            found[row["reason"] or "?"] = found.get(row["reason"] or "?", 0) + 1
    return found
