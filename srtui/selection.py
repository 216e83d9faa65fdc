"""The student's choices, as pure functions: scores in, decision and reason out.

Li et al. (ACL 2024), section 3: the instruction is chosen by the higher IFD, the response by the
lower r-IFD, and a pair at or above 1 by either is not trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from srtui.hashing import draw
from srtui.measures import FILTERS, MEASURES
from srtui.sample import Target


@dataclass(frozen=True)
class ScoredText:
    """One variant with its score, or the reason why it has none."""

    variant_id: int
    score: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Choice:
    """Which variant won, whether it is a rewrite, and why, in one sentence."""

    variant_id: int
    reflected: bool
    reason: str


def choose_instruction(
    original: ScoredText, rewrites: Sequence[ScoredText], by: str = "ifd", at_length: bool = False
) -> Choice:
    """The pair with the higher IFD; the original on a tie, and where it cannot be compared.

    Args:
        original: the text that was reflected on.
        rewrites: its rewrites, the first of equals first.
        by: another measure of srtui.measures, or a side that always wins: ``original``, ``reflected``.
        at_length: the scores are its residuals over length.
    """
    return _choose(original, rewrites, "instruction", by, at_length)


def choose_response(
    current: ScoredText, rewrites: Sequence[ScoredText], by: str = "rifd", at_length: bool = False
) -> Choice:
    """The pair with the lower r-IFD; the current one on a tie, and where it cannot be compared.

    Args:
        current: the text that was reflected on.
        rewrites: its rewrites, the first of equals first.
        by: another measure, or a side, as for instructions.
        at_length: the scores are its residuals over length.
    """
    return _choose(current, rewrites, "response", by, at_length)


def _choose(
    before: ScoredText, rewrites: Sequence[ScoredText], target: Target, by: str, at_length: bool
) -> Choice:
    noun = "instruction" if target == "instruction" else "answer"
    if by == "original":
        return Choice(before.variant_id, False, f"kept the {noun}: the recipe never takes a rewrite")
    if not rewrites:
        return Choice(before.variant_id, False, f"kept the {noun}: there is no rewrite of it")
    if by == "reflected":
        return Choice(rewrites[0].variant_id, True, f"took the new {noun}: the recipe takes every rewrite")
    measure = MEASURES[by]
    metric = measure.label + (" at equal length" if at_length else "")
    higher = measure.higher_wins(target)
    sign = 1.0 if higher else -1.0
    if before.score is None:
        return Choice(before.variant_id, False, f"kept the {noun}: it has no {metric} ({before.reason})")
    valid = [(r.score, r) for r in rewrites if r.score is not None]
    if not valid:
        return Choice(
            before.variant_id, False, f"kept the {noun}: the rewrite has no {metric} ({rewrites[0].reason})"
        )
    best_score, best = max(valid, key=lambda pair: sign * pair[0])  # the first of equals
    if sign * best_score > sign * before.score:
        return Choice(
            best.variant_id,
            True,
            f"took the new {noun}: {metric} {best_score:.4f} {'>' if higher else '<'} {before.score:.4f}",
        )
    relation = "=" if best_score == before.score else "<" if higher else ">"
    return Choice(
        before.variant_id,
        False,
        f"kept the {noun}: the new one's {metric} {best_score:.4f} {relation} {before.score:.4f}",
    )


def response_margin(
    by: str, chosen: float | None, rejected: float | None, are_levels: bool = False
) -> float | None:
    """By how much a measure puts one response over another to the same instruction: the difference of their levels,
    which are logarithms for ratios; negative where it prefers the rejected one.

    Args:
        by: the measure's name.
        chosen: score of the response that was taken, in the measure's unit; None where it has none.
        rejected: score of the one that it beat.
        are_levels: whether these are levels already, as with length taken out.

    Returns:
        The difference; None where there is no such measure, score or logarithm.
    """
    measure = MEASURES.get(by)
    if measure is None or measure.source == "draw" or chosen is None or rejected is None:
        return None
    if not are_levels:
        if measure.is_ratio and (chosen <= 0 or rejected <= 0):
            return None
        chosen, rejected = measure.level(chosen), measure.level(rejected)
    return chosen - rejected if measure.higher_wins("response") else rejected - chosen


def seeded_random(*parts: str | bytes | int) -> float:
    """A random number in [0, 1), uniform, that ``parts`` alone decide: in whatever order they are drawn."""
    return int.from_bytes(draw(*parts)[:8], "big") / 2**64


def near_a_tie(scores: Sequence[float | None], margin: float) -> bool:
    """Whether a decision over these scores, the unreflected one first, could easily fall otherwise.

    Scores are ratios, so distance is a difference of logarithms. One score alone is compared with
    1, the filter's border; where one is missing nothing is clear.
    """
    if any(s is None or s <= 0 for s in scores):
        return True
    first, *others = (math.log(s) for s in scores if s is not None)
    return any(abs(first - other) < margin for other in others or [0.0])


@dataclass(frozen=True)
class Outcome:
    """Whether a sample is trained on. ``reason`` is a short fixed word, for counting."""

    kept: bool
    reason: str


def keep(
    policy: Literal["paper", "keep", "all"], response_reflected: bool, ifd: ScoredText, rifd: ScoredText
) -> Outcome:
    """Whether the winner is trained on.

    ``paper`` keeps only what has a rewritten response ("for consistency of response distribution",
    section 3); ``keep`` keeps the winner whoever wrote it. Both drop IFD >= 1 and r-IFD >= 1, as the
    released code does, and whatever has no score: an unscored pair cannot pass a filter. ``all`` has no
    filter: it is for comparing with data as they are.

    Args:
        policy: paper, keep or all.
        response_reflected: whether the response was rewritten and taken.
        ifd: IFD of the winner, a ratio of perplexities; None where it has none.
        rifd: its r-IFD; None where it has none.
    """
    if policy == "all":
        return Outcome(True, "selected")
    if policy == "paper" and not response_reflected:
        return Outcome(False, "response not rewritten")
    for name, scored in zip(FILTERS, (ifd, rifd), strict=True):
        label = MEASURES[name].label
        if scored.score is None:
            return Outcome(False, f"no {label}: {scored.reason or 'not scored'}")
        if scored.score >= 1:
            return Outcome(False, f"{label} at or above 1")
    return Outcome(True, "selected")


@dataclass(frozen=True)
class Ranked:
    """A selected sample with its winner's scores. ``by_person`` where a person chose its text;
    ``length`` of its response in characters; ``random`` is drawn for it, in [0, 1)."""

    sample_id: int
    ifd: float | None
    rifd: float | None
    by_person: bool = False
    length: int = 0
    random: float = 0.0


def quotas(groups: Mapping[int, str], count: int) -> dict[str, int]:
    """By group, how many of ``count`` it has: as its share of the samples, the remainders to the largest fractions
    (Hamilton's method), of equal ones to the first name. ``groups`` are by sample."""
    sizes: dict[str, int] = {}
    for group in groups.values():
        sizes[group] = sizes.get(group, 0) + 1
    count = min(count, len(groups))
    exact = {group: size * count / len(groups) for group, size in sizes.items()}
    quota_of = {group: int(part) for group, part in exact.items()}
    order = sorted(exact, key=lambda group: (quota_of[group] - exact[group], group))
    for group in order[: count - sum(quota_of.values())]:
        quota_of[group] += 1
    return quota_of


def best(
    samples: Sequence[Ranked], count: int, by: Literal["ifd", "both", "length", "random"] = "ifd"
) -> set[int]:
    """The sample ids of the best ``count`` of ``samples``, one at least: low-data training (Li et al.,
    section 5.2).

    ``ifd``: the highest IFD, as the paper ranks. ``both``: the lowest sum of two ranks, of high IFD and
    of low r-IFD, since the two have no common scale. ``length``: the longest responses; ``random``: the
    highest random numbers. A missing score ranks last; of equals the sample with the lower id goes first; what a
    person chose is always in.
    """

    def ranks(key: Callable[[Ranked], tuple[bool, float]]) -> dict[int, int]:
        order = sorted(samples, key=lambda s: (*key(s), s.sample_id))
        return {s.sample_id: rank for rank, s in enumerate(order)}

    if by == "length":
        place = ranks(lambda s: (False, -s.length))
    elif by == "random":
        place = ranks(lambda s: (False, -s.random))
    else:
        place = ranks(lambda s: (s.ifd is None, -(s.ifd or 0)))
    if by == "both":
        low = ranks(lambda s: (s.rifd is None, s.rifd or 0))
        place = {i: rank + low[i] for i, rank in place.items()}
    order = sorted(samples, key=lambda s: (not s.by_person, place[s.sample_id], s.sample_id))
    return {s.sample_id for n, s in enumerate(order) if n < max(1, count) or s.by_person}
