"""The scheduler, driven by a cache that is a table of lists: every batch, copy and cut is checked against what
it must do, for jobs of all shapes. No model."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.llama import Message, Request, Segment
from srtui.llama.scheduler import (
    CHUNK_FLOOR,
    LEAD,
    Admission,
    Batch,
    Move,
    Scheduler,
    common_prefix,
    even_chunk,
    plan_slots,
    shared_prefix,
)
from srtui.llama.sequence import AnswerSequence, sequences_of
from tests.llama.characters import END, LETTERS

CELLS = 10_000  # that memory holds, where nothing else is said


def sequences(
    number: int,
    prompt: int,
    leads: Sequence[int] = (0,),
    tokens: int = 10,
    candidates: int = 1,
    shared: int = 0,
) -> list[AnswerSequence]:
    """The candidates of request ``number``: a prompt of so many tokens, of which ``shared`` are those of all
    requests, and a segment for each lead."""
    segments = tuple(Segment("x" * lead, tokens) for lead in leads)
    request = Request(number, (Message("user", ""),), segments, number, candidates=candidates)
    ids = [300] * min(shared, prompt - 1) + [400 + number] * (prompt - min(shared, prompt - 1))
    return sequences_of(request, "", ids, LETTERS, limit=10**6, may_think=False)


@dataclass
class Engine:
    """Carries out what the scheduler says, and checks it. ``no_room`` are decodes that find no KV slot, and
    ``later`` has the requests that are submitted when so many answers have come."""

    scheduler: Scheduler
    batch_tokens: int = 64
    cuts: bool = True
    most: int = 4
    affordable: int = CELLS
    no_room: frozenset[int] = frozenset()
    later: dict[int, list[AnswerSequence]] = field(default_factory=dict)
    misfits: dict[AnswerSequence, int] = field(default_factory=dict)  # how often there is no room for them
    cache: list[list[int]] = field(default_factory=list)
    finished: list[AnswerSequence] = field(default_factory=list)
    refused: list[AnswerSequence] = field(default_factory=list)
    admitted: list[AnswerSequence] = field(default_factory=list)
    batches: list[list[Batch]] = field(default_factory=list)  # of each step
    decodes: int = 0
    failures: int = 0
    plans: int = 0

    def run(self) -> None:
        while self.scheduler.waiting:
            self._plan()
            while True:
                for action in self.scheduler.fill():
                    self._place(action)
                self._check_slots()
                if not self.scheduler.running:
                    break
                self._step()

    def _plan(self) -> None:
        self.plans += 1
        assert self.plans < 100, "starved"
        plan = self.scheduler.plan(self.most, self.affordable)
        self.cells, self.batch_size = plan.cells, max(self.batch_tokens, plan.slots + 1)
        self.scheduler.open(
            plan, slots=plan.slots, cells=plan.cells, batch_tokens=self.batch_size, cuts=self.cuts
        )
        self.cache = [[] for _ in range(plan.slots)] + [list(self.scheduler.prefix)]

    def _place(self, action: Admission | Move) -> None:
        assert self.cache[action.slot] == [] or (
            isinstance(action, Admission) and action.source == action.slot
        )
        if isinstance(action, Move):
            self.cache[action.slot], self.cache[action.source] = self.cache[action.source], []
            return
        sequence = action.sequence
        self.admitted.append(sequence)
        assert sequence.size <= self.cells
        if action.source is not None:
            assert self.cuts
            self.cache[action.slot] = self.cache[action.source][: action.shared]
            sequence.cached = action.shared
        assert self.cache[action.slot] == sequence.tokens[: sequence.cached]
        assert sequence.left > 0

    def _check_slots(self) -> None:
        """The running ones have their cells, and no gap is between them once nothing can fill it."""
        slots = self.scheduler.slots
        for slot, sequence in enumerate(slots):
            assert self.cache[slot] == (sequence.tokens[: sequence.cached] if sequence else [])
            assert sequence is None or sequence.slot == slot
        taken = [slot for slot, sequence in enumerate(slots) if sequence is not None]
        assert taken == list(range(len(taken)))

    def _step(self) -> None:
        before = {s: (s.cached, s.new_tokens, s.left) for s in self.scheduler.running}
        of_step: list[Batch] = []
        self.batches.append(of_step)
        failures = self.failures
        for batch in self.scheduler.step():
            of_step.append(batch)
            self._decode(batch)
        if self.failures > failures:
            return
        for sequence, (cached, new_tokens, left) in before.items():
            # Whoever writes is never passed over; a long prompt may wait for those before it.
            if left <= min(LEAD, self.batch_size) and sequence.slot >= 0:
                assert (sequence.cached, sequence.new_tokens) != (cached, new_tokens)
        assert any(s.slot < 0 or (s.cached, s.new_tokens) != was[:2] for s, was in before.items())

    def _decode(self, batch: Batch) -> None:
        assert batch.fed
        rows = sum(count for _, count in batch.fed) + len(batch.idle)
        assert rows + batch.drafted * (len(batch.fed) + len(batch.idle)) <= self.batch_size
        self.decodes += 1
        for slot, position in batch.idle:
            assert position == len(self.cache[slot])
            assert self.cuts or not position
        slots = [sequence.slot for sequence, _ in batch.fed]
        assert -1 not in slots
        assert len(set(slots)) == len(slots)
        if all(count == 1 == sequence.left for sequence, count in batch.fed) and self.cuts:
            side_by_side = sorted(slots + [slot for slot, _ in batch.idle])
            assert side_by_side == list(range(side_by_side[0], side_by_side[0] + len(side_by_side)))
            assert len(side_by_side) > 1 or batch.drafted
            assert all(
                len(self.cache[slot]) + 1 + batch.drafted <= self.cells
                for slot in side_by_side
                if batch.drafted
            )
        misfit = next((s for s, _ in batch.fed if self.misfits.get(s, 0) and s.new_tokens > 3), None)
        if misfit is not None:
            self.misfits[misfit] -= 1
        if misfit is not None or self.decodes in self.no_room:
            self._make_room(batch)
            return
        for sequence, count in batch.fed:
            assert 0 < count <= sequence.left
            self.cache[sequence.slot] += sequence.tokens[sequence.cached : sequence.cached + count]
            sequence.cached += count
            assert len(self.cache[sequence.slot]) <= self.cells
        drafts = batch.drafts or [()] * len(batch.fed)
        for (sequence, _), draft in zip(batch.fed, drafts, strict=True):
            if sequence.left:
                continue
            segment, accepted = sequence.segment, 0
            while self._write(sequence) and accepted < len(draft) and sequence.left == 1:
                if sequence.tokens[sequence.cached] != draft[accepted]:
                    break
                self.cache[sequence.slot].append(draft[accepted])
                sequence.cached += 1
                accepted += 1
            if draft and self.scheduler.drafter is not None:
                self.scheduler.drafter.note(segment, len(draft), accepted)

    def draw(self, sequence: AnswerSequence) -> int:
        draw = random.Random(f"{sequence.request.key} {sequence.candidate} {len(sequence.tokens)}").random()
        return END if draw < 0.05 else 500 + int(draw * 100)

    def _write(self, sequence: AnswerSequence) -> bool:
        """Whether the cache holds all that it did."""
        kept = sequence.append(self.draw(sequence))
        was_cut = kept < sequence.cached
        if was_cut:
            sequence.cached = kept if self.cuts else 0
            del self.cache[sequence.slot][sequence.cached :]
        if sequence.finished:
            following = self.scheduler.hand_over(sequence)
            if following is None:
                self.cache[sequence.slot] = []
                self.scheduler.release(sequence)
            else:
                self._place(following)
            self.finished.append(sequence)
            self.scheduler.add(self.later.pop(len(self.finished), []))
        return not (was_cut or sequence.finished)

    def _make_room(self, batch: Batch) -> None:
        sequence = batch.longest
        assert sequence.cached == max(s.cached for s, _ in batch.fed)
        again = sequence.was_set_back
        self.failures += 1
        self.cache[sequence.slot] = []
        self.scheduler.release(sequence)
        assert self.scheduler.set_back(sequence) == (not again)
        if again:
            self.refused.append(sequence)


JOBS = st.lists(
    st.tuples(
        st.integers(1, 300),  # tokens of the prompt
        st.lists(st.integers(0, 40), min_size=1, max_size=3),  # leads
        st.integers(1, 40),  # tokens of a segment
        st.integers(1, 4),  # candidates
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(
    jobs=JOBS,
    retries=JOBS,
    shared=st.sampled_from([0, 80, 200]),
    together=st.booleans(),
    cuts=st.booleans(),
    most=st.integers(1, 6),
    batch_tokens=st.sampled_from([8, 64, 100]),
    affordable=st.integers(100, 4000),
    no_room=st.frozensets(st.integers(1, 150), max_size=4),
)
def test_every_sequence_comes_to_its_end(
    jobs: list[tuple[int, list[int], int, int]],
    retries: list[tuple[int, list[int], int, int]],
    shared: int,
    together: bool,
    cuts: bool,
    most: int,
    batch_tokens: int,
    affordable: int,
    no_room: frozenset[int],
) -> None:
    """Once each, or set back and then refused; no batch above the budget, no cell above the plan's, and the
    cache as the sequences have it (the engine above asserts those)."""
    submitted = [sequences(n, *job, shared=shared) for n, job in enumerate(jobs)]
    late = {n + 1: sequences(100 + n, *job, shared=shared) for n, job in enumerate(retries)}
    everything = [s for group in [*submitted, *late.values()] for s in group]
    scheduler = Scheduler(together=together)
    engine = Engine(scheduler, batch_tokens, cuts, most, affordable, no_room, dict(late))
    scheduler.add(s for group in submitted for s in group)
    engine.run()
    asked = [s for s in everything if not any(s in group for group in engine.later.values())]
    assert len(engine.finished) + len(engine.refused) == len(asked)
    assert {*engine.finished, *engine.refused} == set(asked)
    assert all(sequence.was_set_back for sequence in engine.refused)
    assert scheduler.waiting == 0 and not scheduler.running


@settings(max_examples=40, deadline=None)
@given(JOBS, st.integers(1, 6), st.booleans(), st.integers(200, 3000))
def test_longest_first_and_first_come_first(
    jobs: list[tuple[int, list[int], int, int]], most: int, cuts: bool, affordable: int
) -> None:
    """Candidates may be passed by while their sibling evaluates the prompt; others are not."""
    scheduler = Scheduler(together=False)
    engine = Engine(scheduler, cuts=cuts, most=most, affordable=affordable)
    everything = [sequences(n, *job[:3])[0] for n, job in enumerate(jobs)]
    scheduler.add(everything)
    engine.run()
    assert engine.admitted == sorted(everything, key=lambda s: -s.size)


@pytest.mark.parametrize("together", [False, True])
def test_the_budget_of_a_step(together: bool) -> None:
    """Of prompts no more than one batch's tokens go into a step; on a CPU the last chunk is a whole one."""
    scheduler = Scheduler(together=together)
    engine = Engine(scheduler, batch_tokens=100, most=6)
    scheduler.add(s for n in range(6) for s in sequences(n, 170))
    engine.run()
    assert len(engine.finished) == 6
    for step in engine.batches:
        prompts = [count for batch in step for _, count in batch.fed if count > LEAD]
        assert sum(prompts) <= (100 if together else 100 + 85 - 1)
        assert len(prompts) <= 2
        if not together:
            assert set(prompts) <= {85}  # even pieces
    assert together == any(len(batch.fed) > 1 for batch in engine.batches[0])


