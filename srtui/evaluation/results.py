"""Stored judgements as figures. Pure functions; docs/evaluation.md says what each figure is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srtui.evaluation.length_control import Anchors, LengthItem, controlled_rate
from srtui.evaluation.statistics import (
    VERDICTS,
    Verdict,
    bootstrap_mean,
    preference,
    verdict,
    wilson,
)
from srtui.store.evaluations import Item, Judgement

Lengths = Mapping[int, tuple[int, int]]
"""Characters of A's and B's answer, by item; 0 where there is none."""

HALF_STEP = 0.5
"""The tie margin of a judge that nobody has calibrated: scores that are nearer than half a step of a scale
of whole numbers are the same score."""

LOWEST = 1.0
"""What an answer that is not there scores alone, on the scale of 1 to 10."""

TOO_LONG = {"a": "A's answer is too long for the judge", "b": "B's answer is too long for the judge"}
"""As a judgement's ``parsed`` says it."""


@dataclass(frozen=True)
class JudgedItem:
    """Both orders of one item, both with scores. A's score less B's is ``ab`` with A shown first."""

    item: Item
    first: Judgement
    second: Judgement
    margin: float = 0.0

    @property
    def ab(self) -> float:
        """A's score less B's where A was shown first; nothing scored counts as 0."""
        return (self.first.score_a or 0.0) - (self.first.score_b or 0.0)

    @property
    def ba(self) -> float:
        """A's score less B's where B was shown first."""
        return (self.second.score_a or 0.0) - (self.second.score_b or 0.0)

    @property
    def verdict(self) -> Verdict:
        """Who wins over both orders, by the margin."""
        return verdict(self.ab, self.ba, self.margin)

    @property
    def score_a(self) -> float:
        """A's mean score over both orders, 1 to 10."""
        return ((self.first.score_a or 0.0) + (self.second.score_a or 0.0)) / 2

    @property
    def score_b(self) -> float:
        """B's mean score over both orders, 1 to 10."""
        return ((self.first.score_b or 0.0) + (self.second.score_b or 0.0)) / 2

    @property
    def preference(self) -> float:
        """How surely the judge prefers A, 0 to 1, from its distributions, over both orders.

        Judgements of before scores were joint have two marginals only.
        """
        probabilities = [j.probabilities for j in (self.first, self.second)]
        preferences = [float(p.get("prefers_a", preference(p["a"], p["b"]))) for p in probabilities if p]
        return sum(preferences) / 2


def pairs_of(items: Sequence[Item], judgements: Sequence[Judgement], margin: float = 0.0) -> list[JudgedItem]:
    """Items judged in both orders; scores that differ by no more than ``margin`` are a tie."""
    scored = {(j.item, j.ordering): j for j in judgements if j.score_a is not None and j.score_b is not None}
    return [
        JudgedItem(i, scored[i.item, "ab"], scored[i.item, "ba"], margin)
        for i in items
        if (i.item, "ab") in scored and (i.item, "ba") in scored
    ]


def failures(
    items: Sequence[Item], judgements: Sequence[Judgement], lengths: Lengths
) -> dict[int, tuple[Verdict, str]]:
    """(verdict for A, why) of items that a missing answer decides: lost against an answer, a tie against
    another that is missing. What the judge cannot hold because of one answer alone is missing too."""
    failure_by_item: dict[int, str] = {}
    for j in judgements:
        if j.score_a is None and j.choice is None:
            failure_by_item.setdefault(j.item, j.parsed)
    decided: dict[int, tuple[Verdict, str]] = {}
    for i in items:
        a, b = (n == 0 for n in lengths.get(i.item, (1, 1)))
        why = failure_by_item.get(i.item, "no answer")
        a, b = a or why == TOO_LONG["a"], b or why == TOO_LONG["b"]
        if a or b:
            decided[i.item] = ("tie" if a and b else "lose" if a else "win", why)
    return decided


