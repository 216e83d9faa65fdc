"""The tries of a stage's reflections: which of them is not asked yet, and what the candidates of one come to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from srtui.llama import ASKED_AGAIN, Generation, Teacher
from srtui.pipeline.context import Context
from srtui.reflection import ReflectionPrompt, Rewrite
from srtui.store.corpus import Variant
from srtui.store.endings import CUT, cut_at, packed
from srtui.store.generations import CAME_TO_SOMETHING, GenerationRow, NewAnswer, Settled

Settle = Callable[[Sequence[Settled]], None]
"""Stores what samples' reflections came to."""
Finished = tuple["OpenRequest", list[Generation]]
"""A try, with all of its candidates."""
_Read = Sequence[tuple[Generation, Rewrite]]


@dataclass(frozen=True)
class OpenRequest:
    """The key of a teacher request: which sample, what it had, which try; and the keys of its candidates."""

    sample_id: int
    variant: Variant
    attempt: int
    keys: tuple[bytes, ...] = ()


class Tries:
    """Generations of one stage of a run, as they are stored and come in; ``settle`` is called with each sample whose
    reflection they settle. ``unknown_endings`` counts rewrites taken from the store that may have been cut short."""

    def __init__(self, context: Context, prompt: ReflectionPrompt, teacher: Teacher, settle: Settle) -> None:
        self._store, self._recipe = context.store, context.recipe
        self._prompt, self._teacher, self._settle = prompt, teacher, settle
        self.unknown_endings = 0
        self._samplers: dict[int, str] = {}
        # An earlier srtui's keys, where there are any, are looked for too.
        self.has_first_keys = self._store.generations.has_first_keys()

    def keys(self, variant: Variant, attempt: int) -> tuple[bytes, ...]:
        """Of the candidates of one try."""
        of, by = self._prompt, self._teacher.identity
        return tuple(
            of.key(variant.pair, attempt, candidate, by)
            for candidate in range(self._recipe.reflection.candidates)
        )

    def first_unasked(self, sample_id: int, variant: Variant, first: int = 1) -> OpenRequest | None:
        """The first try, of those from ``first`` on, whose generations are not stored yet, or None where stored
        ones settle it.

        Another run with the same teacher, words and seeds, or this one before it was killed, has
        asked already: the same question is never paid for twice.
        """
        identity, prompt = self._teacher.identity, self._prompt
        for attempt in range(first, self._recipe.reflection.max_attempts + 1):
            keys = self.keys(variant, attempt)
            stored = [
                self._store.generations.with_key(
                    key,
                    prompt.first_key(variant.pair, attempt, candidate, identity)
                    if self.has_first_keys
                    else None,
                )
                for candidate, key in enumerate(keys)
            ]
            # A refusal says what the teacher's context and memory held then, which may be more now.
            if any(g is None or g.finish in ASKED_AGAIN for g in stored):
                return OpenRequest(sample_id, variant, attempt, keys)
            generations = [g for g in stored if g is not None]
            if any(self._lacked_room(g, variant, attempt) for g in generations):
                return OpenRequest(sample_id, variant, attempt, keys)
            rewrites = [g for g in generations if g.parsed == "parsed" and not _was_cut(g)]
            if not prompt.is_settled(attempt, rewritten=bool(rewrites)):
                continue
            with self._store.transaction():
                ids = [self._adopt(sample_id, variant, g) for g in rewrites]
                status = "parsed" if ids else _status(generations[0])
                self.unknown_endings += sum(1 for g in rewrites if g.segments is None)
                self._settle([Settled(sample_id, variant.id, status, attempt, list(dict.fromkeys(ids)))])
            return None
        return None

    def _lacked_room(self, stored: GenerationRow, variant: Variant, attempt: int) -> bool:
        """Whether a stored text that came to nothing was cut with less room than this teacher has for it:
        a context that was shorter, or an older srtui, which gave a retry no more than a first try."""
        if stored.parsed in CAME_TO_SOMETHING and not _was_cut(stored):
            return False
        if stored.segments is None:
            last = self._prompt.segments(1)[-1].max_tokens
            cut = [(-1, last)] if stored.finish == "length" else []
        else:
            cut = list(cut_at(stored.id, stored.segments))
        if not cut:
            return False
        room = self._teacher.room(self._prompt.request(None, variant.pair, attempt))
        return any(room[n] > room_then for n, room_then in cut)

    def _adopt(self, sample_id: int, variant: Variant, stored: GenerationRow) -> int:
        """The variant of a stored generation, as a variant of this sample (the same text may be a
        sample of another dataset too)."""
        variant_id = cast(int, stored.variant_id)  # what could be parsed has one
        variant_made = self._store.corpus.variants([variant_id])[variant_id]
        if variant_made.sample_id == sample_id:
            return variant_made.id
        return self._store.corpus.add_variant(
            sample_id, self._prompt.kind, "teacher", variant.id, stored.id, variant_made.pair
        )[0]

    def take_all(self, finished: Sequence[Finished]) -> list[OpenRequest]:
        """Store the generations of these tries, within a transaction; gives those that settle nothing."""
        stored = self._store.generations.with_keys(key for request, _ in finished for key in request.keys)
        fresh: list[Finished] = []
        others: list[Finished] = []
        added: set[bytes] = set()
        for open_request, group in finished:
            is_new = stored.keys().isdisjoint(open_request.keys) and added.isdisjoint(open_request.keys)
            (fresh if is_new else others).append((open_request, group))
            added.update(open_request.keys)
        unsettled = self._take_new(fresh)
        return unsettled + [request for request, group in others if not self._take(request, group, stored)]

    def _take_new(self, finished: Sequence[Finished]) -> list[OpenRequest]:
        """Store the generations of tries none of which is stored, all together; gives those that settle nothing."""
        prompt, kind = self._prompt, self._prompt.kind
        read = [
            [(g, prompt.read(g, open_request.variant.pair)) for g in group]
            for open_request, group in finished
        ]
        variant_ids = iter(
            self._store.generations.add_answers(
                [
                    NewAnswer(
                        self._row(open_request, g, r),
                        open_request.sample_id,
                        open_request.variant.pair,
                        kind,
                        r.pair,
                    )
                    for (open_request, _), group in zip(finished, read, strict=True)
                    for g, r in group
                ]
            )
        )
        settled: list[Settled] = []
        unsettled: list[OpenRequest] = []
        for (open_request, _), group in zip(finished, read, strict=True):
            variants = [next(variant_ids) for _ in group]
            candidates = [v for v in variants if v is not None and v != open_request.variant.id]
            if self._is_settled(open_request, group):
                settled.append(_settled(open_request, group, candidates))
            else:
                unsettled.append(open_request)
        self._settle(settled)
        return unsettled

    def _take(
        self, open_request: OpenRequest, group: Sequence[Generation], stored: dict[bytes, GenerationRow]
    ) -> bool:
        """Store one try's generations, some of which are there; True when the sample's reflection is settled.
        ``stored`` has those that were there under their keys.

        Where a try is asked again for one candidate, a rewrite that is stored of another stands: choices may
        have been made by it."""
        prompt, store, variant = self._prompt, self._store, open_request.variant
        read = [(g, prompt.read(g, variant.pair)) for g in group]
        rows = [self._row(open_request, g, r) for g, r in read]
        # Another sample may have come to the same text, and have been asked the same a moment ago.
        stored_rows = [stored.get(r.key) or store.generations.with_key(r.key) for r in rows]
        rewritten = any(s is not None and s.parsed == "parsed" for s in stored_rows)
        is_settled = self._is_settled(open_request, read, rewritten)
        candidates: list[int] = []
        for (_, rewrite), row, stored_row in zip(read, rows, stored_rows, strict=True):
            if stored_row is not None and stored_row.parsed in CAME_TO_SOMETHING:
                if stored_row.parsed == "parsed":
                    candidates.append(self._adopt(open_request.sample_id, variant, stored_row))
                continue
            generation_id = store.generations.add(row, about=variant.pair, is_new=stored_row is None)
            if rewrite.pair is not None:
                variant_id, _ = store.corpus.add_variant(
                    open_request.sample_id, prompt.kind, "teacher", variant.id, generation_id, rewrite.pair
                )
                store.generations.set_variant(generation_id, variant_id)
                if variant_id != variant.id:
                    candidates.append(variant_id)
        if is_settled:
            self._settle([_settled(open_request, read, candidates)])
        return is_settled

    def _is_settled(self, open_request: OpenRequest, read: _Read, rewritten: bool = False) -> bool:
        """Whether a try ends its sample's reflection; ``rewritten``: a rewrite of it was stored already."""
        return self._prompt.is_settled(
            open_request.attempt,
            rewritten=rewritten or any(rewrite.pair for _, rewrite in read),
            refused=any(generation.refused for generation, _ in read),
        )

    def _row(self, open_request: OpenRequest, generation: Generation, rewrite: Rewrite) -> GenerationRow:
        prompt, by = self._prompt, self._teacher.identity
        return GenerationRow(
            id=0,
            variant_id=None,
            created_at=0.0,
            key=open_request.keys[generation.candidate],
            parent_variant_id=open_request.variant.id,
            stage=prompt.target,
            model=by.name,
            model_sha256=by.sha256,
            prompt_version=prompt.version_for(open_request.variant.pair),
            mode=self._recipe.reflection.mode,
            sampler=self._sampler(open_request.attempt),
            seed=generation.seed,
            attempt=open_request.attempt,
            candidate=generation.candidate,
            prompt=generation.prompt,
            text=generation.text,
            thinking=generation.thinking,
            critique=rewrite.critique,
            prompt_tokens=generation.prompt_tokens,
            new_tokens=generation.new_tokens,
            seconds=generation.seconds,
            finish=generation.refused or (generation.written[-1].finish if generation.written else "empty"),
            segments=packed(
                (part, w.finish, w.tokens, w.room)
                for part, w in zip(prompt.parts, generation.written, strict=False)
            ),
            parsed=f"{rewrite.status}: {generation.detail}" if generation.refused else rewrite.status,
        )

    def _sampler(self, attempt: int) -> str:
        """As it is stored."""
        if attempt not in self._samplers:
            self._samplers[attempt] = json.dumps(asdict(self._prompt.sampler(attempt)))
        return self._samplers[attempt]


def _settled(open_request: OpenRequest, read: _Read, candidates: Sequence[int]) -> Settled:
    """What a try that ends its sample's reflection came to."""
    status = "parsed" if candidates else next((r.status for _, r in read if not r.pair), "unchanged")
    candidates = list(dict.fromkeys(candidates))
    return Settled(open_request.sample_id, open_request.variant.id, status, open_request.attempt, candidates)


def _was_cut(stored: GenerationRow) -> bool:
    """Whether an older srtui took a text that it had cut short; its last part is the answer."""
    return stored.segments is None and stored.finish in CUT


def _status(stored: GenerationRow) -> str:
    """What a stored generation came to, in the word that is counted."""
    return "cut_response" if _was_cut(stored) else str(stored.parsed).partition(":")[0]