def test_a_prompt_goes_in_whole_where_nothing_can_be_taken_out() -> None:
    scheduler = Scheduler(together=False)
    engine = Engine(scheduler, batch_tokens=50, cuts=False, most=2)
    scheduler.add(s for n in range(2) for s in sequences(n, 200))
    engine.run()
    assert [batch.fed[0][1] for batch in engine.batches[0]][:4] == [50, 50, 50, 50]
    assert scheduler.prefix == []


def test_candidates_share_their_prompt() -> None:
    """One evaluates it, the others copy it, all but its last token."""
    scheduler = Scheduler(together=False)
    engine = Engine(scheduler, batch_tokens=64, most=4)
    scheduler.add(sequences(0, 200, candidates=4))
    engine.run()
    fed = sum(count for step in engine.batches for batch in step for _, count in batch.fed)
    written = sum(s.new_tokens for s in engine.finished)
    # A chunk of the prompt is left by the prefix; an answer's last token is never fed.
    assert len(scheduler.prefix) == 200 - CHUNK_FLOOR
    assert fed == CHUNK_FLOOR + 3 + written - 4
    assert len(engine.finished) == 4


@given(st.integers(1, 6), st.integers(1, 9), st.integers(2, 6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_prompt_is_evaluated_once_however_few_slots_there_are(
    requests: int, slots: int, candidates: int, together: bool
) -> None:
    """Where each candidate of many requests has to wait for a slot, it gets one with its prompt in the cache."""
    scheduler = Scheduler(together=together)
    engine = Engine(scheduler, batch_tokens=64, most=slots)
    scheduler.add(s for n in range(requests) for s in sequences(n, 200, candidates=candidates))
    engine.run()
    assert len(engine.finished) == requests * candidates and not scheduler.waiting
    fed = sum(count for step in engine.batches for batch in step for _, count in batch.fed)
    written = sum(s.new_tokens for s in engine.finished)
    prefix = len(scheduler.prefix)  # what all requests begin with, evaluated beside
    prompts = requests * (200 - prefix) + requests * (candidates - 1)  # its last token again, for the logits
    assert fed == prompts + written - requests * candidates  # an answer's last token is never fed


def test_what_prompts_begin_with_is_shared() -> None:
    scheduler = Scheduler(together=False)
    engine = Engine(scheduler, most=2)
    scheduler.add(s for n in range(4) for s in sequences(n, 300, shared=150))
    engine.run()
    assert scheduler.prefix == [300] * 150
    fed = sum(count for step in engine.batches for batch in step for _, count in batch.fed)
    assert fed == 4 * 150 + sum(s.new_tokens for s in engine.finished) - 4


def test_leads_of_one_length_go_together() -> None:
    scheduler = Scheduler(together=False)
    engine = Engine(scheduler, batch_tokens=100, most=5)
    scheduler.add(s for n in range(5) for s in sequences(n, 34, leads=(0, 30), tokens=1))
    engine.run()
    # Three prompts go into the first step; behind each a drawn token and the lead are left.
    leads = [len(b.fed) for step in engine.batches for b in step if all(c == 31 for _, c in b.fed)]
    assert leads == [3, 2]


@pytest.mark.parametrize("misfits", [1, 2])
def test_a_set_back_sequence_continues(misfits: int) -> None:
    """With the tokens that it has, once the slots are empty; and it is refused when it finds no room again."""
    scheduler = Scheduler(together=False)
    long, *others = [sequences(n, 90 - n, tokens=12)[0] for n in range(5)]
    engine = Engine(scheduler, most=2, misfits={long: misfits})
    scheduler.add([long, *others])
    engine.run()
    assert engine.admitted.count(long) == 2
    assert long.tokens[:90] == long.prompt
    assert engine.refused == ([long] if misfits == 2 else [])
    assert set(engine.finished) == ({*others} if misfits == 2 else {long, *others})
    assert long.new_tokens == (4 if misfits == 2 else 12)


def test_a_set_back_sequence_has_the_cache_to_itself() -> None:
    """Also where all slots come free at once, and others wait."""
    scheduler = Scheduler(together=False)
    long, *others = [sequences(n, 90 - n, tokens=12)[0] for n in range(5)]
    engine = Engine(scheduler, most=2, misfits={long: 1})
    scheduler.add([long, *others])
    engine.run()
    fed = [[sequence for sequence, _ in batch.fed] for step in engine.batches for batch in step]
    of_long = [together for together in fed if long in together]
    assert of_long[-8:] == [[long]] * 8


def test_what_is_too_long_for_this_plan_waits_for_the_next() -> None:
    scheduler = Scheduler(together=False)
    retry = sequences(9, 500)
    engine = Engine(scheduler, most=2, later={1: retry})
    scheduler.add(s for n in range(4) for s in sequences(n, 100))
    engine.run()
    assert engine.plans == 2
    assert engine.finished[-1] is retry[0]


@settings(max_examples=40, deadline=None)
@given(
    most=st.integers(1, 4),
    came=st.lists(st.integers(1, 60), min_size=16, max_size=24),
    size=st.integers(130, 600),
)
def test_what_is_too_long_does_not_starve_while_shorter_work_goes_on(
    most: int, came: list[int], size: int
) -> None:
    """Every answer brings another short request, as a window does. From when four too long ones a slot have come,
    no more short ones start than there are slots before the first of the long ones does."""
    stream = 300
    numbers = itertools.count(1000)
    later = {n: sequences(next(numbers), 100) for n in range(1, stream)}
    long: list[AnswerSequence] = []
    for n in came:
        long += sequences(next(numbers), size)
        later[n] = [*later[n], long[-1]]
    enough = sorted(came)[4 * most - 1]  # answers at which so many have come
    scheduler = Scheduler(together=False)
    engine = Engine(scheduler, most=most, later=later)
    scheduler.add(s for n in range(most) for s in sequences(n, 100))
    engine.run()
    assert set(long) <= set(engine.finished)
    assert len(engine.finished) == most + stream - 1 + len(long)
    first = min(engine.admitted.index(one) for one in long)
    # When that many answers had come, at most ``most`` more had been admitted and had not ended.
    assert first <= enough + 2 * most


def test_a_queue_of_many_is_not_looked_through() -> None:
    """One more sequence, or one that starts, asks little of those that wait: no sorting, no search."""

    @dataclass(eq=False)
    class Counted(AnswerSequence):
        @property
        def size(self) -> int:
            nonlocal asked
            asked += 1
            return super().size

    asked = 0
    request = Request(0, (), (Segment("", 5),), 0)
    scheduler = Scheduler(together=False)
    scheduler.add(Counted(request, 0, "", [1] * (n % 97 + 1), [5], 0, 5, LETTERS) for n in range(5000))
    plan = scheduler.plan(4, 10**6)
    scheduler.open(plan, slots=4, cells=plan.cells, batch_tokens=64, cuts=True)
    asked = 0
    scheduler.add([Counted(request, 0, "", [1], [5], 0, 5, LETTERS)])
    list(scheduler.fill())
    assert len(scheduler.running) == 4
    assert asked < 20


# -- the pure parts ---------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50), st.integers(1, 32), st.integers(1, 200_000))
def test_slots_fit_the_memory(sizes: list[int], most: int, affordable: int) -> None:
    plan = plan_slots(sizes, most, affordable)
    assert plan.cells == max(sizes) > plan.floor
    assert 1 <= plan.slots <= min(most, len(sizes))
    # One slot is opened even where memory seems too short; whether it fits is then seen.
    assert plan.slots == 1 or (plan.slots + 1) * plan.cells <= affordable
    if plan.warning is None:
        assert (plan.slots, plan.floor) == (min(most, len(sizes)), 0)
    else:
        assert f"{affordable:,} tokens" in plan.warning


@given(st.integers(1, 5000), st.integers(1, 600))
def test_chunks_are_even(left: int, most: int) -> None:
    sizes = []
    while left:
        sizes.append(even_chunk(left, most))
        left -= sizes[-1]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= len(sizes)
    if most >= 2 * CHUNK_FLOOR and sum(sizes) >= CHUNK_FLOOR:
        assert min(sizes) >= CHUNK_FLOOR


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=5))
def test_common_prefix(lists: list[list[int]]) -> None:
    prefix = common_prefix(lists)
    assert all(one[: len(prefix)] == prefix for one in lists)
    longer = {tuple(one[: len(prefix) + 1]) for one in lists}
    assert len(longer) > 1 or any(len(one) == len(prefix) for one in lists)


