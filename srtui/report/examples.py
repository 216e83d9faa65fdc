"""Which samples a report shows, and what was done to each of them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from srtui.store import Store
from srtui.store.conversations import conversation_ends
from srtui.store.sample_view import SampleView, VariantView
from srtui.store.views import Views
from srtui.worddiff import Part, word_parts
from srtui.wording import ROLE_NAMES

Sort = Literal["best", "worst", "random", "conversation"]
_PARTS = (("Instruction", "instruction"), ("Input", "input"), ("Answer", "response"))


@dataclass(frozen=True)
class TextChange:
    """One text of a sample before and after. ``compared`` says that words are marked; where next to
    nothing is common, they are not."""

    name: str
    before: list[Part]
    after: list[Part]
    compared: bool

    @property
    def same(self) -> bool:
        """Whether nothing was changed."""
        return self.before == self.after


@dataclass(frozen=True)
class Example:
    """One sample with its texts as the dataset has them and as they came out, and why."""

    sort: Sort
    sample: int
    row: int
    verdict: str
    ifd: tuple[float | None, float | None]
    rifd: tuple[float | None, float | None]
    texts: list[TextChange]
    critiques: list[tuple[str, str]]
    history: list[tuple[str, str]]


def pick(store: Store, views: Views, run_id: int, count: int, seed: int) -> list[Example]:
    """``count`` examples of each sort, or as many as there are, none twice.

    Best and worst are the samples that the student kept and whose new answer lowered r-IFD the most and
    the least, as a ratio; random ones are drawn from all samples of the run. Where it has conversations, one more
    is drawn from the ends of these, and shown with all that came before it.

    Args:
        store: for what is random.
        views: of the same store.
        run_id: of the run.
        count: of each sort.
        seed: of the random ones.
    """
    fell = sorted(
        (math.log(change.after / change.before), change.sample_id)
        for change in store.decisions.response_changes(run_id)
        if _positive(change.before) and _positive(change.after)
    )
    best = [sample for _, sample in fell[:count]]
    least_fallen = [sample for _, sample in fell[::-1][: min(count, len(fell) - len(best))]]
    remaining = sorted({*store.runs.sample_ids(run_id)} - {*best, *least_fallen})
    drawn = random.Random(seed).sample(remaining, min(count, len(remaining)))  # noqa: S311 - a draw, no secret
    chosen: list[tuple[Sort, int]] = [
        *(("best", s) for s in best),
        *(("worst", s) for s in least_fallen),
        *(("random", s) for s in drawn),
    ]
    ends = sorted(set(conversation_ends(store.conn, run_id)) - {sample for _, sample in chosen})
    if ends and count:
        chosen.append(("conversation", random.Random(seed).choice(ends)))  # noqa: S311 - a draw, no secret
    return [
        _example(sort, view) for sort, sample in chosen if (view := views.sample(run_id, sample)) is not None
    ]


def _positive(score: object) -> bool:
    """A score whose logarithm there is: comparisons that are damaged have others."""
    return isinstance(score, float | int) and score > 0


def _example(sort: Sort, s: SampleView) -> Example:
    original, final = s.original, s.final
    return Example(
        sort=sort,
        sample=s.id,
        row=s.row,
        verdict=_verdict(s, final),
        ifd=(s.stands.ifd_before, s.stands.ifd),
        rifd=(s.stands.rifd_before, s.stands.rifd),
        texts=[
            _change(name, str(getattr(original, part)), str(getattr(final, part)))
            for name, part in _PARTS
            if getattr(original, part) or getattr(final, part)
        ],
        critiques=[
            (f"What the teacher said of the {word}", s.critiques[stage])
            for stage, word in (("instruction", "instruction"), ("response", "answer"))
            if s.critiques.get(stage)
        ],
        history=[(ROLE_NAMES[turn.role], turn.text) for turn in s.history],
    )


def _verdict(s: SampleView, final: VariantView) -> str:
    if s.stands.overruled:
        return f"overruled by a person, who took the {final.kind.replace('_', ' ')} text"
    if s.outcome is None:
        return f"{s.state}; the run has not come to the end with it"
    return "kept for training" if s.outcome.kept else f"not trained on: {s.outcome.reason}"


def _change(name: str, before: str, after: str) -> TextChange:
    if before == after:
        return TextChange(name, [Part(before, False)], [Part(after, False)], True)
    parts = word_parts(before, after)
    if parts is None:
        return TextChange(name, [Part(before, False)], [Part(after, False)], False)
    return TextChange(name, *parts, True)
