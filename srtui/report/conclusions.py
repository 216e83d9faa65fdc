"""What came out of a run: the sentences that a report begins with. Each names the figure that it stands on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtui.evaluation import result_words
from srtui.evaluation.statistics import wilson
from srtui.text import number
from srtui.wording import LABELS

if TYPE_CHECKING:
    from srtui.report.facts import Facts


def conclusions(f: Facts) -> list[str]:
    """What was kept, what the training did on samples that it did not see, what evaluations found; with how many
    samples and which interval each has."""
    s = f.summary
    if not s.samples:
        return ["The run has no samples, so nothing came out of it."]
    settled = s.kept + sum(s.dropped.values())
    sentences = []
    if settled:
        share = wilson(s.kept, settled)
        bounds = f" ({share['low']:.0%} to {share['high']:.0%} with 95 %)" if share["low"] is not None else ""
        sentences.append(f"{s.kept:,} of {settled:,} samples are {LABELS['kept']}{bounds}.")
    for target, name in (("instruction", "instructions"), ("response", "answers")):
        accepted = s.accepted[target]
        if accepted.choices:
            sentences.append(
                f"The student took {accepted.taken:,} of {accepted.choices:,} new {name} that it could choose."
            )
    if f.training is None:
        sentences.append("Nothing was trained.")
    for kind, held in (f.training.held_out if f.training else {}).items():
        better = "fell" if held["after"] < held["before"] else "did not fall"
        sentences.append(
            f"The loss on {held['samples']:,} held-out {kind} pairs {better}: {number(held['before'])} before the training, "
            f"{number(held['after'])} after it, in nats a token."
        )
    for e in f.evaluations:
        figure = result_words.headline(e.result)
        if figure is not None:
            against = f" against {e.contestant_b}" if e.contestant_b else ""
            words = result_words.estimate_words(figure)
            sentences.append(f"Evaluation {e.id} ({e.kind}), {e.contestant_a}{against}: {words}.")
    return sentences
