"""Preference pairs: of two answers to one instruction, the one that was taken and one that it beat.

The preference is the chooser's. A student's pair says what the student's measure says, and no more than that
measure is worth; docs/preferences.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from srtui.measures import MEASURES, Measure
from srtui.recipe import Recipe
from srtui.sample import Pair, Turn
from srtui.selection import response_margin
from srtui.store.comparisons import AnswerComparison, ComparedAnswer

Rejected = Literal["rest", "worst"]
"""Which of the answers that were beaten make a pair with the chosen one: each of them, or the last alone."""


class PreferencePair(NamedTuple):
    """Two answers to one instruction.

    ``margin`` is by how much the measure prefers the chosen one (``selection.response_margin``), negative where a
    person chose against it, None where one of the two has no score. ``agreed``: whether a second chooser says the
    same, None where none was asked. ``gates`` are the filters that the chosen answer passed, ``history`` the turns
    before the instruction.
    """

    sample_id: int
    held_out: bool
    instruction: str
    input: str
    chosen: str
    rejected: str
    chosen_id: int
    rejected_id: int
    margin: float | None
    measure: str
    chosen_by: str
    agreed: bool | None
    gates: tuple[str, ...]
    history: Sequence[Turn] = ()

    @property
    def pairs(self) -> tuple[Pair, Pair]:
        """The instruction with the chosen answer, and with the rejected one."""
        return (
            Pair(self.instruction, self.input, self.chosen, self.history),
            Pair(self.instruction, self.input, self.rejected, self.history),
        )

    def record(self) -> dict[str, Any]:
        """The texts and all that is known of the choice, as a row of an export."""
        return {
            "instruction": self.instruction,
            "input": self.input,
            **({"history": tuple(self.history)} if self.history else {}),
            "chosen": self.chosen,
            "rejected": self.rejected,
            "sample": self.sample_id,
            "chosen_variant": self.chosen_id,
            "rejected_variant": self.rejected_id,
            "margin": self.margin,
            "measure": self.measure,
            "chosen_by": self.chosen_by,
            # A word in place of null, and of an empty list: loaders take the type of a column from its first rows.
            "agreed": "nobody asked" if self.agreed is None else "yes" if self.agreed else "no",
            "gates": list(self.gates) or ["none"],
        }


@dataclass
class PairMaker:
    """Makes pairs of what a run compared, and counts what gave none.

    Args:
        by: the recipe's ``selection.response_by``.
        rejected: which of the beaten answers make pairs.
        min_margin: the least margin; a person's pairs need none with ``people_first``.
        only_agreed: only pairs on which two choosers agree.
        people_first: a person's word counts whatever the measure says of it.
        gates: gates that every rewrite had to pass before it was compared, by their keys.
        length_control: whether the scores that were compared have length taken out.
        rater: with what probability a rater prefers the response of each (pair, other response), None where it was
            not asked.
    """

    by: str
    rejected: Rejected = "rest"
    min_margin: float = 0.0
    only_agreed: bool = False
    people_first: bool = False
    gates: tuple[str, ...] = ()
    length_control: bool = False
    rater: Callable[[Sequence[tuple[Pair, str]]], list[float | None]] | None = None
    made: Counter[str] = field(default_factory=Counter)
    """Pairs by who chose."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Samples, or pairs of them, that gave nothing, by why."""

    @property
    def stored_metric(self) -> str:
        """The stored score that a text of a person's own is compared by: "" where what was compared is none."""
        return "" if self.length_control else self.by

    def pairs(self, comparisons: Iterable[AnswerComparison]) -> Iterator[PreferencePair]:
        """The pairs of these samples, one after the other."""
        for comparison in comparisons:
            for pair in self._of_sample(comparison):
                why = self._refusal(pair)
                if why:
                    self.left_out[why] += 1
                else:
                    self.made[pair.chosen_by] += 1
                    yield pair

    def _of_sample(self, c: AnswerComparison) -> Iterator[PreferencePair]:
        by_person = c.person is not None
        chosen = c.person or next((a for a in c.answers if a.variant_id == c.chosen_id), None)
        measure = MEASURES.get(self.by)
        if chosen is None or (not by_person and (measure is None or measure.source == "draw")):
            self.left_out["samples whose answer no measure chose"] += 1
            return
        beaten = [a for a in c.answers if _same_prompt(a.pair, chosen.pair) and a.pair != chosen.pair]
        if not by_person:
            scored = [a for a in beaten if a.score is not None and chosen.score is not None]
            self.left_out["rewrites that could not be compared"] += len(beaten) - len(scored)
            beaten = scored
        if not beaten:
            self.left_out["samples with one answer to compare"] += 1
            return
        if self.rejected == "worst":
            beaten = [max(beaten, key=lambda a: self._distance(chosen, a))]
        rated = (
            self.rater([(chosen.pair, a.pair.response) for a in beaten])
            if self.rater
            else [None] * len(beaten)
        )
        for answer, preference in zip(beaten, rated, strict=True):
            margin = response_margin(self.by, chosen.score, answer.score, self.length_control)
            yield PreferencePair(
                c.sample_id,
                c.held_out,
                chosen.pair.instruction,
                chosen.pair.input,
                chosen.pair.response,
                answer.pair.response,
                chosen.variant_id,
                answer.variant_id,
                margin,
                self.by,
                "person" if by_person or measure is None else _chooser(measure, c),
                _agreed(margin if by_person else None, None if self._rater_chose(c) else preference),
                (*(self.gates if chosen is not c.answers[0] and not by_person else ()), *_passed(c, chosen)),
                chosen.pair.history,
            )

    def _rater_chose(self, c: AnswerComparison) -> bool:
        """Whether it is the rater whose preference this is: it does not confirm itself."""
        measure = MEASURES.get(self.by)
        return c.person is None and measure is not None and measure.source == "rater"

    def _distance(self, chosen: ComparedAnswer, other: ComparedAnswer) -> float:
        margin = response_margin(self.by, chosen.score, other.score, self.length_control)
        return float("-inf") if margin is None else margin

    def _refusal(self, pair: PreferencePair) -> str:
        """Why a pair is left out; "" where it is not."""
        by_person = pair.chosen_by == "person"
        if not by_person and (pair.margin is None or pair.margin <= 0):
            return "ties"
        if self.only_agreed and not pair.agreed:
            return "pairs that nobody else was asked about" if pair.agreed is None else "pairs in dispute"
        if by_person and self.people_first:
            return ""
        if self.min_margin and (pair.margin is None or pair.margin < self.min_margin):
            return f"pairs with a margin below {self.min_margin:g}"
        return ""


