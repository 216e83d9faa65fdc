"""Guessed tokens: where they come from, when they are worth it, and that what is written does not depend on them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.llama import Generation, Message, Request, Sampler, Segment
from srtui.llama.batching import LlamaTeacher
from srtui.llama.drafting import LENGTHS, Drafter, Lookup
from srtui.llama.scheduler import Scheduler
from srtui.llama.sequence import AnswerSequence
from tests.llama.decodes import GREEDY, all_jobs, guided, record
from tests.llama.test_scheduler import Engine, sequences
from tests.llama.tiny_gguf import write_tiny

MOST = LENGTHS[-1]


def one(tokens: Sequence[int]) -> AnswerSequence:
    (sequence,) = sequences(1, 1)
    sequence.tokens = list(tokens)
    return sequence


def likely_next(tokens: list[int], count: int) -> list[int]:
    """The same by going through the text: the longest of the last 4, 3, 2 tokens, where it stood last."""
    for size in (4, 3, 2):
        for end in range(len(tokens) - 1, size - 1, -1):
            if tokens[end - size : end] == tokens[-size:] and len(tokens) > size:
                text = list(tokens)
                for n in range(count):
                    text.append(text[end + n])
                return text[len(tokens) :]
    return []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, MOST))
def test_a_guess_is_what_stood_behind(tokens: list[int], count: int) -> None:
    lookup = Lookup()
    for size in range(1, len(tokens) + 1):  # as a text grows
        assert lookup.continuation(one(tokens[:size]), count) == likely_next(tokens[:size], count)


def test_a_guess_after_a_cut() -> None:
    """A segment's end is cut and other tokens stand there: nothing is guessed from what is gone."""
    lookup, sequence = Lookup(), one([1, 2, 3, 9, 9, 1, 2, 7, 7])
    assert lookup.continuation(sequence, 2) == []
    sequence.tokens[5:] = [8, 5, 1, 2]
    sequence.segment = 1
    assert lookup.continuation(sequence, 2) == [3, 9]
    sequence.tokens.append(3)
    assert lookup.continuation(sequence, 3) == [9, 9, 8]
    sequence.tokens[-3:] = [8, 5]
    assert lookup.continuation(sequence, 2) == [8, 5]


def test_drafts_where_they_pay() -> None:
    """Costs decide, then what came of the guesses; one that cannot pay is never made."""
    looped = [one([1, 2, 3, 4] * 5) for _ in range(2)]
    cheap = Drafter({4: {2: 1.1, 4: 1.15, 8: 1.2}})
    # Before anything is known, half of the guesses count as holding.
    assert [len(d) for d in cheap.drafts(looped, MOST)] == [4, 4]
    assert [len(d) for d in cheap.drafts(looped, 3)] == [2, 2]  # as far as there is room
    assert cheap.drafts(looped, 1) == []
    assert cheap.drafts([one([1, 2, 3])], MOST) == []
    dear = Drafter({4: {2: 3.0, 4: 5.0, 8: 9.0}})
    assert all(dear.drafts(looped, MOST) == [] for _ in range(500))
    for _ in range(200):
        cheap.note(0, 8, 0)
    made = [bool(cheap.drafts(looped, MOST)) for _ in range(640)]
    assert 0 < sum(made) < 20  # tried again now and then
    for _ in range(600):
        cheap.note(0, 8, 8)
    assert [len(d) for d in cheap.drafts(looped, MOST)] == [8, 8]
    looped[0].segment = looped[1].segment = 1  # of another segment nothing is known
    assert cheap.drafts(looped, MOST)
    assert Drafter({1: {2: 1.0}}).drafts(looped, MOST) == []  # of two sequences nothing was measured


def test_counts() -> None:
    drafter = Drafter()
    assert math.isnan(drafter.counts.accepted_a_step)
    drafts = drafter.drafts([one([1, 2, 3, 1, 2, 3, 1, 2]), one([5, 6])], MOST)
    assert drafts == [[3, 1, 2, 3, 1, 2, 3, 1], []]
    drafter.note(0, 8, 3)
    drafter.note(0, 8, 0)
    counts = drafter.counts
    assert (counts.steps, counts.sequence_steps, counts.guessed, counts.accepted) == (1, 2, 16, 3)
    assert counts.accepted_a_step == 1.5


class Copies(Engine):
    """Writes few words, over and over."""

    def draw(self, sequence: AnswerSequence) -> int:
        place = len(sequence.tokens)
        often = random.Random(f"{sequence.request.key} {place}").random() < 0.2
        return 0 if often and place % 29 == 0 else 500 + (place % 5 if not often else 7)


