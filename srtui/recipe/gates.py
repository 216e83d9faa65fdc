"""The section of a recipe that says which gates a rewrite has to pass (:mod:`srtui.gates`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from srtui.gates import GATES, TEXT_GATES
from srtui.recipe.section import Section, described

_SOURCE = "srtui's own; the paper has none"


class GateSettings(Section):
    """Which rewrites are not compared at all, whatever their scores. A gate's reason is kept with the rewrite.

    All are off by default, as in the paper. `srtui data gates RUN` says what each would stop among the rewrites of a
    run that is there; docs/method.md has how often each is right.
    """

    cut_off: bool = described(
        False,
        "Stops a rewrite that ends in the middle: with a comma, a conjunction, an open code block or half a sentence.",
        change="With imported rewrites and small teachers, which end their text in the middle by themselves.",
        source=_SOURCE,
    )
    about_the_task: bool = described(
        False,
        'Stops a rewrite that talks about the task and does not do it: critique, markers, "the new instruction".',
        change="With small teachers, which mix up criticism and text.",
        source=_SOURCE,
    )
    language: bool = described(
        False,
        "Stops a rewrite whose instruction or answer is in another language than the one before it.",
        change="With data that are not in English.",
        source=_SOURCE,
    )
    refusal: bool = described(
        False,
        "Stops a new answer that refuses where the one before did not.",
        change="With chat models as teachers.",
        source=_SOURCE,
    )
    repetition: bool = described(
        False,
        "Stops a rewrite of which a large part says what stood there before in the same words.",
        change="With small teachers, and where `sampler.repeat_penalty` is 1.",
        source=_SOURCE,
    )
    prompt_copy: bool = described(
        False,
        "Stops a new answer that is mostly its instruction or input again, where the one before was not.",
        change="With small teachers.",
        source=_SOURCE,
    )
    lost_input: bool = described(
        False,
        "Stops a new instruction whose input is gone, or that points to a text that does not stand there.",
        change="With data that have inputs.",
        source=_SOURCE,
    )
    coherence: bool = described(
        False,
        "Stops a rewrite whose answer is about something else than what is asked, by embeddings of both by the student "
        "(or by `selection.embedded_by`): their cosine is below that of the dataset's own pairs, by `coherence_percent`, "
        "and below that of the text before.",
        change="With small teachers. It reads each rewrite once more, and up to 512 originals.",
        source=_SOURCE,
    )
    coherence_percent: Annotated[float, Field(gt=0, le=50)] = described(
        10.0,
        "How many of the dataset's own pairs are less coherent than what the gate `coherence` lets pass.",
        change="5 to stop less and be right more often, 25 to stop more; docs/method.md, Gates, has what each is worth.",
        unit="per cent of originals",
        source=_SOURCE,
    )
    rater: bool = described(
        False,
        "Stops a new answer that the rater (`selection.rater`, or the teacher), shown it beside the old one in both "
        "orders, finds the worse one: what it says of the better answer's probability has to be one half at least.",
        change="With a rater whose preference `srtui choose calibrate --rater` finds better than chance; it costs two "
        "prompts a rewrite.",
        source=_SOURCE,
    )

    @property
    def active(self) -> tuple[str, ...]:
        """The gates that are on, in the order in which they are asked."""
        return tuple(name for name in GATES if getattr(self, name))

    @property
    def of_texts(self) -> tuple[str, ...]:
        """Those of them that look at the texts alone."""
        return tuple(name for name in self.active if name in TEXT_GATES)
