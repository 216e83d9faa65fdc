"""The token limits that would have held 95 % of what a teacher wrote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from srtui.evaluation.statistics import Estimate, no_estimate
from srtui.recipe import ReflectionSettings
from srtui.sample import Target

HELD = 0.95
_STEP = 64


@dataclass(frozen=True)
class Limit:
    """One limit of a recipe. ``written`` texts met it or not; ``cut`` of them did at the first try. ``tokens`` is how
    long the text is that 95 % are no longer than, without a value where more than 5 % were still cut in the most
    room that they had (``most``), so that all that is known is that it is more."""

    key: str
    now: int
    written: int
    cut: int
    tokens: Estimate
    most: int

    @property
    def suggested(self) -> int | None:
        """The limit to set, in steps of 64 tokens; None where the one that is set holds 95 % already."""
        enough = self.tokens["value"]
        beyond = self.most if self.most > self.now else 2 * self.now  # a later try has had more room
        tokens = beyond if enough is None else enough
        if not self.written or tokens <= self.now:
            return None
        return math.ceil(tokens / _STEP) * _STEP


class Written(NamedTuple):
    """What a teacher wrote at one try: of each segment its part, how it ended, its tokens, and the most that it could
    have had, None where that is not known."""

    attempt: int
    segments: Sequence[tuple[str, str, int, int | None]]


def limits_met(
    settings: ReflectionSettings, samples: Iterable[tuple[Target, Sequence[Written]]]
) -> list[Limit]:
    """The limits of a recipe that texts met, each over all texts that were written under it.

    ``samples`` are what was written for each sample and target, the first try first.
    """
    if settings.mode == "free":
        keys = {("instruction", "text"): "answer_tokens", ("response", "text"): "answer_tokens"}
    else:
        keys = {
            ("instruction", "instruction"): "instruction_tokens",
            ("instruction", "response"): "answer_tokens",
            ("response", "response"): "answer_tokens",
        }
    lengths: dict[str, list[int | None]] = {}
    cut: Counter[str] = Counter()
    most: dict[str, int] = {}
    for target, written in samples:
        for (part_target, part), key in keys.items():
            tries = [
                (attempt, finish, tokens, room)
                for attempt, segments in written
                for name, finish, tokens, room in segments
                if name == part and finish != "repetition"  # more room would hold no more of a loop
            ]
            if part_target != target or not tries:
                continue
            whole = [tokens for _, finish, tokens, _ in tries if finish != "length"]
            lengths.setdefault(key, []).append(max(whole) if whole else None)
            cut[key] += any(attempt == 1 and finish == "length" for attempt, finish, _, _ in tries)
            if not whole:
                most[key] = max(most.get(key, 0), *(room or tokens for _, _, tokens, room in tries))
    now = {"instruction_tokens": settings.instruction_tokens, "answer_tokens": settings.answer_tokens}
    return [
        Limit(
            f"reflection.{key}",
            limit,
            len(lengths[key]),
            cut[key],
            quantile_of_lengths(lengths[key]),
            most.get(key, limit),
        )
        for key, limit in now.items()
        if key in lengths
    ]


def quantile_of_lengths(lengths: Sequence[int | None]) -> Estimate:
    """The 95 % quantile of lengths in tokens; None stands for a text that was cut off, longer than all others.

    The bounds are order statistics (David and Nagaraja 2003, 7.1): each is passed with 2.5 % probability at most. Of
    fewer than 72 texts there is no upper one: 0.95^72 is just below 2.5 %.
    """
    n = len(lengths)
    if not n:
        return no_estimate()
    ordered = sorted(math.inf if x is None else x for x in lengths)
    from scipy.stats import binom

    def at(rank: int) -> float | None:
        value = ordered[rank - 1]
        return None if math.isinf(value) else float(value)

    low_rank = int(binom.ppf(0.025, n, HELD))  # P(fewer than this many are below the quantile) <= 2.5 %
    high_rank = int(binom.ppf(0.975, n, HELD)) + 1
    return Estimate(
        value=at(max(1, math.ceil(HELD * n - 1e-9))),
        low=at(low_rank) if low_rank >= 1 else None,
        high=at(high_rank) if high_rank <= n else None,
        n=n,
    )
