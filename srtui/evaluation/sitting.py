"""One person at one human evaluation: what is asked next, what was said, and what it comes to.

A choice is stored as it is made, so that a sitting may end at any moment and go on at any other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

from srtui.evaluation.human import blind_order, human_result, turned
from srtui.store import Store
from srtui.store.evaluations import EvaluationReads, Ordering

Said = Literal["left", "right", "tie", "bad", "skip"]


@dataclass(frozen=True)
class BlindPair:
    """A question with two answers whose authors are not told. ``ordering`` is for whoever stores the
    choice, and never for the screen."""

    item: int
    question: str
    left: str
    right: str
    ordering: Ordering
    done: int
    total: int


def next_pair(reads: EvaluationReads, evaluation_id: int, annotator: str) -> BlindPair | None:
    """What this person is asked next; None where nothing is left. Texts lose the space around them,
    which would tell models apart."""
    waiting = reads.unjudged_by(evaluation_id, annotator)
    if not waiting:
        return None
    seed = int(reads.get(evaluation_id).settings.get("seed", 0))
    item, ordering = blind_order(waiting, seed, annotator)[0]
    answers = reads.answers(evaluation_id)
    first, second = ("a", "b") if ordering == "ab" else ("b", "a")
    done = reads.annotators(evaluation_id).get(annotator, 0)
    return BlindPair(
        item=item.item,
        question=item.turns[0].strip(),
        left=answers[item.item, first, 1].text.strip(),  # type: ignore[index]
        right=answers[item.item, second, 1].text.strip(),  # type: ignore[index]
        ordering=ordering,
        done=done,
        total=done + len(waiting),
    )


def keep(
    store: Store, evaluation_id: int, annotator: str, pair: BlindPair, said: Said, seconds: float
) -> None:
    """Store what a person said of a pair as a choice between A and B."""
    store.evaluations.human_choice(
        evaluation_id, pair.item, annotator, pair.ordering, turned(said, pair.ordering), seconds
    )


def settle(store: Store, evaluation_id: int) -> dict[str, Any]:
    """What all people have said by now, stored as the evaluation's result; done when nobody who began
    has anything left."""
    reads = store.evaluations
    result = human_result(reads.items(evaluation_id), reads.judgements(evaluation_id))
    people = reads.annotators(evaluation_id)
    left = sum(len(reads.unjudged_by(evaluation_id, name)) for name in people)
    done = sum(people.values())
    ended = bool(people) and left == 0
    reads.update(
        evaluation_id,
        result=result if people else None,
        status="done" if ended else "stopped",
        stage=None if ended else "people",
        done=done,
        total=done + left,
        finished_at=time.time() if ended else None,
    )
    return result
