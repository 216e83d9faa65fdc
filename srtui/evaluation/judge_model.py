"""A local model as a judge: its scores from token probabilities, and its own words beside them.

A score is not what the judge happens to write. The conversation is begun for it ("Answer 1: "), and
the probabilities of "1/" to "10/" at that place, which llama.cpp gives exactly, are scaled to sum to
one: what sampling under a grammar of ten strings would draw from. The second answer's are read behind
each score that the first may have ("Answer 1: 7/10", a new line, "Answer 2: "), so what comes out is the
distribution of both scores together. A score is the mean of its margin. How much probability the ten
strings had before scaling (``mass``) shows whether the judge meant to give a score there at all.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from srtui import models
from srtui.errors import UserError
from srtui.evaluation.contestants import date_written
from srtui.hashing import digest, key, scheme_1
from srtui.llama import Message, Request, Sampler, Segment, Teacher, open_teacher, refuse_if_died
from srtui.prompts.prompt_set import fill, load_words
from srtui.store.evaluations import Ordering

if TYPE_CHECKING:
    from srtui.llama.losses import LlamaLosses

SCORES = tuple(range(1, 11))

LEAST_FIRST = 1e-3
"""A first score that is less probable than this is left out, and the rest scaled: it could move the second
score by no more than its share of nine points, and costs ten sequences."""

_GREEDY = Sampler(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0)


class JudgePrompt(BaseModel):
    """One file of a judge's wording. ``leads`` has a text for each answer that is scored: the second stands
    behind the first, its score, the ``ending`` and ``between``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    leads: tuple[str, ...] = Field(min_length=1, max_length=2)
    ending: str = Field(min_length=1)
    between: str = "\n"
    system: str
    user: str
    reference: str

    @property
    def prompt_version(self) -> str:
        """The author's version, with a hash of the words: a forgotten version bump still shows. Two answers
        are scored in another way than at first, so their version is another one, and a single one's is not."""
        if len(self.leads) == 1:
            return f"{self.version}-{digest(self.model_dump_json(exclude={'between'})).hex()[:8]}"
        return f"{self.version}-{digest('second behind first', self.model_dump_json()).hex()[:8]}"

    def behind(self, score: int) -> str:
        """What stands before the second answer's score where the first has ``score``."""
        return f"{self.leads[0]}{score}{self.ending}{self.between}{self.leads[1]}"

    def messages(self, question: JudgeQuestion) -> tuple[Message, ...]:
        """The system's and the user's message that ask about these answers; a reference is there where the
        question has one."""
        reference = fill(self.reference, text=question.reference) if question.reference else ""
        shown = {f"answer_{n}": text for n, text in enumerate(question.shown, 1)}
        user = fill(self.user, question=question.question, reference=reference, **shown)
        return Message("system", self.system.strip()), Message("user", user.strip())

    def parse(self, text: str) -> tuple[list[float], str]:
        """The scores that a judge's words give, in the order shown, and ``parsed`` or why there are none."""
        scores = []
        for lead in self.leads:
            sign = re.escape(lead.strip()) + r"[\s*]*(\d+(?:\.\d+)?)\s*" + re.escape(self.ending)
            match = re.search(sign, text, re.IGNORECASE)
            if match is None:
                return [], "no_score" if text.strip() else "empty"
            scores.append(float(match[1]))
        return (scores, "parsed") if all(1 <= s <= 10 for s in scores) else ([], "out_of_range")


@dataclass(frozen=True)
class JudgeQuestion:
    """One question to a judge: an item and turn, in one order; ``shown`` are the answers as shown."""

    item: int
    turn: int
    ordering: Ordering
    question: str
    shown: tuple[str, ...]
    reference: str = ""