def pairwise_result(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    lengths: Lengths,
    seed: int = 0,
    margin: float = 0.0,
) -> dict[str, Any]:
    """Win, tie, lose of A against B, scores, position bias and parse rate, in all and by category.

    Missing answers are among the counts and in ``preference``; scores are of what was judged.

    Args:
        items: what was asked.
        judgements: in both orders.
        lengths: of both answers by item, in characters.
        seed: of the bootstrap.
        margin: two scores nearer than this are a tie.
    """
    pairs = pairs_of(items, judgements, margin)
    missing = failures(items, judgements, lengths)
    categories = sorted({i.category for i in items})
    inside = {c: {i.item for i in items if i.category == c} for c in categories}
    missing_verdicts = [verdict for verdict, _ in missing.values()]
    return {
        "items": len(items),
        "unjudged": unjudged(judgements, missing),
        "failed": {
            "a": missing_verdicts.count("lose"),
            "b": missing_verdicts.count("win"),
            "both": missing_verdicts.count("tie"),
            "why": dict(Counter(why for _, why in missing.values())),
        },
        "tie_margin": margin,
        **_compared(pairs, missing_verdicts, seed),
        "preference": bootstrap_mean(
            [p.preference for p in pairs] + [_SHARE[v] for v in missing_verdicts], seed
        ),
        "length": {
            "a": mean_of([lengths[p.item.item][0] for p in pairs]),
            "b": mean_of([lengths[p.item.item][1] for p in pairs]),
        },
        "position": position(pairs, seed),
        "parse": parse_rate(judgements),
        "categories": {
            c: _compared(
                [p for p in pairs if p.item.category == c],
                [v for item, (v, _) in missing.items() if item in inside[c]],
                seed,
            )
            for c in categories
        },
    }


def shares(
    items: Sequence[Item], judgements: Sequence[Judgement], lengths: Lengths, margin: float
) -> dict[int, float]:
    """A's share of each item that is decided: 1 won, 1/2 a tie, 0 lost.

    Args:
        items: what was asked.
        judgements: in both orders.
        lengths: of both answers by item, in characters; an item without an answer is decided by that.
        margin: two scores nearer than this are a tie.
    """
    missing = failures(items, judgements, lengths)
    judged = {p.item.item: _SHARE[p.verdict] for p in pairs_of(items, judgements, margin)}
    return judged | {item: _SHARE[verdict] for item, (verdict, _) in missing.items()}


def judged_rows(items: Sequence[Item], judgements: Sequence[Judgement], lengths: Lengths) -> list[LengthItem]:
    """What the length control is fitted on: A as the model, B as the reference."""
    preferences = {p.item.item: p.preference for p in pairs_of(items, judgements)}
    missing = failures(items, judgements, lengths)
    return [
        LengthItem(
            i.item,
            _SHARE[missing[i.item][0]] if i.item in missing else preferences.get(i.item),
            *lengths[i.item],
            failed=i.item in missing,
        )
        for i in items
    ]


def winrate_result(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    lengths: Lengths,
    seed: int = 0,
    margin: float = 0.0,
    anchors: Anchors | None = None,
) -> dict[str, Any]:
    """As :func:`pairwise_result`, and the win rate with length regressed out.

    Args:
        items: what was asked.
        judgements: in both orders.
        lengths: of both answers by item, in characters.
        seed: of the bootstrap.
        margin: two scores nearer than this are a tie.
        anchors: for the length control; None without.
    """
    controlled = controlled_rate(judged_rows(items, judgements, lengths), anchors, seed)
    return {
        **pairwise_result(items, judgements, lengths, seed, margin),
        "length_controlled": controlled,
    }


