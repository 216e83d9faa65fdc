"""One person at one human evaluation: what is asked next, and what was said.

A choice is stored as it is made, so that a sitting may end at any moment and be resumed at any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from srtui.evaluation.people import blind_order, turned
from srtui.store import Store
from srtui.store.evaluations import EvaluationReads, Ordering

Said = Literal["left", "right", "tie", "bad", "skip"]


@dataclass(frozen=True)
class BlindPair:
    """A question with two answers whose authors are not shown. ``ordering`` is for whoever stores the
    choice, and never for the screen."""

    item: int
    question: str
    left: str
    right: str
    ordering: Ordering
    done: int
    total: int


def next_pair(evaluations: EvaluationReads, evaluation_id: int, annotator: str) -> BlindPair | None:
    """What this person is asked next; None where nothing is left. Texts lose the space around them,
    which would give models away."""
    waiting = evaluations.unjudged_by(evaluation_id, annotator)
    if not waiting:
        return None
    seed = int(evaluations.get(evaluation_id).settings.get("seed", 0))
    item, ordering = blind_order(waiting, seed, annotator)[0]
    answers = evaluations.answers(evaluation_id)
    first, second = ("a", "b") if ordering == "ab" else ("b", "a")
    judged = evaluations.annotators(evaluation_id).get(annotator, 0)
    return BlindPair(
        item=item.item,
        question=item.turns[0].strip(),
        left=answers[item.item, first, 1].text.strip(),  # type: ignore[index]
        right=answers[item.item, second, 1].text.strip(),  # type: ignore[index]
        ordering=ordering,
        done=judged,
        total=judged + len(waiting),
    )


def keep(
    store: Store, evaluation_id: int, annotator: str, pair: BlindPair, answer: Said, seconds: float
) -> None:
    """Store what a person said of a pair as a choice between A and B. What all choices come to is
    counted when the sitting ends (``keep_result``): that takes too long to wait for at each key.

    Args:
        store: where it goes.
        evaluation_id: of the evaluation by people.
        annotator: who chose.
        pair: what was shown, and in which order.
        answer: the choice as it was shown: left, right, tie, bad or skip.
        seconds: that the person took.
    """
    store.evaluations.human_choice(
        evaluation_id, pair.item, annotator, pair.ordering, turned(answer, pair.ordering), seconds
    )