@dataclass(frozen=True)
class JudgeScores:
    """The distribution over 1 to 10 of each answer shown, each summing to 1, and its mass before.

    ``prefers_first`` is P(the first has more) + P(both have as much)/2 under their joint distribution.
    """

    probabilities: tuple[tuple[float, ...], ...]
    mass: tuple[float, ...]
    prefers_first: float | None = None

    @property
    def scores(self) -> tuple[float, ...]:
        """Expected scores, between 1 and 10."""
        return tuple(math.fsum(k * p for k, p in zip(SCORES, row, strict=True)) for row in self.probabilities)


def load_judge_prompt(name: str, answers: int) -> JudgePrompt:
    """The shipped prompt ``pairwise`` or ``single``, or a TOML file's. ``answers`` is how many it must score.

    Raises UserError that names the file and the field.
    """

    def try_out(prompt: JudgePrompt, source: str) -> None:
        if len(prompt.leads) != answers:
            raise UserError(
                f"{source}: leads has {len(prompt.leads)} texts, and {answers} answers are scored here; correct it."
            )
        prompt.messages(JudgeQuestion(0, 1, "ab", "q", ("a",) * answers, "r"))

    prompt = load_words(JudgePrompt, name, files("srtui.evaluation") / "judges", try_out)
    if prompt is None:
        raise UserError(f"There is no judge prompt {name!r}: name pairwise, single, or a .toml file.")
    return prompt


