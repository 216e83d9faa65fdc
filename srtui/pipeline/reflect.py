"""A stage in which the teacher reflects: on the instructions, or on the responses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, cast

from srtui import models
from srtui.errors import UserError
from srtui.llama import Generation, Prepared, Request, SlotProgress, TeacherProgress
from srtui.llama.tuning import speed_warning, tuned
from srtui.pipeline.ahead import Ahead, in_portions
from srtui.pipeline.context import Context
from srtui.pipeline.tries import OpenRequest, Tries
from srtui.progress import Stopped
from srtui.reflection import ReflectionPrompt
from srtui.store.conversations import FOLLOWED, followed
from srtui.store.generations import Settled

_WALL = 32  # slots that faces are shown
PAGE = 256  # samples that are read from the store, and prepared, together
_PAGE_TEXT = (
    2**21
)  # characters of prompts that are prepared together: a page's would be gigabytes of long histories
_WINDOW_TEXT = 2**23  # characters of prompts that the teacher has at a time, and what is prepared beyond
# What has come is stored together: a commit waits for the disk, and a fast teacher need not.
_TOGETHER, _TOGETHER_SECONDS = 256, 0.05


def _wall(slots: Sequence[SlotProgress]) -> list[dict[str, Any]]:
    """What faces show of the slots: the sample of each, the end of its text, its tokens of those that it may have."""
    return [
        {"sample": s.key.sample_id, "text": s.text, "tokens": s.tokens, "room": s.room}
        for s in slots[:_WALL]
        if isinstance(s.key, OpenRequest)
    ]


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
        self._outstanding = 0  # requests that the teacher has, or whose answers are not stored yet
        self._characters: dict[tuple[int, int], int] = {}  # of their prompts, by sample and try
        self._outstanding_characters = 0
        self._waiting: dict[tuple[int, int], list[Generation]] = {}  # candidates of requests that miss others
        self._finished: list[tuple[OpenRequest, list[Generation]]] = []  # stored together
        self._finished_since = 0.0
        self._followed: set[int] = set()  # samples whose instruction later turns refer to

    def work(self, pages: Iterable[list[tuple[int, int]]]) -> None:
        """``pages``: sample and variant ids, read as they are needed. Raises Stopped when asked to stop."""
        if self._prompt.target == "instruction":
            self._followed = followed(self._store.conn, self._run.id)
            pages = (self._without_followed(page) for page in pages)
        if self._recipe.reflection.source == "store":
            self._from_store(pages)
            self._reused = self._total
            detail = {**self._tally.detail(), "reused": self._reused}
            self._watch.report_progress(self._total, self._total, 0, detail, now=True)
            return
        teacher = self._teacher = self._context.teacher()
        self._tries = Tries(self._context, self._prompt, teacher, self._settle)
        self._before, began = teacher.progress(), time.monotonic()
        with Ahead(self._requests(pages), teacher.prepare, self._watch.should_stop) as ahead:
            self._fill_window(ahead, whole=True)
            while self._outstanding:
                for generation in teacher.run(self._between_steps):
                    self._receive(generation)
                    self._fill_window(ahead)
                self._store_finished()
                self._watch.raise_if_stopped()
                self._fill_window(ahead)
        self._watch.raise_if_stopped()
        if self._tries.unknown_endings:
            self._watch.event(
                "warning",
                f"{self._tries.unknown_endings:,} stored rewrites were made by an older srtui, which did not keep how each part "
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
                OpenRequest(sample_id, variant, 1, self._tries.keys(variant, 1))
                for sample_id, variant in self._context.variants(page)
            ]
            stored = self._store.generations.with_keys(key for u in unasked for key in u.keys)
            to_ask = []
            with self._store.transaction():
                for unasked_one in unasked:
                    next_open: OpenRequest | None = unasked_one
                    if self._tries.has_first_keys or not stored.keys().isdisjoint(unasked_one.keys):
                        next_open = self._tries.first_unasked(unasked_one.sample_id, unasked_one.variant)
                    if next_open is not None:
                        to_ask.append(next_open)
                    else:
                        self._reused += 1
            if not to_ask:
                self._show()
            yield from in_portions(map(self._request, to_ask), lambda r: r.characters, _PAGE_TEXT)

    def _compare_with_table(self, now: TeacherProgress, before: TeacherProgress, seconds: float) -> None:
        """Warn where the table that chose the slots is not of this machine as it is."""
        if self._recipe.teacher.slots != "auto" or self._context.place.parallel > 1:
            return
        with suppress(UserError):  # a file that has gone by now is nothing to say here
            table = tuned(models.resolve_teacher(self._context.workspace.models, self._recipe.teacher.model))
            words = table and speed_warning(
                table,
                now.slots,
                now.prompt_tokens - before.prompt_tokens,
                now.new_tokens - before.new_tokens,
                seconds - self._watch.waited,
            )
            if words:
                self._watch.event("warning", words)

    def _request(self, open_request: OpenRequest) -> Request:
        return self._prompt.request(open_request, open_request.variant.pair, open_request.attempt)

    def _fill_window(self, ahead: Ahead[Request, Prepared], *, whole: bool = False) -> None:
        """Give the teacher what is prepared, as far as its window goes; ``whole`` waits until that is full, and
        where it has nothing at all to do, the next page is waited for."""
        while not ahead.exhausted and self._has_room():
            ready = ahead.take(wait_for_it=whole or not self._outstanding)
            self._submit(ready)
            if (not ready and self._outstanding and not whole) or self._watch.should_stop():
                return

    def _has_room(self) -> bool:
        """Whether the teacher may have another page."""
        if self._outstanding_characters > _WINDOW_TEXT:
            return False
        return self._outstanding + PAGE <= max(self._teacher.window, PAGE)

    def _submit(self, requests: Sequence[Request | Prepared]) -> None:
        for one in requests:
            request = one.request if isinstance(one, Prepared) else one
            asked = cast("OpenRequest", request.key)
            self._characters[asked.sample_id, asked.attempt] = request.characters
            self._outstanding_characters += request.characters
        self._outstanding += len(requests)
        self._teacher.submit(requests)

    def _between_steps(self) -> bool:
        """Whether to stop; the teacher asks after each step."""
        if self._finished and time.monotonic() - self._finished_since > _TOGETHER_SECONDS:
            self._store_finished()
        self._show()
        self._look()
        return self._watch.should_stop()

    def _receive(self, generation: Generation) -> None:
        """One candidate of a request has come."""
        open_request = cast("OpenRequest", generation.key)  # our own key comes back untouched
        group = self._waiting.setdefault((open_request.sample_id, open_request.attempt), [])
        group.append(generation)
        # All of them, also of a prompt that is refused: each candidate is refused by itself.
        if len(group) < self._recipe.reflection.candidates:
            return
        del self._waiting[open_request.sample_id, open_request.attempt]
        group.sort(key=lambda g: g.candidate)
        if not self._finished:
            self._finished_since = time.monotonic()
        self._finished.append((open_request, group))
        waited = time.monotonic() - self._finished_since
        if len(self._finished) >= _TOGETHER or waited > _TOGETHER_SECONDS:
            self._store_finished()
        self._show()

    def _store_finished(self) -> None:
        """Store what has come, in one transaction; ask again where that settles nothing."""
        finished, self._finished = self._finished, []
        if not finished:
            return
        new_requests: list[Request] = []
        with self._store.transaction():
            for open_request in self._tries.take_all(finished):
                unasked = self._tries.first_unasked(
                    open_request.sample_id, open_request.variant, open_request.attempt + 1
                )
                if unasked is not None:
                    new_requests.append(self._request(unasked))
        self._outstanding -= len(finished)
        for asked, _ in finished:
            self._outstanding_characters -= self._characters.pop((asked.sample_id, asked.attempt))
        self._submit(new_requests)

    def _without_followed(self, page: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Settle the instructions that later turns of their conversation refer to: they stay as they are."""
        remaining = [place for place in page if place[0] not in self._followed]
        if len(remaining) < len(page):
            with self._store.transaction():
                for sample_id, variant_id in page:
                    if sample_id in self._followed:
                        self._store.generations.add_reflection(
                            self._run.id, sample_id, self._prompt.target, variant_id, FOLLOWED, 0, []
                        )
                        self._tally.add(FOLLOWED, 0)
        return remaining

    def _from_store(self, pages: Iterable[list[tuple[int, int]]]) -> None:
        """No teacher: what is stored as a rewrite of the variant, whoever made it, is compared."""
        store, prompt = self._store, self._prompt
        for page in pages:
            with store.transaction():
                settled = []
                for sample_id, variant in self._context.variants(page):
                    rewrites = [v.id for v in store.corpus.rewrites_of(variant.id, prompt.kind)]
                    status = "parsed" if rewrites else "none_stored"
                    settled.append(Settled(sample_id, variant.id, status, 0, list(dict.fromkeys(rewrites))))
                self._settle(settled)
            if self._watch.should_stop():
                raise Stopped
            self._watch.report_progress(self._tally.total, self._total, 0, self._tally.detail())

    def _settle(self, settled: Sequence[Settled]) -> None:
        """Store what these samples' reflections came to; the student compares their candidates."""
        self._store.generations.add_reflections(self._run.id, self._prompt.target, settled)
        for reflection in settled:
            self._tally.add(reflection.status, reflection.attempts)

    def _tally_so_far(self) -> dict[str, int]:
        return self._store.generations.reflections_by_status(self._run.id, self._prompt.target)

    def _show(self, now: bool = False) -> None:
        if not (now or self._watch.due):
            return
        progress, before = self._teacher.progress(), self._before
        tokens = progress.prompt_tokens + progress.new_tokens - before.prompt_tokens - before.new_tokens
        detail = {
            **self._tally.detail(),
            "reused": self._reused,
            "slots": progress.slots,
            "slots_in_use": progress.slots_in_use,
            "waiting": progress.waiting,
        }
        live = progress.live_key
        self._watch.show(
            **detail,
            sample_id=live.sample_id if isinstance(live, OpenRequest) else None,
            text=progress.live_text[-2000:],
            **({"wall": wall} if (wall := _wall(progress.slots_now)) else {}),
        )
        self._watch.report_progress(self._tally.total, self._total, tokens, detail, now=True)