@given(st.integers(0, 200), st.lists(st.integers(0, 200), min_size=1, max_size=4))
def test_a_shared_prefix_leaves_a_chunk_on_both_sides(same: int, tails: list[int]) -> None:
    prompts = [[1] * same + [2 + n] * tail for n, tail in enumerate(tails)]
    prefix = shared_prefix(prompts)
    if prefix:
        assert len(prefix) >= CHUNK_FLOOR
        assert all(len(prompt) - len(prefix) >= CHUNK_FLOOR for prompt in prompts)
        assert len(prompts) > 1
    elif len(prompts) > 1:
        assert min(same, same + min(tails) - CHUNK_FLOOR) < CHUNK_FLOOR


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys, srtui.llama.scheduler, srtui.llama.sequence; "
        "print([m for m in ('llama_cpp', 'numpy', 'torch', 'transformers', 'gguf') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def talk(begins: object, number: int, turns: int) -> AnswerSequence:
    """A request behind ``turns`` turns of 30 tokens; what begins alike has the same ones."""
    request = Request(number, (Message("user", ""),), (Segment("", 20),), number, begins=begins)
    who = 600 + hash(begins) % 50 if begins is not None else 900 + number
    ids = (
        [300] * 40
        + [token for turn in range(turns) for token in [who, *([700 + turn] * 29)]]
        + [400 + number] * 25
    )
    return sequences_of(request, "", ids, LETTERS, limit=10**6, may_think=False)[0]