@dataclass(frozen=True)
class JudgeModel:
    """A GGUF and the words that it is asked with. ``words`` is the most tokens that it may write."""

    name: str
    path: Path
    sha256: str
    prompt: JudgePrompt
    words: int

    @classmethod
    def find(cls, folder: Path, name: str, prompt: JudgePrompt, words: int) -> JudgeModel:
        """The judge called ``name`` in the models folder; raises UserError where it is no GGUF.

        Args:
            folder: of models.
            name: of a GGUF there.
            prompt: what the judge is asked.
            words: the most tokens of its own words; 0 asks for none.
        """
        path = models.resolve_teacher(folder, name)
        return cls(name, path, models.file_sha256(path), prompt, words)

    @property
    def identity(self) -> dict[str, Any]:
        """All that its scores depend on, as an evaluation is stored with it."""
        return {
            "model": self.path.stem,
            "sha256": self.sha256,
            "prompt_version": self.prompt.prompt_version,
            "words": self.words,
        }

    def key(self, question: JudgeQuestion) -> bytes:
        """Of all that a judgement depends on."""
        return key(
            "judgement",
            judge=self.sha256,
            prompt=self.prompt.prompt_version,
            words=self.words,
            question=question.question,
            reference=question.reference,
            shown=question.shown,
            date=date_written(self.path),
        )

    def first_key(self, question: JudgeQuestion) -> bytes | None:
        """The key that the same judgement has where it was stored before keys had a scheme; None where
        that key did not hold all that it depends on."""
        if date_written(self.path) is not None:
            return None
        return scheme_1(
            self.sha256,
            self.prompt.prompt_version,
            self.words,
            question.question,
            question.reference,
            *question.shown,
        )

    def scores(
        self, questions: Sequence[JudgeQuestion], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[JudgeQuestion, JudgeScores | str, float, int]]:
        """(question, scores or why there are none, seconds, tokens run), until ``should_stop()``, which is asked
        between questions.

        Reasons: ``judge_context``, ``answer_1_too_long`` and ``answer_2_too_long`` where the context would
        hold the question but for that answer, ``judge_not_finite``.
        """
        from srtui.llama.losses import LlamaLosses

        model = LlamaLosses(self.path)
        try:
            for question in questions:
                if should_stop():
                    return
                began, before = time.monotonic(), model.tokens_run
                scored = self.scored(model, question)
                yield question, scored, time.monotonic() - began, model.tokens_run - before
        finally:
            model.close()

    def scored(self, model: LlamaLosses, question: JudgeQuestion) -> JudgeScores | str:
        """The scores of one question, or why there are none, by this judge's file as ``model`` has it open."""
        # The ending's first sign is enough to distinguish 1 from 10.
        options = [f"{k}{self.prompt.ending[0]}" for k in SCORES]
        messages = self.prompt.messages(question)
        if not model.holds(messages, self._longest):
            return self._too_long(model, question)
        nlls = model.of_options(messages, [(self.prompt.leads[0], options)])
        if nlls is None:
            return "judge_not_finite"
        first, mass = _normalised(nlls[0])
        if len(self.prompt.leads) == 1:
            return JudgeScores((first,), (mass,))
        likely = [k for k, p in zip(SCORES, first, strict=True) if p >= LEAST_FIRST]
        nlls = model.of_options(messages, [(self.prompt.behind(k), options) for k in likely])
        if nlls is None:
            return "judge_not_finite"
        return _together(likely, first, mass, [_normalised(row) for row in nlls])

    @property
    def _longest(self) -> str:
        """The most of an answer that the judge is led through."""
        last = f"{SCORES[-1]}{self.prompt.ending}"
        return self.prompt.between.join(f"{lead}{last}" for lead in self.prompt.leads)

    def _too_long(self, model: LlamaLosses, question: JudgeQuestion) -> str:
        """Whose fault it is that the context does not hold the question: one answer's alone, or nobody's."""
        blamed = []
        for n in range(len(question.shown)):
            without = tuple("" if place == n else text for place, text in enumerate(question.shown))
            if model.holds(self.prompt.messages(replace(question, shown=without)), self._longest):
                blamed.append(n)
        return f"answer_{blamed[0] + 1}_too_long" if len(blamed) == 1 else "judge_context"

    def write(
        self,
        questions: Sequence[JudgeQuestion],
        should_stop: Callable[[], bool],
        slots: int | None = None,
        teacher: Teacher | None = None,
    ) -> Iterator[tuple[JudgeQuestion, str, int]]:
        """(question, the judge's words, tokens), as they are finished; greedy. No words where there is no room.

        Args:
            questions: whose answers it has scored.
            should_stop: asked between steps.
            slots: how many it writes at a time.
            teacher: the same file, open already; it is closed at the end.
        """
        if teacher is None:
            teacher = open_teacher(self.path, name=self.name, sha256=self.sha256, slots=slots or "auto")
        try:
            segment = (Segment(max_tokens=self.words),)
            teacher.submit(
                [
                    Request(question, self.prompt.messages(question), segment, seed=0, sampler=_GREEDY)
                    for question in questions
                ]
            )
            for generation in teacher.run(should_stop):
                assert isinstance(generation.key, JudgeQuestion)  # noqa: S101 - our own key comes back untouched
                refuse_if_died(generation)
                yield generation.key, generation.text, generation.prompt_tokens + generation.new_tokens
        finally:
            teacher.close()


def _normalised(row: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """(probabilities that sum to 1, their sum before) of negative log-likelihoods."""
    least = min(row)
    weights = [math.exp(least - n) for n in row]
    total = math.fsum(weights)
    return tuple(w / total for w in weights), min(1.0, total * math.exp(-least))


def _together(
    likely: Sequence[int],
    first: Sequence[float],
    mass: float,
    behind: Sequence[tuple[tuple[float, ...], float]],
) -> JudgeScores:
    """Both scores' distributions, from the first's and the second's behind each likely first score."""
    weights = [first[k - 1] for k in likely]
    total = math.fsum(weights)
    joint = [
        (k, j, w / total * p)
        for k, w, (row, _) in zip(likely, weights, behind, strict=True)
        for j, p in zip(SCORES, row, strict=True)
    ]
    second = tuple(math.fsum(p for _, score, p in joint if score == j) for j in SCORES)
    ahead = math.fsum(p if k > j else p / 2 if k == j else 0.0 for k, j, p in joint)
    second_mass = math.fsum(w / total * m for w, (_, m) in zip(weights, behind, strict=True))
    return JudgeScores((tuple(first), second), (mass, second_mass), ahead)
