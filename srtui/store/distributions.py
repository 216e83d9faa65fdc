"""How a run's scores are spread: by kind of variant, before and after, and in pairs."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from srtui.measures import STORED
from srtui.store import figures
from srtui.store._query import fetch_rows
from srtui.store.figures import ScoreName

if TYPE_CHECKING:
    from srtui.store import Store

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 20  # of the histogram, over 0 to 2; what is higher goes into the last
_STEPS = 2000  # to 1, in which the store counts scores (its migration 0008 has the formula)
QUANTILE_ERROR = 1 / _STEPS
_KINDS = ("original", "instruction_reflected", "response_reflected", "manual")


class ScoreRow(NamedTuple):
    """One score of one variant. NLLs are means, in nats a token of the target; ``tokens`` counts the target; without a
    ``value``, ``reason`` says why."""

    sample: int
    variant: int
    kind: str
    metric: str
    value: float | None
    reason: str | None
    conditional_nll: float | None
    unconditional_nll: float | None
    tokens: int | None
    truncated: int


_ROWS = (
    "SELECT v.sample_id AS sample, v.id AS variant, v.kind, s.metric, s.value, s.reason, "
    "c.nll / c.tokens AS conditional_nll, u.nll / u.tokens AS unconditional_nll, c.tokens AS tokens, "
    "coalesce(c.truncated, 0) AS truncated FROM run_sample rs JOIN variant v ON v.sample_id = rs.sample_id "
    "JOIN score s ON s.variant_id = v.id AND s.setting_id = ? AND s.metric = ? "
    "LEFT JOIN span_loss c ON c.key = s.conditional_key "
    "LEFT JOIN span_loss u ON u.key = s.unconditional_key "
    "WHERE rs.run_id = ? ORDER BY rs.sample_id, v.id"
)


def score_rows(store: Store, run_id: int) -> Iterator[ScoreRow]:
    """One row for each score of each variant of the run's samples, under the run's way of scoring; by
    metric, sample and variant, read as they are asked for."""
    setting = store.runs.get(run_id).setting_id or 0
    for metric in STORED:  # one after the other, for SQLite would sort all of both in memory
        for row in store.conn.execute(_ROWS, (setting, metric, run_id)):
            yield ScoreRow(*row)


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
        if r["reason"]:
            s.invalid[r["reason"]] = r["n"]
            continue
        s.scored += r["n"]
        sums[group] = sums.get(group, 0.0) + r["total"]
        s.at_or_over_one += r["n"] if r["bin"] >= _STEPS else 0
        s.histogram[max(0, min(BINS - 1, r["bin"] * BINS // (2 * _STEPS)))] += r["n"]
        steps.setdefault(group, []).append((r["bin"], r["n"]))
    for group, s in spreads.items():
        if s.scored:
            s.mean = sums[group] / s.scored
            s.quantiles = {f"{q:g}": _quantile_of_steps(steps[group], q) for q in QUANTILES}
    return [spreads[m, k] for m in STORED for k in _KINDS if (m, k) in spreads]


def _quantile_of_steps(steps: Sequence[tuple[int, int]], share: float) -> float:
    """As :func:`quantile`, the scores of a step taken as spread evenly over it."""
    position = share * (sum(n for _, n in steps) - 1)

    def ranked(rank: int) -> float:
        before = 0
        for step, n in steps:
            if rank < before + n:
                low, width = _limits(step)
                return low + width * (rank - before + 0.5) / n
            before += n
        raise IndexError(rank)

    low = ranked(math.floor(position))
    return low + (ranked(math.ceil(position)) - low) * (position - math.floor(position))


def _limits(step: int) -> tuple[float, float]:
    """Where a step begins, and how wide it is. Steps are rounded towards 0, so that below it they end where they are
    named after, and the one at 0 is of both sides; of a score that is never below 0 it is the half above."""
    if step < 0:
        return (step - 1) / _STEPS, 1 / _STEPS
    return (step / _STEPS, 1 / _STEPS) if step < 4 * _STEPS else ((step - 7960) / 10, 0.1)


def histogram(
    conn: sqlite3.Connection, run_id: int, score: ScoreName, width: float, bins: int
) -> tuple[list[int], float | None]:
    """Counts of one score in ``bins`` steps of ``width`` from 0, the first and the last one open; and the mean. Over
    the samples that have the score before as well as the final one, so that the two can be compared.

    Args:
        conn: of the store.
        run_id: of the run.
        score: one of srtui.store.figures.SCORES.
        width: of a step, in the score's unit.
        bins: how many steps.
    """
    column = figures.SCORES[score][0]
    where, tables = figures.both(score)
    counts, n, weighted = [0] * bins, 0, 0.0
    for r in fetch_rows(
        conn,
        f"SELECT min(CAST({column} / :width AS INTEGER), :last) AS bin, count(*) AS n, sum({column}) AS total "
        f"FROM run_sample b {figures.joins(*tables)} WHERE b.run_id = :run AND {where} GROUP BY 1",
        {"run": run_id, "setting": figures.setting_id_of(conn, run_id), "width": width, "last": bins - 1},
    ):
        counts[max(0, r["bin"])] += r["n"]
        n += r["n"]
        weighted += r["total"]
    return counts, weighted / n if n else None


class ScorePair(NamedTuple):
    """Both scores of a sample's final text, and whether it is kept."""

    sample_id: int
    ifd: float
    rifd: float
    kept: bool


def score_pairs(conn: sqlite3.Connection, run_id: int, limit: int = 4000) -> list[ScorePair]:
    """Both scores of the final texts that have both; of more than ``limit`` samples, evenly some."""
    step = max(1, figures.counts(conn, run_id).samples // limit)
    return [
        ScorePair(r[0], r[1], r[2], bool(r[3]))
        for r in fetch_rows(
            conn,
            f"SELECT b.sample_id, ifd1.value, rifd1.value, {figures.KEPT} FROM run_sample b {figures.joins('ifd1', 'rifd1', 'o')} "
            "WHERE b.run_id = :run AND b.sample_id % :step = 0 AND ifd1.value IS NOT NULL AND rifd1.value IS NOT NULL",
            {"run": run_id, "setting": figures.setting_id_of(conn, run_id), "step": step},
        )
    ]


def spread(values: Sequence[float]) -> Spread:
    """How these scores are spread, exactly."""
    import statistics  # not at the top: the dashboard reads histograms, and must be there at once

    ordered = sorted(values)
    histogram = [0] * BINS
    for value in ordered:
        histogram[max(0, min(BINS - 1, int(value * BINS / 2)))] += 1
    return Spread(
        len(ordered),
        statistics.fmean(ordered) if ordered else None,
        {f"{q:g}": quantile(ordered, q) for q in QUANTILES} if ordered else {},
        sum(v >= 1 for v in ordered),
        histogram,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the two nearest of position least one sorted value."""
    position = share * (len(ordered) - 1)
    low, high = math.floor(position), math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
