"""The table of what is done so far: each arm against the original data, with intervals and what they rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.evidence.arms import ARMS, ORIGINAL
from benchmarks.evidence.results import Part
from srtui.pipeline.ablate import Interval, paired_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 5000


@dataclass(frozen=True)
class Difference:
    """An arm less the original data, prompt by prompt and seed by seed.

    Attributes:
        interval: a t interval over seeds and prompts, crossed, as ``srtui ablate`` has it.
        bootstrap: the percentile bootstrap over seeds and prompts, both drawn anew, (low, high). With few seeds it is
            too narrow where seeds differ.
        prompts: how many of them, or questions.
        seeds: how many of them.
    """

    interval: Interval
    bootstrap: tuple[float, float]
    prompts: int
    seeds: int


@dataclass(frozen=True)
class Row:
    """One arm of one table, means over its seeds. ``loss`` and ``like_length`` are differences of L(y|x), nats a token;
    ``choices`` of accuracies, by task. ``agreement`` is a calibration's, of the measure that chose."""

    arm: str
    words: str
    seeds: int
    steps: float
    tokens: float
    samples: float
    taken: float
    right: float | None
    characters: float
    mean_loss: float
    loss: Difference | None
    like_length: Difference | None
    choices: dict[str, Difference]
    agreement: list[float | None] | None


def difference(arm: NDArray[Any], reference: NDArray[Any]) -> Difference | None:
    """Of values (seeds, prompts), paired in both ways; a prompt without a value in any of them is left out."""
    there = np.isfinite(arm).all(axis=0) & np.isfinite(reference).all(axis=0)
    if there.sum() < 2:
        return None
    a, b = arm[:, there], reference[:, there]
    seeds, prompts = a.shape
    drawn = np.random.default_rng(0)
    each = a - b
    means = np.array(
        [
            each[np.ix_(drawn.integers(seeds, size=seeds), drawn.integers(prompts, size=prompts))].mean()
            for _ in range(DRAWS)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(paired_interval(a, b), (float(low), float(high)), prompts, seeds)


def rows_of(
    parts: Sequence[Part],
    like_length: Sequence[bool],
    agreements: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Row]:
    """The rows of one table.

    Args:
        parts: of one student, replay and budget.
        like_length: of each held-out prompt.
        agreements: a calibration's figures, by measure; None where there is none yet.

    Returns:
        A row for each arm that has a part, in the order of ``ARMS``.
    """
    of = {arm.name: {p.seed: p for p in parts if p.arm == arm.name} for arm in ARMS}
    alike = np.array(like_length)
    made = []
    for arm in ARMS:
        mine = of[arm.name]
        if not mine:
            continue
        both = sorted(mine.keys() & of[ORIGINAL].keys()) if arm.name != ORIGINAL else []
        losses, reference = (_losses([some[s] for s in both]) for some in (mine, of[ORIGINAL]))
        known = (agreements or {}).get(arm.measure)
        every = list(mine.values())
        rights = [p.right / p.samples for p in every if p.right is not None]
        made.append(
            Row(
                arm.name, arm.words, len(mine), _mean(p.steps for p in every), _mean(p.tokens for p in every),
                _mean(p.samples for p in every), _mean(p.taken / p.samples for p in every),
                _mean(rights) if rights else None,
                _mean(p.characters for p in every), float(np.nanmean(_losses(every))),
                difference(losses, reference) if both else None,
                difference(losses[:, alike], reference[:, alike]) if both else None,
                _choices([mine[s] for s in both], [of[ORIGINAL][s] for s in both]),
                known["agreement"] if known else None,
            )
        )  # fmt: skip
    return made


def _losses(parts: Sequence[Part]) -> NDArray[Any]:
    return np.array([p.losses for p in parts], dtype=float)


def _choices(arm: Sequence[Part], reference: Sequence[Part]) -> dict[str, Difference]:
    found: dict[str, Difference] = {}
    for task in arm[0].choices if arm else ():
        both = difference(
            *(np.array([p.choices[task] for p in some], dtype=float) for some in (arm, reference))
        )
        if both is not None:
            found[task] = both
    return found


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def markdown(rows: Sequence[Row], untuned: Part | None) -> str:
    """One table; differences are from the original data, with their 95 % intervals."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.choices))
    head = ["arm", "trained on", "GPT-4 agrees", "rewrites", "better ones", "steps", "tokens", "loss less the original's",
            "of like length", *(f"{task}, points" for task in tasks), "seeds"]  # fmt: skip
    lines = [_line(head), _line(["---"] * len(head))]
    if untuned is not None:
        loss = float(np.nanmean(_losses([untuned])))
        lines.append(
            _line(["untuned", "nothing", "", "", "", "0", "0", f"({loss:.4f})", "", *[""] * len(tasks), ""])
        )
    for row in rows:
        shown = f"({row.mean_loss:.4f})" if row.loss is None else _difference(row.loss, "+.4f")
        cells = [
            row.arm, row.words, _percent(row.agreement), f"{row.taken:.0%}", "" if row.right is None else f"{row.right:.0%}",
            f"{row.steps:.0f}", f"{row.tokens:,.0f}", shown,
            "" if row.like_length is None else _difference(row.like_length, "+.4f"),
            *(_difference(row.choices[task], "+.1f", 100) if task in row.choices else "" for task in tasks),
            str(row.seeds),
        ]  # fmt: skip
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _difference(of: Difference, form: str, scale: float = 1) -> str:
    interval = of.interval
    low, high = (format(scale * bound, form) for bound in (interval.low, interval.high))
    return f"{format(scale * interval.mean, form)} ({low} to {high}){'' if interval.within_noise else ' *'}"


def _percent(agreement: Sequence[float | None] | None) -> str:
    if agreement is None or None in agreement:
        return ""
    value, low, high = agreement
    return f"{value:.0%} ({low:.0%} to {high:.0%})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