def _agreed(margin: float | None, preference: float | None) -> bool | None:
    """Whether the others that were asked say what the chooser says: the student by its margin, where a person has
    chosen, and the rater. One that finds both alike does not."""
    signs = [margin > 0] if margin is not None else []
    signs += [preference > 1 / 2] if preference is not None else []
    return all(signs) if signs else None


def _chooser(measure: Measure, c: AnswerComparison) -> str:
    """Whose preference a choice by a measure is: with a proxy the student's only where it was asked itself."""
    if measure.source in ("encoder", "rater"):
        return measure.source
    return "proxy" if c.by_proxy else "student"


def _same_prompt(pair: Pair, other: Pair) -> bool:
    return (pair.instruction, pair.input) == (other.instruction, other.input)


def _passed(c: AnswerComparison, chosen: ComparedAnswer) -> tuple[str, ...]:
    """The filters below 1 that the outcome knows of, where it is the chosen text's."""
    if chosen.variant_id != c.chosen_id:
        return ()
    scores = {"ifd": c.ifd, "rifd": c.rifd}
    return tuple(f"{name} below 1" for name, score in scores.items() if score is not None and score < 1)


def pair_maker(recipe: Recipe, **options: Any) -> PairMaker:
    """What makes the pairs of a run with this recipe; ``options`` are the filters of :class:`PairMaker`."""
    selection = recipe.selection
    return PairMaker(
        selection.response_by,
        gates=recipe.gates.active,
        length_control=selection.length_control,
        **options,
    )
