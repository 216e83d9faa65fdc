"""A stage in which the teacher reflects: on the instructions, or on the responses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, cast

from srtui import models
from srtui.errors import UserError
from srtui.llama import Generation, Prepared, Request, TeacherProgress
from srtui.llama.tuning import far_off, tuned
from srtui.pipeline.ahead import Ahead
from srtui.pipeline.context import Context
from srtui.progress import Stopped
from srtui.reflection import ReflectionPrompt, Rewrite
from srtui.store.conversations import FOLLOWED, followed
from srtui.store.corpus import Variant
from srtui.store.endings import CUT, cut_at, packed
from srtui.store.generations import CAME_TO_SOMETHING, Answer, GenerationRow, Settled, StoredGeneration

PAGE = 256  # samples that are read from the store, and prepared, together
# What has come is stored together: a commit waits for the disk, and a fast teacher need not.
_TOGETHER, _TOGETHER_SECONDS = 64, 0.05


@dataclass(frozen=True)
class _OpenRequest:
    """The key of a teacher request: which sample, what it had, which try; and the keys of its candidates."""

    sample_id: int
    variant: Variant
    attempt: int
    keys: tuple[bytes, ...] = ()


class _Tally:
    """Reflections so far in a stage, by what they came to."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = dict(counts)

    def add(self, status: str, attempts: int) -> None:
        key = "retried" if status == "parsed" and attempts > 1 else status
        self._counts[key] = self._counts.get(key, 0) + 1

    @property
    def total(self) -> int:
        """Samples whose reflection is settled."""
        return sum(self._counts.values())

    def detail(self) -> dict[str, Any]:
        first, retried = self._counts.get("parsed", 0), self._counts.get("retried", 0)
        unasked = self._counts.get(FOLLOWED, 0)
        unparsed = sum(self._counts.values()) - first - retried - unasked
        stay = {"followed": unasked} if unasked else {}
        return {"parsed": first, "retried": retried, "unparsed": unparsed, **stay}


