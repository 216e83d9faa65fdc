"""The reflection protocol: a variant in, requests out; generations in, rewrites out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from srtui.recipe import Recipe
from srtui.reflection.criteria_files import Criteria
from srtui.reflection.parsing import Parsed, Unparsed, parse_free, parse_guided
from srtui.sample import Pair, digest
from srtui.teacher import Generation, Message, Request, Sampler, Segment

_ALL_MARKERS = ("[End]", "[New Instruction]", "[New Answer]", "[Better Answer]")
# Sampling a second time at temperature 0 would write the same words again.
_RETRY_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Rewrite:
    """What one generation came to: the rewritten pair, or why there is none."""

    pair: Pair | None
    critique: str
    status: str


@dataclass(frozen=True)
class Protocol:
    """One stage's way of asking. ``guided`` puts the markers for the model; ``free`` is the paper's
    single generation."""

    criteria: Criteria
    recipe: Recipe

    @property
    def stage(self) -> str:
        return self.criteria.rewrites

    @property
    def kind(self) -> str:
        return f"{self.criteria.rewrites}_reflected"

    @property
    def version(self) -> str:
        return self.criteria.prompt_version

    def seed(self, pair: Pair, attempt: int) -> int:
        """From the recipe's seed, the text and the attempt alone: the order of work changes nothing."""
        key = digest(self.recipe.seed, self.version, pair.digest, attempt)
        return int.from_bytes(key[:4], "little") % (2**31 - 1)

    def sampler(self, attempt: int) -> Sampler:
        sampler = Sampler(**self.recipe.sampler.model_dump())
        if attempt > 1 and sampler.temperature == 0:
            return replace(sampler, temperature=_RETRY_TEMPERATURE)
        return sampler

    def request(self, key: object, pair: Pair, attempt: int) -> Request:
        """The request for the ``attempt``-th try (from 1) at rewriting ``pair``."""
        return Request(
            key=key,
            messages=(
                Message("system", self.criteria.system_text(pair)),
                Message("user", self.criteria.user_text(pair)),
            ),
            segments=self.segments(),
            seed=self.seed(pair, attempt),
            sampler=self.sampler(attempt),
            candidates=self.recipe.reflection.candidates,
        )

    def segments(self) -> tuple[Segment, ...]:
        budget = self.recipe.reflection
        wants_instruction = self.stage == "instruction"
        if budget.mode == "free":
            total = budget.critique_tokens + budget.answer_tokens
            return (Segment(max_tokens=total + (budget.instruction_tokens if wants_instruction else 0)),)
        if wants_instruction:
            return (
                Segment("Criticism:\n", budget.critique_tokens, _ALL_MARKERS),
                Segment("\n\n[New Instruction]\n", budget.instruction_tokens, _ALL_MARKERS),
                Segment("\n[End]\n\n[New Answer]\n", budget.answer_tokens, _ALL_MARKERS),
            )
        return (
            Segment("Criticism:\n", budget.critique_tokens, _ALL_MARKERS),
            Segment("\n\n[Better Answer]\n", budget.answer_tokens, _ALL_MARKERS),
        )

    def key(
        self, pair: Pair, attempt: int, candidate: int, teacher_sha256: str, adapter_sha256: str | None
    ) -> bytes:
        """Hash of everything that determines a generation's text."""
        reflection = self.recipe.reflection
        return digest(
            pair.digest,
            self.version,
            reflection.mode,
            reflection.critique_tokens,
            reflection.instruction_tokens,
            reflection.answer_tokens,
            teacher_sha256,
            adapter_sha256,
            repr(self.sampler(attempt)),
            self.seed(pair, attempt) + candidate,
        )

    def read(self, generation: Generation, before: Pair) -> Rewrite:
        """What a generation means for the pair it was asked about."""
        if generation.refused:
            return Rewrite(None, "", generation.refused)
        wants_instruction = self.stage == "instruction"
        fixed = self.criteria.fixed_lines()
        parsed: Parsed | Unparsed
        if self.recipe.reflection.mode == "free":
            parsed = parse_free(generation.text, wants_instruction=wants_instruction, fixed_lines=fixed)
        else:
            parsed = parse_guided(
                [w.text for w in generation.written], wants_instruction=wants_instruction, fixed_lines=fixed
            )
        if isinstance(parsed, Unparsed):
            return Rewrite(None, "", parsed.reason)
        if parsed.instruction is None:
            pair = Pair(before.instruction, before.input, parsed.response)
        else:
            # The teacher is told that the input stays attached; where it wrote it out all the same,
            # it would stand there twice. What was asked without showing the input is answered without it.
            written = not self.criteria.shows_input or before.input.strip() in parsed.instruction
            input = "" if written else before.input
            pair = Pair(parsed.instruction, input, parsed.response)
        if pair == before:
            return Rewrite(None, parsed.critique, "unchanged")
        return Rewrite(pair, parsed.critique, "parsed")