@settings(max_examples=40, deadline=None)
@given(
    conversations=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    slots=st.integers(1, 5),
    together=st.booleans(),
    affordable=st.sampled_from([CELLS, 700]),
)
def test_requests_that_begin_alike_share_what_one_has_in_the_cache(
    conversations: list[int], slots: int, together: bool, affordable: int
) -> None:
    """All of them are written, whatever there is room for, and none is fed more than without sharing."""
    fed = []
    for begins in (True, False):
        jobs = [
            talk(c if begins else None, 10 * c + n, 2 * n)
            for c, size in enumerate(conversations)
            for n in range(1, size + 1)
        ]
        engine = Engine(Scheduler(together=together), most=slots, affordable=affordable)
        engine.scheduler.add(jobs)
        engine.run()
        assert len(engine.finished) == len(jobs)
        fed.append(sum(count for step in engine.batches for batch in step for _, count in batch.fed))
    assert fed[0] <= fed[1]


def test_a_conversations_turns_are_evaluated_once_while_one_of_them_runs() -> None:
    jobs = [talk("a", n, 2 * n) for n in (1, 2, 3)]
    engine = Engine(Scheduler(together=True), most=4)
    engine.scheduler.add(jobs)
    engine.run()
    first, *others = engine.admitted
    fed = sum(count for step in engine.batches for batch in step for _, count in batch.fed)
    written = sum(s.new_tokens for s in jobs)
    # The first of them in whole, but for the prefix of all; of each other one what it has behind the turns before it.
    assert fed <= len(first.prompt) + sum(60 + 25 + 1 for _ in others) + written


def test_what_is_evaluated_behind_a_copied_history_is_a_chunk() -> None:
    """What is written must not depend on whether a conversation's other request still ran."""
    jobs = [*(talk("a", n, 4) for n in (1, 2, 3)), talk("b", 9, 1)]
    engine = Engine(Scheduler(together=False), most=4, batch_tokens=512)
    engine.scheduler.add(jobs)
    engine.run()
    prompts = [c for step in engine.batches for batch in step for _, c in batch.fed if c > 1]
    assert len(prompts) == 4 and min(prompts) >= CHUNK_FLOOR
    assert sum(prompts) < sum(len(job.prompt) for job in jobs)
