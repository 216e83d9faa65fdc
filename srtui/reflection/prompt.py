"""How the teacher is asked: a variant in, requests out; generations in, rewrites out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from srtui.hashing import Keys, draw, scheme_1
from srtui.llama import Generation, Message, Request, Sampler, Segment, TeacherIdentity
from srtui.recipe import Recipe
from srtui.reflection.criteria_files import Criteria
from srtui.reflection.parsing import OwnWording, Parsed, Unparsed, parse_free, parse_guided
from srtui.sample import Pair, Target
from srtui.store.endings import CUT

_ALL_MARKERS = ("[End]", "[New Instruction]", "[New Answer]", "[Better Answer]")
_THINKING = 1024  # the default, which keys leave out
# Sampling a second time at temperature 0 would write the same words again.
_RETRY_TEMPERATURE = 0.7
# A retry may write more: its limits are those of the recipe times its number, up to this.
_MOST_ROOM = 4


@dataclass(frozen=True)
class Rewrite:
    """What one generation came to: the rewritten pair, or why there is none."""

    pair: Pair | None
    critique: str
    status: str


@dataclass(frozen=True)
class ReflectionPrompt:
    """The way of asking for one target. ``guided`` puts the markers for the model; ``free`` is the paper's
    single generation."""

    criteria: Criteria
    recipe: Recipe

    @property
    def target(self) -> Target:
        """Which side of a pair is rewritten."""
        return self.criteria.target

    @property
    def kind(self) -> str:
        """The kind of variant that a rewrite is, as it is stored."""
        return f"{self.target}_reflected"

    @property
    def version(self) -> str:
        """Of the words that the teacher is asked in about a pair without a history."""
        return self._version

    @cached_property
    def _version(self) -> str:
        return self.criteria.prompt_version

    @cached_property
    def _version_with_history(self) -> str:
        return self.criteria.prompt_version_with_history

    def version_for(self, pair: Pair) -> str:
        """Of the words that the teacher is asked in about this pair."""
        return self._version_with_history if pair.history else self.version

    def seed(self, pair: Pair, attempt: int) -> int:
        """From the recipe's seed, the text and the attempt alone: the order of work changes nothing."""
        drawn = draw(self.recipe.seed, self.version_for(pair), pair.digest, attempt)
        return int.from_bytes(drawn[:4], "little") % (2**31 - 1)

    def is_settled(self, attempt: int, *, rewritten: bool, refused: bool = False) -> bool:
        """Whether a sample's reflection ends with this try (from 1): one of its candidates is a rewrite, the
        teacher has no room for the question, or no try is left."""
        return rewritten or refused or attempt >= self.recipe.reflection.max_attempts

    def sampler(self, attempt: int) -> Sampler:
        """How the ``attempt``-th try (from 1) is drawn; a retry is never greedy."""
        sampler = self._sampler
        if attempt > 1 and sampler.temperature == 0:
            return replace(sampler, temperature=_RETRY_TEMPERATURE)
        return sampler

    def request(self, key: object, pair: Pair, attempt: int) -> Request:
        """The request for the ``attempt``-th try (from 1) at rewriting ``pair``."""
        # A conversation is told from others by its first user turn, which no rewrite changes.
        first = next((n for n, turn in enumerate(pair.history) if turn.role == "user"), 0)
        begin = pair.history[: first + 1]
        return Request(
            key=key,
            messages=(
                Message("system", self.criteria.system_text(pair)),
                Message("user", self.criteria.user_text(pair)),
            ),
            segments=self.segments(attempt),
            seed=self.seed(pair, attempt),
            sampler=self.sampler(attempt),
            candidates=self.recipe.reflection.candidates,
            thinking_tokens=self.recipe.reflection.thinking_tokens,
            begins=begin or None,
        )

    def segments(self, attempt: int) -> tuple[Segment, ...]:
        """What is written one after the other. An instruction or an answer that is cut off is of no use, so
        a retry has more room, as far as the teacher's context goes."""
        budget = self.recipe.reflection
        room = min(attempt, _MOST_ROOM)
        wants_instruction = self.target == "instruction"
        if budget.mode == "free":
            rewrite_tokens = budget.answer_tokens + (budget.instruction_tokens if wants_instruction else 0)
            least = budget.critique_tokens + rewrite_tokens
            return (Segment(max_tokens=budget.critique_tokens + room * rewrite_tokens, least_tokens=least),)

        def whole(lead: str, tokens: int) -> Segment:
            return Segment(lead, room * tokens, _ALL_MARKERS, least_tokens=tokens, whole=True)

        critique = Segment("Criticism:\n", budget.critique_tokens, _ALL_MARKERS)
        if wants_instruction:
            return (
                critique,
                whole("\n\n[New Instruction]\n", budget.instruction_tokens),
                whole("\n[End]\n\n[New Answer]\n", budget.answer_tokens),
            )
        return (critique, whole("\n\n[Better Answer]\n", budget.answer_tokens))

    @property
    def parts(self) -> tuple[str, ...]:
        """What the segments hold, in order."""
        if self.recipe.reflection.mode == "free":
            return ("text",)
        return (
            ("critique", "instruction", "response")
            if self.target == "instruction"
            else ("critique", "response")
        )

    def key(self, pair: Pair, attempt: int, candidate: int, by: TeacherIdentity) -> bytes:
        """Key of everything that determines a generation's text. A default may be left out of it, so none
        may ever change its value.

        Args:
            pair: that is reflected on.
            attempt: from 1.
            candidate: from 0.
            by: the teacher that writes.
        """
        version = self.version_for(pair)
        keys = self._keys.get((attempt, version, by))
        if keys is None:
            settings, teacher = self.recipe.reflection, self.recipe.teacher
            keys = self._keys[attempt, version, by] = Keys(
                "generation",
                ("pair", "seed"),
                prompt=version,
                mode=settings.mode,
                tokens=[segment.max_tokens for segment in self.segments(attempt)],
                thinking_tokens=None if settings.thinking_tokens == _THINKING else settings.thinking_tokens,
                teacher=by.sha256,
                adapter=by.adapter_sha256,
                sampler=self.sampler(attempt),
                kv_type=None if teacher.kv_type == "f16" else teacher.kv_type,
                flash_attention=None if teacher.flash_attention == "auto" else teacher.flash_attention,
                date=by.date,
            )
        return keys.key(pair.digest, self.seed(pair, attempt) + candidate)

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(**self.recipe.sampler.model_dump())

    @cached_property
    def _keys(self) -> dict[tuple[int, str, TeacherIdentity], Keys]:
        return {}

    @cached_property
    def _own_wording(self) -> OwnWording:
        return self.criteria.own_wording()

    def first_key(self, pair: Pair, attempt: int, candidate: int, by: TeacherIdentity) -> bytes | None:
        """The key that the same generation has where it was stored before keys had a scheme; None where
        that key did not hold all that its text depends on.

        Args:
            pair: that is reflected on.
            attempt: from 1.
            candidate: from 0.
            by: the teacher that writes.
        """
        settings, teacher, s = self.recipe.reflection, self.recipe.teacher, self.sampler(attempt)
        extras = (teacher.kv_type, teacher.flash_attention, settings.thinking_tokens)
        if extras != ("f16", "auto", _THINKING) or by.date is not None or pair.history:
            return None
        return scheme_1(
            pair.digest,
            self.version,
            settings.mode,
            settings.critique_tokens,
            settings.instruction_tokens,
            settings.answer_tokens,
            by.sha256,
            by.adapter_sha256,
            f"Sampler(temperature={s.temperature!r}, top_p={s.top_p!r}, top_k={s.top_k!r}, min_p={s.min_p!r}, "
            f"repeat_penalty={s.repeat_penalty!r}, repeat_window={s.repeat_window!r})",
            self.seed(pair, attempt) + candidate,
        )

    def read(self, generation: Generation, before: Pair) -> Rewrite:
        """What a generation means for the pair it was asked about."""
        if generation.refused:
            return Rewrite(None, "", generation.refused)
        wants_instruction = self.target == "instruction"
        parsed: Parsed | Unparsed
        if self.recipe.reflection.mode == "free":
            parsed = parse_free(
                generation.text, wants_instruction=wants_instruction, own_wording=self._own_wording
            )
        else:
            parsed = parse_guided(
                [w.text for w in generation.written],
                wants_instruction=wants_instruction,
                own_wording=self._own_wording,
            )
        cut = self._cut(generation, parsed)
        if cut:
            return Rewrite(None, parsed.critique if isinstance(parsed, Parsed) else "", cut)
        if isinstance(parsed, Unparsed):
            return Rewrite(None, "", parsed.reason)
        if parsed.instruction is None:
            pair = before._replace(response=parsed.response)
        else:
            # The teacher reads that the input stays attached; where it wrote it out all the same,
            # it would stand there twice. What was asked without showing the input is answered without it.
            written = not self.criteria.shows_input or before.input.strip() in parsed.instruction
            input = "" if written else before.input
            pair = Pair(parsed.instruction, input, parsed.response, before.history)
        if pair == before:
            return Rewrite(None, parsed.critique, "unchanged")
        return Rewrite(pair, parsed.critique, "parsed")

    def _cut(self, generation: Generation, parsed: Parsed | Unparsed) -> str:
        """Why the new instruction or answer is not whole; empty where it is. A marker behind a text makes
        it whole, and a critique may end anywhere."""
        finishes = dict(zip(self.parts, (w.finish for w in generation.written), strict=False))
        for part, finish in finishes.items():
            if finish not in CUT or part == "critique":
                continue
            word = "cut" if finish == "length" else "repeated"
            if isinstance(parsed, Unparsed):
                missing = parsed.reason.partition("_")[2]  # it never came to this part, or to its words
                if part != "text" or parsed.reason.startswith(("no_", "empty_")):
                    return f"{word}_{missing if part == 'text' else part}"
            elif part in parsed.unclosed or (part == "text" and parsed.unclosed):
                return f"{word}_{parsed.unclosed[-1] if part == 'text' else part}"
        return ""