def turns_result(items: Sequence[Item], judgements: Sequence[Judgement], seed: int = 0) -> dict[str, Any]:
    """Mean scores by category and turn; an item's score is the mean of its turns. An answer that is not
    there has the lowest score."""
    scores = {(j.item, j.turn): j.score_a for j in judgements if j.score_a is not None}
    failed = {(j.item, j.turn): j.parsed for j in judgements if j.score_a is None and _is_missing(j.parsed)}
    scores |= dict.fromkeys(failed, LOWEST)
    turns = sorted({j.turn for j in judgements})
    categories = sorted({i.category for i in items})

    def of(keep: Callable[[Item], bool], turn: int | None = None) -> Any:
        chosen = [i.item for i in items if keep(i)]
        rows = [[s for (item, t), s in scores.items() if item == n and turn in (None, t)] for n in chosen]
        return bootstrap_mean([sum(row) / len(row) for row in rows if row], seed)

    return {
        "items": len(items),
        "judged": len({item for item, _ in scores}),
        "unjudged": unjudged([j for j in judgements if (j.item, j.turn) not in failed]),
        "failed": {"answers": len(failed), "why": dict(Counter(failed.values()))},
        "score": of(lambda i: True),
        "turns": {str(t): of(lambda i: True, t) for t in turns},
        "parse": parse_rate(judgements),
        "categories": {
            c: {
                "score": of(lambda i, c=c: i.category == c),  # type: ignore[misc]
                "turns": {str(t): of(lambda i, c=c: i.category == c, t) for t in turns},  # type: ignore[misc]
            }
            for c in categories
        },
    }


def position(pairs: Sequence[JudgedItem], seed: int = 0) -> dict[str, Any]:
    """Does the place decide? ``first`` is the score of the answer shown first less that of the second,
    a mean over both orders, 0 without bias; ``first_twice`` counts items where whichever stood first
    was ahead, ``second_twice`` the contrary, ``consistent`` those where the same answer was ahead."""
    twice = Counter(
        "first_twice" if p.ab > 0 > p.ba else "second_twice" if p.ab < 0 < p.ba else "consistent"
        for p in pairs
    )
    return {
        "first": bootstrap_mean([(p.ab - p.ba) / 2 for p in pairs], seed),
        **{name: twice[name] for name in ("consistent", "first_twice", "second_twice")},
    }


def parse_rate(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """How often the judge's own words give scores, why not, and how near they are to its probabilities
    (``difference``, mean absolute). ``mass`` is the mean probability that it gave to any score at all."""
    judged = [j for j in judgements if j.score_a is not None and j.parsed != "not asked"]
    parsed = [j for j in judged if j.parsed == "parsed"]
    gaps = [
        abs(text - score)
        for j in parsed
        for text, score in ((j.text_score_a, j.score_a), (j.text_score_b, j.score_b))
        if text is not None and score is not None
    ]
    masses = [m for j in judgements if j.probabilities for m in j.probabilities["mass"]]
    return {
        "rate": wilson(len(parsed), len(judged)),
        "unparsed": dict(Counter(j.parsed for j in judged if j.parsed != "parsed")),
        "difference": mean_of(gaps),
        "mass": mean_of(masses),
    }


_SHARE: dict[Verdict, float] = {"win": 1.0, "tie": 0.5, "lose": 0.0}


def _compared(pairs: Sequence[JudgedItem], missing_verdicts: Sequence[Verdict], seed: int) -> dict[str, Any]:
    """Counts over judged pairs and missing answers; scores over judged pairs."""
    count = Counter([*(p.verdict for p in pairs), *missing_verdicts])
    n = len(pairs) + len(missing_verdicts)
    return {
        "judged": n,
        **{v: count[v] for v in VERDICTS},
        "win_rate": wilson(count["win"] + count["tie"] / 2, n),
        "winning_score": (count["win"] - count["lose"]) / n + 1 if n else None,
        "score_a": bootstrap_mean([p.score_a for p in pairs], seed),
        "score_b": bootstrap_mean([p.score_b for p in pairs], seed),
        "score_difference": bootstrap_mean([p.score_a - p.score_b for p in pairs], seed),
    }


def unjudged(judgements: Sequence[Judgement], decided: Collection[int] = ()) -> dict[str, int]:
    """By reason, how many judgements have no score; those of items in ``decided`` are not counted."""
    return dict(Counter(j.parsed for j in judgements if j.score_a is None and j.item not in decided))


def _is_missing(parsed: str) -> bool:
    return parsed.startswith("no answer") or parsed == TOO_LONG["a"]


def mean_of(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None