class Reflecting:
    """Asks the teacher about every sample that has no reflection yet, and stores what comes."""

    def __init__(
        self, context: Context, prompt: ReflectionPrompt, look: Callable[[], None] = lambda: None
    ) -> None:
        """``look`` is called now and then, by this thread: for what others do meanwhile."""
        self._context, self._prompt, self._look = context, prompt, look
        self._store, self._run, self._recipe = context.store, context.run, context.recipe
        self._watch = context.watch
        self._total = context.sample_count
        self._tally = _Tally(self._tally_so_far())
        earlier = self._store.runs.stages(self._run.id).get(f"reflect-{prompt.target}")
        self._reused = earlier.reused if earlier else 0  # samples that stored texts settled
        self._unknown = 0  # rewrites taken from the store that may have been cut short
        self._outstanding = 0  # requests that the teacher has, or whose answers are not stored yet
        self._waiting: dict[tuple[int, int], list[Generation]] = {}  # candidates of requests that miss others
        self._finished: list[tuple[_OpenRequest, list[Generation]]] = []  # stored together
        self._finished_since = 0.0
        self._added: set[bytes] = set()  # keys of what the transaction in hand has stored
        self._samplers: dict[int, str] = {}
        self._stays: set[int] = set()  # samples whose instruction later turns refer to
        # An earlier srtui's keys, where there are any, are looked for too.
        self._first_keys = self._store.generations.has_first_keys()

    def work(self, pages: Iterable[list[tuple[int, int]]]) -> None:
        """``pages``: sample and variant ids, read as they are needed. Raises Stopped when asked to stop."""
        if self._prompt.target == "instruction":
            self._stays = followed(self._store.conn, self._run.id)
            pages = (self._without_followed(page) for page in pages)
        if self._recipe.reflection.source == "store":
            self._from_store(pages)
            self._reused = self._total
            detail = {**self._tally.detail(), "reused": self._reused}
            self._watch.report_progress(self._total, self._total, 0, detail, now=True)
            return
        teacher = self._teacher = self._context.teacher()
        self._before, began = teacher.progress(), time.monotonic()
        with Ahead(self._requests(pages), teacher.prepare, self._watch.should_stop) as ahead:
            self._fill_window(ahead, whole=True)
            while self._outstanding:
                for generation in teacher.run(self._between_steps):
                    self._hear(generation)
                    self._fill_window(ahead)
                self._store_finished()
                self._watch.raise_if_stopped()
                self._fill_window(ahead)
        self._watch.raise_if_stopped()
        if self._unknown:
            self._watch.event(
                "warning",
                f"{self._unknown:,} stored rewrites were made by an older srtui, which did not keep how each part "
                "ended: whether one was cut short is not known.",
            )
        self._show(now=True)
        self._compare_with_table(teacher.progress(), self._before, time.monotonic() - began)

    def _requests(self, pages: Iterable[list[tuple[int, int]]]) -> Iterator[list[Request]]:
        """What is to be asked of each page; what stored texts settle is settled."""
        for page in pages:
            if self._watch.should_stop():
                return
            unasked = [
                _OpenRequest(sample_id, variant, 1, self._keys(variant, 1))
                for sample_id, variant in self._context.variants(page)
            ]
            stored = self._store.generations.with_keys(key for u in unasked for key in u.keys)
            requests = []
            with self._store.transaction():
                for one in unasked:
                    again: _OpenRequest | None = one
                    if self._first_keys or not stored.keys().isdisjoint(one.keys):
                        again = self._first_unasked(one.sample_id, one.variant)
                    if again is not None:
                        requests.append(self._request(again))
                    else:
                        self._reused += 1
            if not requests:
                self._show()
            yield requests

    def _compare_with_table(self, now: TeacherProgress, before: TeacherProgress, seconds: float) -> None:
        """Warn where the table that chose the slots is not of this machine as it is."""
        if self._recipe.teacher.slots != "auto":
            return
        with suppress(UserError):  # a file that has gone by now is nothing to say here
            table = tuned(models.resolve_teacher(self._context.workspace.models, self._recipe.teacher.model))
            words = table and far_off(
                table,
                now.slots,
                now.prompt_tokens - before.prompt_tokens,
                now.new_tokens - before.new_tokens,
                seconds - self._watch.waited,
            )
            if words:
                self._watch.event("warning", words)

    def _request(self, asked: _OpenRequest) -> Request:
        return self._prompt.request(asked, asked.variant.pair, asked.attempt)

    def _keys(self, variant: Variant, attempt: int) -> tuple[bytes, ...]:
        """Of the candidates of one try."""
        of, by = self._prompt, self._teacher.identity
        return tuple(
            of.key(variant.pair, attempt, candidate, by)
            for candidate in range(self._recipe.reflection.candidates)
        )

    def _fill_window(self, ahead: Ahead[Request, Prepared], *, whole: bool = False) -> None:
        """Give the teacher what is prepared, as far as its window goes; ``whole`` waits until that is full, and
        where it has nothing at all to do, the next page is waited for."""
        while not ahead.exhausted and self._outstanding + PAGE <= max(self._teacher.window, PAGE):
            ready = ahead.take(wait_for_it=whole or not self._outstanding)
            self._teacher.submit(ready)
            self._outstanding += len(ready)
            if (not ready and self._outstanding and not whole) or self._watch.should_stop():
                return

    def _between_steps(self) -> bool:
        """Whether to stop; the teacher asks after each step."""
        if self._finished and time.monotonic() - self._finished_since > _TOGETHER_SECONDS:
            self._store_finished()
        self._show()
        self._look()
        return self._watch.should_stop()

    def _hear(self, generation: Generation) -> None:
        """One candidate of a request has come."""
        asked = cast("_OpenRequest", generation.key)  # our own key comes back untouched
        group = self._waiting.setdefault((asked.sample_id, asked.attempt), [])
        group.append(generation)
        # All of them, also of a prompt that is refused: each candidate is refused by itself.
        if len(group) < self._recipe.reflection.candidates:
            return
        del self._waiting[asked.sample_id, asked.attempt]
        group.sort(key=lambda g: g.candidate)
        if not self._finished:
            self._finished_since = time.monotonic()
        self._finished.append((asked, group))
        waited = time.monotonic() - self._finished_since
        if len(self._finished) >= _TOGETHER or waited > _TOGETHER_SECONDS:
            self._store_finished()
        self._show()

    def _store_finished(self) -> None:
        """Store what has come, in one transaction; ask again where that settles nothing."""
        finished, self._finished = self._finished, []
        self._added.clear()
        if not finished:
            return
        again: list[Request] = []
        with self._store.transaction():
            stored = self._store.generations.with_keys(key for asked, _ in finished for key in asked.keys)
            fresh: list[tuple[_OpenRequest, list[Generation]]] = []
            others: list[tuple[_OpenRequest, list[Generation]]] = []
            for asked, group in finished:
                is_new = stored.keys().isdisjoint(asked.keys) and self._added.isdisjoint(asked.keys)
                (fresh if is_new else others).append((asked, group))
                self._added.update(asked.keys)
            unsettled = self._take_new(fresh)
            unsettled += [asked for asked, group in others if not self._take(asked, group, stored)]
            for asked in unsettled:
                unasked = self._first_unasked(asked.sample_id, asked.variant, asked.attempt + 1)
                if unasked is not None:
                    again.append(self._request(unasked))
        self._outstanding += len(again) - len(finished)
        self._teacher.submit(again)

    def _without_followed(self, todo: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Settle the instructions that later turns of their conversation refer to: they stay as they are."""
        stays = self._stays
        rest = [one for one in todo if one[0] not in stays]
        if len(rest) < len(todo):
            with self._store.transaction():
                for sample_id, variant_id in todo:
                    if sample_id in stays:
                        self._store.generations.add_reflection(
                            self._run.id, sample_id, self._prompt.target, variant_id, FOLLOWED, 0, []
                        )
                        self._tally.add(FOLLOWED, 0)
        return rest

    def _from_store(self, pages: Iterable[list[tuple[int, int]]]) -> None:
        """No teacher: what is stored as a rewrite of the variant, whoever made it, is compared."""
        store, prompt = self._store, self._prompt
        for page in pages:
            with store.transaction():
                for sample_id, variant in self._context.variants(page):
                    rewrites = [v.id for v in store.corpus.rewrites_of(variant.id, prompt.kind)]
                    self._settle(sample_id, variant, "parsed" if rewrites else "none_stored", 0, rewrites)
            if self._watch.should_stop():
                raise Stopped
            self._watch.report_progress(self._tally.total, self._total, 0, self._tally.detail())

    def _first_unasked(self, sample_id: int, variant: Variant, first: int = 1) -> _OpenRequest | None:
        """The first try, of those from ``first`` on, whose generations are not stored yet, or None where stored
        ones settle it.

        Another run with the same teacher, words and seeds, or this one before it was killed, has
        asked already: the same question is never paid for twice.
        """
        identity, prompt = self._teacher.identity, self._prompt
        for attempt in range(first, self._recipe.reflection.max_attempts + 1):
            keys = self._keys(variant, attempt)
            stored = [
                self._store.generations.with_key(
                    key,
                    prompt.first_key(variant.pair, attempt, candidate, identity)
                    if self._first_keys
                    else None,
                )
                for candidate, key in enumerate(keys)
            ]
            # A refusal says what the teacher's context and memory held then, which may be more now.
            if any(g is None or g.finish == "too_long" for g in stored):
                return _OpenRequest(sample_id, variant, attempt, keys)
            generations = [g for g in stored if g is not None]
            if any(self._lacked_room(g, variant, attempt) for g in generations):
                return _OpenRequest(sample_id, variant, attempt, keys)
            made = [g for g in generations if g.parsed == "parsed" and not _was_cut(g)]
            if not prompt.is_settled(attempt, rewritten=bool(made)):
                continue
            with self._store.transaction():
                ids = [self._adopt(sample_id, variant, g) for g in made]
                status = "parsed" if ids else _status(generations[0])
                self._unknown += sum(1 for g in made if g.segments is None)
                self._settle(sample_id, variant, status, attempt, ids)
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
        return any(room[n] > had for n, had in cut)

    def _adopt(self, sample_id: int, variant: Variant, stored: GenerationRow) -> int:
        """The variant of a stored generation, as a variant of this sample (the same text may be a
        sample of another dataset too)."""
        variant_id = cast(int, stored.variant_id)  # what could be parsed has one
        made = self._store.corpus.variants([variant_id])[variant_id]
        if made.sample_id == sample_id:
            return made.id
        return self._store.corpus.add_variant(
            sample_id, self._prompt.kind, "teacher", variant.id, stored.id, made.pair
        )[0]

    def _take_new(self, finished: Sequence[tuple[_OpenRequest, list[Generation]]]) -> list[_OpenRequest]:
        """Store the generations of tries none of which is stored, all together; gives those that settle nothing."""
        prompt, kind = self._prompt, self._prompt.kind
        read = [[(g, prompt.read(g, asked.variant.pair)) for g in group] for asked, group in finished]
        made = iter(
            self._store.generations.add_answers(
                [
                    Answer(self._row(asked, g, r), asked.sample_id, asked.variant.pair, kind, r.pair)
                    for (asked, _), group in zip(finished, read, strict=True)
                    for g, r in group
                ]
            )
        )
        settled, open_ones = [], []
        for (asked, _), group in zip(finished, read, strict=True):
            variants = [next(made) for _ in group]
            candidates = [v for v in variants if v is not None and v != asked.variant.id]
            if self._is_settled(asked, group):
                settled.append(self._settled(asked, group, candidates))
            else:
                open_ones.append(asked)
        self._store.generations.add_reflections(self._run.id, prompt.target, settled)
        for one in settled:
            self._tally.add(one.status, one.attempts)
        return open_ones

    def _take(
        self, asked: _OpenRequest, group: Sequence[Generation], stored: dict[bytes, GenerationRow]
    ) -> bool:
        """Store one try's generations, some of which are there; True when the sample's reflection is settled.
        ``stored`` has those that were there under their keys.

        Where a try is asked again for one candidate, a rewrite that is stored of another stands: choices may
        have been made by it."""
        prompt, store = self._prompt, self._store
        read = [(g, prompt.read(g, asked.variant.pair)) for g in group]
        rows = [self._row(asked, g, r) for g, r in read]
        # Another sample may have come to the same text, and have been asked the same a moment ago.
        stand = [stored.get(r.key) or store.generations.with_key(r.key) for r in rows]
        settled = self._is_settled(asked, read, any(s is not None and s.parsed == "parsed" for s in stand))
        candidates: list[int] = []
        for (_, rewrite), row, stands in zip(read, rows, stand, strict=True):
            if stands is not None and stands.parsed in CAME_TO_SOMETHING:
                if stands.parsed == "parsed":
                    candidates.append(self._adopt(asked.sample_id, asked.variant, stands))
                continue
            generation_id = store.generations.add(row, about=asked.variant.pair, is_new=stands is None)
            if rewrite.pair is not None:
                variant_id, _ = store.corpus.add_variant(
                    asked.sample_id, prompt.kind, "teacher", asked.variant.id, generation_id, rewrite.pair
                )
                store.generations.made(generation_id, variant_id)
                if variant_id != asked.variant.id:
                    candidates.append(variant_id)
        if settled:
            one = self._settled(asked, read, candidates)
            self._settle(asked.sample_id, asked.variant, one.status, one.attempts, one.candidates)
        return settled

    def _is_settled(
        self, asked: _OpenRequest, read: Sequence[tuple[Generation, Rewrite]], rewritten: bool = False
    ) -> bool:
        """Whether a try ends its sample's reflection; ``rewritten``: a rewrite of it was stored already."""
        return self._prompt.is_settled(
            asked.attempt,
            rewritten=rewritten or any(rewrite.pair for _, rewrite in read),
            refused=any(generation.refused for generation, _ in read),
        )

    @staticmethod
    def _settled(
        asked: _OpenRequest, read: Sequence[tuple[Generation, Rewrite]], candidates: Sequence[int]
    ) -> Settled:
        """What a try that ends its sample's reflection came to."""
        status = "parsed" if candidates else next((r.status for _, r in read if not r.pair), "unchanged")
        candidates = list(dict.fromkeys(candidates))
        return Settled(asked.sample_id, asked.variant.id, status, asked.attempt, candidates)

    def _settle(
        self, sample_id: int, variant: Variant, status: str, attempts: int, candidates: Sequence[int]
    ) -> None:
        """The sample's reflection came to ``status``; the student compares these candidates."""
        self._store.generations.add_reflection(
            self._run.id,
            sample_id,
            self._prompt.target,
            variant.id,
            status,
            attempts,
            list(dict.fromkeys(candidates)),
        )
        self._tally.add(status, attempts)

    def _row(self, asked: _OpenRequest, generation: Generation, rewrite: Rewrite) -> StoredGeneration:
        prompt, by = self._prompt, self._teacher.identity
        return StoredGeneration(
            key=asked.keys[generation.candidate],
            parent_variant_id=asked.variant.id,
            stage=prompt.target,
            model=by.name,
            model_sha256=by.sha256,
            prompt_version=prompt.version_for(asked.variant.pair),
            mode=self._recipe.reflection.mode,
            sampler=self._sampler(asked.attempt),
            seed=generation.seed,
            attempt=asked.attempt,
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

    def _tally_so_far(self) -> dict[str, int]:
        return self._store.generations.reflections_by_status(self._run.id, self._prompt.target)

    def _show(self, now: bool = False) -> None:
        if not (now or self._watch.due):
            return
        at, before = self._teacher.progress(), self._before
        tokens = at.prompt_tokens + at.new_tokens - before.prompt_tokens - before.new_tokens
        detail = {
            **self._tally.detail(),
            "reused": self._reused,
            "slots": at.slots,
            "slots_in_use": at.slots_in_use,
            "waiting": at.waiting,
        }
        asked = at.live_key
        self._watch.show(
            **detail,
            sample_id=asked.sample_id if isinstance(asked, _OpenRequest) else None,
            text=at.live_text[-2000:],
        )
        self._watch.report_progress(self._tally.total, self._total, tokens, detail, now=True)


def _was_cut(stored: GenerationRow) -> bool:
    """Whether an older srtui took a text that it had cut short; its last part is the answer."""
    return stored.segments is None and stored.finish in CUT


def _status(stored: GenerationRow) -> str:
    """What a stored generation came to, in the word that is counted."""
    return "cut_response" if _was_cut(stored) else str(stored.parsed).partition(":")[0]