@settings(max_examples=40, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(
            st.integers(1, 200),
            st.lists(st.integers(0, 40), min_size=1, max_size=3),
            st.integers(1, 60),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=8,
    ),
    together=st.booleans(),
    cuts=st.booleans(),
    most=st.integers(1, 6),
    batch_tokens=st.sampled_from([8, 24, 100]),
    no_room=st.frozensets(st.integers(1, 80), max_size=3),
)
def test_a_scheduler_that_drafts(
    jobs: list[tuple[int, list[int], int, int]],
    together: bool,
    cuts: bool,
    most: int,
    batch_tokens: int,
    no_room: frozenset[int],
) -> None:
    """Batches, cells and neighbours as without (tests/llama/test_scheduler.py asserts those), and the same texts."""
    texts = []
    for drafter in (None, Drafter()):
        scheduler = Scheduler(together=together, drafter=drafter)
        engine = Copies(scheduler, batch_tokens, cuts, most, no_room=no_room if drafter else frozenset())
        asked = [s for n, job in enumerate(jobs) for s in sequences(n, *job)]
        scheduler.add(asked)
        engine.run()
        texts.append({(s.request.key, s.candidate): s.tokens for s in asked if s not in engine.refused})
        if drafter is not None and not cuts:
            assert drafter.counts.steps == 0
    assert texts[1].items() <= texts[0].items()


# -- with llama.cpp ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama_file(teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("drafting") / "llama.gguf", teacher_file, "llama")


@pytest.mark.model
@pytest.mark.parametrize("name", sorted({*all_jobs()} - {"no room in the cache", "stopped"}))
def test_recorded_jobs_with_drafts(llama_file: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers of tests/llama/test_decodes.py, scripted by what stands before them, whatever is guessed."""
    _, plain = record(llama_file, all_jobs()[name], scripted=True)
    drafters: list[Drafter] = []
    opened = LlamaTeacher.__init__

    def drafting(teacher: LlamaTeacher, *arguments: object, **settings: object) -> None:
        opened(teacher, *arguments, drafting=True, **settings)  # type: ignore[arg-type]
        assert teacher._drafter is not None
        drafters.append(teacher._drafter)

    monkeypatch.setattr(LlamaTeacher, "__init__", drafting)
    recorder, drafted = record(llama_file, all_jobs()[name], scripted=True)
    assert sorted(map(repr, drafted)) == sorted(map(repr, plain))
    counts = drafters[0].counts
    if name == "a loop":
        assert counts.accepted > 100
        assert len(recorder.decodes) < sum(g.new_tokens for g in plain) / 3


def write(file: Path, requests: Sequence[Request], slots: int, drafting: bool) -> tuple[object, LlamaTeacher]:
    teacher = LlamaTeacher(file, name="t", sha256="", slots=slots, threads=1, drafting=drafting)
    try:
        teacher.submit(requests)
        written: dict[object, Generation] = {
            (g.key, g.candidate): replace(g, seconds=0.0) for g in teacher.run()
        }
    finally:
        teacher.close()
    return written, teacher


@pytest.mark.model
@pytest.mark.parametrize("slots", [1, 4, 16])
def test_drawn_and_greedy_texts_are_those_without_drafts(pair_folder: Path, slots: int) -> None:
    """By the model's own logits: the same chain draws each token from them with the same random number, also under
    penalties, grammars and stops, so not the distribution alone but each text is the same."""
    few = Sampler(temperature=1.0, top_k=3, repeat_penalty=1.0)
    requests = [
        guided("rain", "er", n=3, sampler=few),
        guided("bread", "ing", sampler=GREEDY),
        guided("the moon", sampler=Sampler(temperature=1.0)),
        Request(
            "grammar",
            (Message("user", "Say yes or no."),),
            (Segment("", 24, grammar='root ::= ("yes no " | "no yes ")+'), Segment("\n", 12)),
            7,
            few,
        ),
    ]
    file = pair_folder / "tiny.F16.gguf"
    plain, _ = write(file, requests, slots, False)
    drafted, teacher = write(file, requests, slots, True)
    assert drafted == plain
    assert 0 < teacher.drafting.accepted <= teacher.drafting.guessed


@pytest.mark.model
def test_whether_it_pays_is_measured(pair_folder: Path) -> None:
    lines: list[str] = []
    teacher = LlamaTeacher(
        pair_folder / "tiny.F16.gguf", name="t", sha256="", slots=5, threads=1, drafting="auto",
        report_line=lambda level, line: lines.append(line),
    )  # fmt: skip
    teacher.submit([guided("rain", n=5)])
    assert len(list(teacher.run())) == 5
    assert teacher._drafter is not None and teacher._drafter.costs is not None
    assert {*teacher._drafter.costs} == {1, 4, 5}
    assert all(cost >= 1 for costs in teacher._drafter.costs.values() for cost in costs.values())
    assert any(line.startswith("Drafting: ") for line in lines)
    teacher.close()


@pytest.mark.model
def test_a_memory_that_cannot_be_cut_has_no_drafts(teacher_file: Path, tmp_path: Path) -> None:
    file = write_tiny(tmp_path / "mamba.gguf", teacher_file, "mamba")
    _, teacher = write(file, [guided("rain", sampler=GREEDY)], 2, True)
    assert teacher.drafting.steps == 0
