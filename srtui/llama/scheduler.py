"""Which sequence gets which tokens in the next step, and which cells of the KV cache.

Each step feeds prompt chunks of those that are starting, up to a budget of tokens, and one token of every
running sequence. A slot that finishes is filled again before the next step, with the longest that waits, so
that the tail of the work is short. What prompts have in common is evaluated once, in a sequence of its own
behind the slots, and copied.

On a CPU a prompt chunk is a batch of its own, so that its arithmetic does not depend on what runs beside it
(docs/notes/engineering.md has the measurements); on a GPU, which small batches leave idle, the chunks of a step go
together. A memory that cannot be cut back (Mamba's, the hybrids') shares no prefixes and gets no idle tokens and no
drafts.

Everything here is arithmetic over sequences: the engine carries it out, and keeps their ``cached`` true.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from srtui.llama.drafting import Drafter
from srtui.llama.sequence import AnswerSequence
from srtui.models.memory import slots_that_fit

# llama.cpp's CPU attention takes another path, with other rounding, for chunks of at least this many
# tokens: a prompt is cut so that its chunks stay above it, shared prefix or not.
CHUNK_FLOOR = 64
# What is waiting to be fed: more tokens than this are a prompt, fewer the lead of a guided segment.
LEAD = 32
# Sequences, a slot, that are too long for the plan in hand: with so many, the slots are emptied for the next plan.
_OVERDUE = 4


@dataclass(frozen=True)
class SlotPlan:
    """``slots`` sequences of up to ``cells`` tokens at a time. Those of ``floor`` tokens and fewer wait for
    another plan. ``warning`` says it where memory holds less than was wanted."""

    slots: int
    cells: int
    floor: int = 0
    warning: str | None = None


@dataclass(frozen=True)
class Admission:
    """A sequence enters ``slot``, with the first ``shared`` tokens copied from the slot ``source``, which may be the
    same one: then they lie there."""

    sequence: AnswerSequence
    slot: int
    source: int | None = None
    shared: int = 0


@dataclass(frozen=True)
class Move:
    """The cells of the slot ``source`` go to the empty ``slot``."""

    source: int
    slot: int


@dataclass(frozen=True)
class Batch:
    """One ``llama_decode``: the next tokens of sequences, as many as stand beside each, and (slot, position)
    of idle tokens, which are taken out again.

    With ``drafts`` there is one for each sequence: tokens that are guessed behind the one that it is fed, or none.
    llama.cpp cuts a batch where its sequences have different numbers of tokens, so those without a guess, and idle
    slots, get ``drafted`` idle tokens more in their place.
    """

    fed: Sequence[tuple[AnswerSequence, int]]
    idle: Sequence[tuple[int, int]] = ()
    drafts: Sequence[Sequence[int]] = ()

    @property
    def drafted(self) -> int:
        """How many tokens are guessed of each sequence that has a guess."""
        return max(map(len, self.drafts), default=0)

    @property
    def longest(self) -> AnswerSequence:
        """The sequence with the most tokens in the cache."""
        return max((sequence for sequence, _ in self.fed), key=lambda s: s.cached)


class Scheduler:
    """The queue and the slots.

    A round is ``plan`` and ``open``, then ``fill`` and ``step`` in turns until no slot is taken. ``fill`` and
    ``step`` yield what is to be done next as it follows from what was done before, so each item has to be
    carried out before the next is asked for. ``together`` puts the prompt chunks of a step into one batch;
    ``drafter`` guesses the next tokens, where there is one.
    """

    def __init__(self, *, together: bool, drafter: Drafter | None = None) -> None:
        self.together, self.drafter = together, drafter
        self.slots: list[AnswerSequence | None] = []
        self.prefix: list[int] = []  # what the sequence behind the slots holds
        self._queue: list[
            tuple[int, int, AnswerSequence]
        ] = []  # a heap: the first place first, then the oldest
        self._places: dict[object, int] = {}  # of what begins alike, the first one's size
        self._numbers = count()
        self._next_plan: list[tuple[int, int, AnswerSequence]] = []  # too long for the slots of this one
        self._candidates: dict[int, deque[AnswerSequence]] = {}  # that wait, by their request's id()
        self._handed_over = 0  # of the queue, those that run already: a slot was handed over to them
        self._set_back: deque[AnswerSequence] = deque()
        self._cells = self._floor = 0
        self._batch_tokens, self._lead = 1, LEAD
        self._cuts = True

    @property
    def running(self) -> list[AnswerSequence]:
        """The sequences that have slots, in the slots' order."""
        return [sequence for sequence in self.slots if sequence is not None]

    @property
    def waiting(self) -> int:
        """How many sequences have no slot yet, or not any more."""
        return len(self._queue) - self._handed_over + len(self._next_plan) + len(self._set_back)

    def add(self, sequences: Iterable[AnswerSequence]) -> None:
        """Queue sequences; those of one size run in the order in which they came, and those that begin alike
        after each other, at the place of the first of them."""
        for sequence in sequences:
            begins, place = sequence.request.begins, sequence.size
            if begins is not None:
                place = self._places.setdefault(begins, sequence.size)
            heapq.heappush(self._queue, (-place, next(self._numbers), sequence))
            if sequence.request.candidates > 1:
                self._candidates.setdefault(id(sequence.request), deque()).append(sequence)

    def clear(self) -> None:
        """Forget all sequences."""
        self.slots = [None] * len(self.slots)
        self._queue.clear()
        self._next_plan.clear()
        self._set_back.clear()
        self._places.clear()
        self._candidates.clear()
        self._handed_over = 0

    # -- planning ---------------------------------------------------------------------------

    def plan(self, most: int, affordable: int) -> SlotPlan:
        """How many slots to open for what waits, ``most`` at most, with how many cells each, where memory
        holds ``affordable`` in all."""
        self._queue = [entry for entry in (*self._queue, *self._next_plan) if not entry[2].started]
        heapq.heapify(self._queue)
        self._next_plan.clear()
        self._handed_over = 0
        self._floor = 0
        return plan_slots([sequence.size for _, _, sequence in self._queue], most, affordable)

    def open(self, plan: SlotPlan, *, slots: int, cells: int, batch_tokens: int, cuts: bool) -> None:
        """The plan was carried out, as far as there was memory.

        Args:
            plan: what ``plan`` returned.
            slots: how many sequences the context has, beside the one for the shared prefix.
            cells: the tokens that each of them holds.
            batch_tokens: the most tokens of one batch.
            cuts: whether the end of a sequence can be taken out of the cache.
        """
        self.slots = [None] * slots
        self._floor, self._cells, self._batch_tokens, self._cuts = plan.floor, cells, batch_tokens, cuts
        self._lead = min(LEAD, batch_tokens)  # a longer one goes in in chunks, as prompts do
        prompts = [sequence.prompt for _, _, sequence in self._queue]
        self.prefix = shared_prefix(prompts) if cuts else []

    # -- slots ------------------------------------------------------------------------------

    def fill(self) -> Iterator[Admission | Move]:
        """Put waiting sequences into free slots, as far as the cells go; then close the gaps."""
        for slot, sequence in enumerate(self.slots):
            if sequence is not None:
                continue
            following = self._next()
            if following is None:
                yield from self._close_gaps()
                return
            yield self._admit(following, slot)

    def release(self, sequence: AnswerSequence) -> None:
        """A sequence has left its slot, and the slot's cells are empty."""
        self.slots[sequence.slot] = None
        sequence.slot, sequence.cached = -1, 0

    def hand_over(self, ended: AnswerSequence) -> Admission | None:
        """A waiting candidate of the request takes the slot of one that has ended, with their prompt as it lies in
        the cache; None where none waits. So a prompt is evaluated once, however many slots its candidates find."""
        waiting = self._candidates.pop(id(ended.request), None)
        while waiting and waiting[0].started:
            waiting.popleft()
        if not waiting or not self._cuts or ended.was_set_back:
            return None
        self._candidates[id(ended.request)] = waiting
        following, slot = waiting.popleft(), ended.slot
        following.start()
        ended.slot, ended.cached = -1, 0
        self.slots[slot], following.slot = following, slot
        self._handed_over += 1
        return Admission(following, slot, slot, len(following.prompt) - 1)

    def set_back(self, sequence: AnswerSequence) -> bool:
        """Keep a released sequence that found no room in the cache until the slots are empty, to run alone;
        False where it was set back before."""
        if sequence.was_set_back:
            return False
        sequence.was_set_back = True
        self._set_back.append(sequence)
        return True

    def _next(self) -> AnswerSequence | None:
        """The next sequence that this plan has room for."""
        running = self.running
        if self._set_back and not running:
            return self._set_back.popleft()
        if any(sequence.was_set_back for sequence in running):
            return None  # it has the cache to itself
        if len(self._next_plan) >= _OVERDUE * len(self.slots):
            return None  # work comes without end: those that wait for another plan would wait with it
        held = []
        following = None
        while self._queue and following is None:
            entry = heapq.heappop(self._queue)
            sequence = entry[2]
            if sequence.started:
                self._handed_over -= 1
            elif sequence.size > self._cells or sequence.size <= self._floor:
                self._next_plan.append(entry)  # it came after the plan was made, or more of it will fit
            elif self._prompt_is_coming(sequence):
                held.append(entry)
            else:
                following = sequence
        for entry in held:
            heapq.heappush(self._queue, entry)
        return following

    def _prompt_is_coming(self, sequence: AnswerSequence) -> bool:
        """Whether another candidate of its request, or one that begins alike, is evaluating their prompt right
        now."""
        begins = sequence.request.begins
        if self._cuts and begins is not None and not sequence.started:
            same_beginning = [other for other in self.running if other.request.begins == begins]
            if any(other.cached < len(other.prompt) for other in same_beginning):
                return True
        if not self._cuts or not sequence.candidate or self._sibling(sequence) is not None:
            return False
        return any(other.request is sequence.request for other in self.running)

    def _sibling(self, sequence: AnswerSequence) -> AnswerSequence | None:
        """A running candidate of the same request whose prompt is in the cache."""
        for other in self.slots:
            if (
                other is not None
                and other.request is sequence.request
                and other.cached >= len(sequence.prompt)
            ):
                return other
        return None

    def _relative(self, sequence: AnswerSequence) -> tuple[AnswerSequence | None, int]:
        """The running sequence, of those that begin alike, whose prompt has the most of this one's tokens in the
        cache, and how many. As with the prefix of all, what stays to be evaluated is a chunk: fewer tokens would be
        rounded otherwise than in a prompt of their own, and so would what was written and not read."""
        nearest: tuple[AnswerSequence | None, int] = (None, 0)
        begins = sequence.request.begins
        if not self._cuts or begins is None:
            return nearest
        for other in self.running:
            if other is sequence or other.request.begins != begins:
                continue
            held = other.prompt[: other.cached]
            shared = len(common_prefix([held, sequence.prompt[: max(0, len(sequence.prompt) - CHUNK_FLOOR)]]))
            if shared >= CHUNK_FLOOR and shared > nearest[1]:
                nearest = (other, shared)
        return nearest

    def _admit(self, sequence: AnswerSequence, slot: int) -> Admission:
        is_new = not sequence.started
        if is_new:
            sequence.start()
        sibling = self._sibling(sequence) if is_new and sequence.candidate and self._cuts else None
        self.slots[slot] = sequence
        sequence.slot = slot
        if sibling is not None:  # the prompt's last token again, for its logits
            return Admission(sequence, slot, sibling.slot, len(sequence.prompt) - 1)
        size = len(self.prefix)
        other, shared = self._relative(sequence)
        if other is not None and shared > size:
            return Admission(sequence, slot, other.slot, shared)
        # One that came after the plan may be shorter than those that the prefix was cut for.
        room = len(sequence.prompt) - size >= CHUNK_FLOOR
        if size and room and sequence.tokens[:size] == self.prefix:
            return Admission(sequence, slot, len(self.slots), size)
        return Admission(sequence, slot)

    def _close_gaps(self) -> Iterator[Move]:
        """Move the last sequences into empty slots: llama.cpp evaluates neighbours together."""
        last = len(self.slots) - 1
        for slot in range(len(self.slots)):
            while last > slot and self.slots[last] is None:
                last -= 1
            sequence = self.slots[last]
            if last <= slot or sequence is None:
                return
            if self.slots[slot] is None:
                self.slots[slot], self.slots[last], sequence.slot = sequence, None, slot
                yield Move(last, slot)

    # -- steps ------------------------------------------------------------------------------

    def step(self) -> Iterator[Batch]:
        """The batches of one step: prompt chunks up to a batch's tokens, leads, then one token of every
        running sequence. A sequence may finish, or be set back, by each."""
        running = self.running
        yield from self._prompts(running)
        # A guided segment's lead: as many tokens in each, or llama.cpp would cut the batch otherwise.
        leads: dict[int, list[tuple[AnswerSequence, int]]] = {}
        for sequence in running:
            if 1 < sequence.left <= self._lead and sequence.slot >= 0:
                leads.setdefault(sequence.left, []).append((sequence, sequence.left))
        for size, group in leads.items():
            most = self._batch_tokens // size
            for start in range(0, len(group), most):
                yield Batch(group[start : start + most])
        ready = [sequence for sequence in running if sequence.left == 1 and sequence.slot >= 0]
        if ready:
            fed, slots = [(sequence, 1) for sequence in ready], [sequence.slot for sequence in ready]
            gaps = self._between(slots, at_least=1)
            drafts = self._drafts(ready, gaps)
            yield Batch(fed, gaps, drafts) if drafts else Batch(fed, self._between(slots, at_least=2))

    def _drafts(
        self, ready: Sequence[AnswerSequence], gaps: Sequence[tuple[int, int]]
    ) -> Sequence[Sequence[int]]:
        """Guesses for those that decode, as far as a batch and the cells have room for them."""
        if self.drafter is None or not self._cuts:
            return ()
        ends = [len(sequence.tokens) for sequence in ready] + [end + 1 for _, end in gaps]
        return self.drafter.drafts(ready, min(self._batch_tokens // len(ends) - 1, self._cells - max(ends)))

    def _prompts(self, running: Sequence[AnswerSequence]) -> Iterator[Batch]:
        budget = self._batch_tokens
        together = []
        for sequence in running:
            if sequence.left <= self._lead or budget <= 0:
                continue
            chunk = even_chunk(sequence.left, self._batch_tokens)
            if self.together:
                chunk = min(chunk, budget)
                together.append((sequence, chunk))
                budget -= chunk
                continue
            budget -= chunk
            yield Batch([(sequence, chunk)])
            # No idle tokens could close the gap between its neighbours, so the prompt goes in whole.
            while not self._cuts and sequence.slot >= 0 and sequence.left > self._lead:
                yield Batch([(sequence, even_chunk(sequence.left, self._batch_tokens))])
        if together:
            yield Batch(together)

    def _between(self, slots: Sequence[int], *, at_least: int) -> list[tuple[int, int]]:
        """The idle tokens that let those that decode lie side by side, and be ``at_least`` so many: a batch with
        a gap is cut in two, and one token of one sequence alone is rounded otherwise."""
        low, high = min(slots), max(slots)
        idle = sorted({*range(low, max(high, low + at_least - 1) + 1)} - set(slots))
        ends = [(slot, self._end_of(slot)) for slot in idle]
        # Where nothing can be taken out again, only empty sequences can be given one.
        return [(slot, end) for slot, end in ends if self._cuts or end == 0]

    def _end_of(self, slot: int) -> int:
        """How many tokens a slot, or the shared prefix behind them, has in the cache."""
        if slot == len(self.slots):
            return len(self.prefix)
        sequence = self.slots[slot]
        return sequence.cached if sequence is not None else 0


def plan_slots(sizes: Sequence[int], most: int, affordable: int) -> SlotPlan:
    """Slots, and cells for each, for sequences of these ``sizes`` in tokens.

    Every slot has room for the longest. Where memory does not hold as many as ``most``, the longest run first
    with fewer slots, and the rest gets a plan of its own (``floor``).
    """
    slots, longest = min(most, len(sizes)), max(sizes)
    if (slots + 1) * longest <= affordable:
        return SlotPlan(slots, longest)
    share = affordable // (slots + 1)
    long = sum(1 for size in sizes if size > share)
    fewer = max(1, slots_that_fit(min(slots, long), longest, affordable))
    return SlotPlan(
        fewer,
        longest,
        share if long < len(sizes) else 0,
        f"Memory holds {affordable:,} tokens of the teacher's KV cache, so {fewer} answers of up to "
        f"{longest:,} tokens are written at a time, not {slots}.",
    )


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """What all prompts begin with, as far as it is worth evaluating once: it, and what each prompt has
    behind it, must be a chunk."""
    if len(prompts) < 2:
        return []
    prefix = common_prefix(prompts)
    keep = min(len(prefix), min(len(prompt) for prompt in prompts) - CHUNK_FLOOR)
    return prefix[:keep] if keep >= CHUNK_FLOOR else []


def common_prefix(lists: Sequence[list[int]]) -> list[int]:
    """The longest prefix of all lists; that of the least and the greatest is that of all."""
    low, high = min(lists), max(lists)
    size = next(
        (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )
    return low[:size]


def even_chunk(left: int, most: int) -> int:
    """How much of ``left`` tokens to feed at a time, ``most`` at most: even pieces, none much smaller than
    the others."""
    return -(-left // -(-left // most))
