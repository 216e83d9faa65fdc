"""Reasoning teachers: what they may think is planned, and no lead of ours lands inside their thoughts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from srtui.llama import Generation, Message, Request, Sampler, Segment
from srtui.llama.batching import LlamaTeacher
from srtui.llama.losses import LlamaLosses
from srtui.recipe import parse
from srtui.reflection import ReflectionPrompt, load_criteria
from srtui.sample import Pair
from tests.llama.tiny_gguf import write_tiny

pytestmark = pytest.mark.model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENS = CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
KNOWS = CHATML + "{% if false %}</think>{% endif %}"
ASKED = (Message("user", "Write about rain."),)
GREEDY = Sampler(temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("thinking")


@pytest.fixture
def teacher(request: pytest.FixtureRequest, teacher_file: Path, folder: Path) -> Iterator[LlamaTeacher]:
    template, context = request.param
    file = folder / f"{abs(hash(request.param))}.gguf"
    if not file.exists():
        write_tiny(file, teacher_file, "llama", template=template, context=context)
    opened = LlamaTeacher(file, name="tiny", sha256="", slots=3, threads=1)
    yield opened
    opened.close()


def ask(*segments: Segment, key: object = 0, thinking: int = 20) -> Request:
    return Request(key, ASKED, segments, 1, GREEDY, thinking_tokens=thinking)


def run(teacher: LlamaTeacher, *requests: Request) -> list[Generation]:
    teacher.submit(requests)
    return list(teacher.run())


@pytest.mark.parametrize("teacher", [(OPENS, 4096)], indirect=True)
def test_what_it_thinks_is_in_the_plan(teacher: LlamaTeacher) -> None:
    found = run(teacher, *(ask(Segment("", 12), key=n, thinking=400) for n in range(3)))
    assert [g.refused for g in found] == [None] * 3
    for g in found:
        assert g.prompt.endswith("assistant\n<think>\n")
        assert len(g.thinking) > 400 and g.written[0].tokens <= 12
        assert "think>" not in g.text
    assert sum(g.new_tokens for g in found) == teacher.progress().new_tokens  # none was run twice


@pytest.mark.parametrize("teacher", [(OPENS, 256)], indirect=True)
def test_what_it_thinks_must_fit(teacher: LlamaTeacher) -> None:
    (g,) = run(teacher, ask(Segment("", 12), thinking=250))
    assert g.refused == "too_long" and teacher.progress().new_tokens == 0


@pytest.mark.parametrize("teacher", [(OPENS, 4096)], indirect=True)
def test_a_lead_stands_behind_the_thinking_that_a_template_opens(teacher: LlamaTeacher) -> None:
    (g,) = run(teacher, ask(Segment("Criticism:\n", 8), Segment("\n\n[Better Answer]\n", 8)))
    assert g.prompt.endswith("assistant\n<think>\n\n</think>\n\n")
    assert g.thinking == ""
    assert g.text == f"Criticism:\n{g.written[0].text}\n\n[Better Answer]\n{g.written[1].text}"
    assert g.new_tokens == 16


@pytest.mark.parametrize("teacher", [(KNOWS, 4096)], indirect=True)
def test_a_model_that_begins_to_think_behind_a_lead(teacher: LlamaTeacher) -> None:
    """In any segment; it is closed before the next lead, however it ended."""
    for grammar in (
        'root ::= "<think>" [a-z ]+',
        'root ::= "<think>hm"',
        'root ::= "<think>hm</think> So" [a-z ]+',
    ):
        tokens: list[int] = []
        finish = teacher._runner._finish
        teacher._runner._finish = lambda sequence: (tokens.extend(sequence.tokens), finish(sequence))[1]  # type: ignore[method-assign]  # noqa: B023
        (g,) = run(
            teacher, ask(Segment("A:\n", 8), Segment("\nB:\n", 10, grammar=grammar), Segment("\nC:\n", 8))
        )
        teacher._runner._finish = finish  # type: ignore[method-assign]
        assert g.thinking and "think>" not in g.text
        assert g.text == "".join(
            s + w.text for s, w in zip(("A:\n", "\nB:\n", "\nC:\n"), g.written, strict=True)
        )
        whole = b"".join(teacher._vocabulary.spelling(t) for t in tokens).decode()
        assert whole.count("<think>") == whole.count("</think>") == 1
        assert whole.index("B:") < whole.index("<think>") < whole.index("</think>") < whole.index("C:")
        assert ("So" in g.written[1].text) == ("So" in grammar)


@pytest.mark.parametrize("teacher", [(CHATML, 4096)], indirect=True)
def test_thinking_that_nothing_announced_takes_from_the_answer(teacher: LlamaTeacher) -> None:
    (g,) = run(teacher, ask(Segment("", 16, grammar='root ::= "<think>" [a-z ]+'), Segment("\nB:\n", 4)))
    assert (g.written[0].text, g.written[0].finish) == ("", "length")
    assert g.thinking and g.new_tokens <= 16 + 4


@pytest.mark.parametrize("teacher", [(CHATML, 256)], indirect=True)
def test_more_room_where_there_is_some(teacher: LlamaTeacher) -> None:
    """A segment takes what the context leaves it, down to its least; a cut one that must be whole is the last."""
    long = Segment("", 4000, least_tokens=10, whole=True, grammar="root ::= [a-z ]{2000}")
    (most,) = run(teacher, replace(ask(long, Segment("\nB:\n", 8)), sampler=Sampler(temperature=1.0)))
    assert most.refused is None
    assert [w.finish for w in most.written] == ["length"]
    assert 150 < most.written[0].tokens < 256
    (g,) = run(teacher, ask(Segment("", 4000, least_tokens=255), Segment("\nB:\n", 8)))
    assert g.refused == "too_long"


@pytest.mark.parametrize("mode", ["guided", "free"])
@pytest.mark.parametrize("teacher", [(OPENS, 4096)], indirect=True)
def test_every_reflection_comes_to_its_end(teacher: LlamaTeacher, mode: str) -> None:
    """Of a model that never ends a thought by itself: what a run asks, in both modes, with its retries, takes no
    more steps than it may write tokens."""
    budget = {
        "mode": mode,
        "critique_tokens": 12,
        "instruction_tokens": 16,
        "answer_tokens": 20,
        "thinking_tokens": 30,
    }
    recipe = parse({"name": "t", "dataset": "d", "reflection": budget}, "t")
    pairs = [Pair(f"Name {n} fruits.", "", "Apples and pears.") for n in range(1, 4)]
    left = 1500

    def out_of_steps() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    for stage in ("instruction", "response"):
        protocol = ReflectionPrompt(load_criteria(stage, stage), recipe)  # type: ignore[arg-type]
        teacher.submit([protocol.request((pair, 1), pair, 1) for pair in pairs])
        came: list[tuple[Pair, int]] = []
        for g in teacher.run(out_of_steps):
            pair, attempt = g.key  # type: ignore[misc]
            came.append((pair, attempt))
            assert g.refused is None and "think>" not in g.text
            assert bool(g.thinking) == (mode == "free")
            assert g.prompt.endswith("<think>\n" if mode == "free" else "<think>\n\n</think>\n\n")
            room = sum(s.max_tokens for s in protocol.segments(attempt))
            assert g.new_tokens <= room + (30 if mode == "free" else 0)
            if attempt < 3:
                teacher.submit([protocol.request((pair, attempt + 1), pair, attempt + 1)])
        assert sorted(came) == sorted((pair, attempt) for pair in pairs for attempt in (1, 2, 3))


def test_a_judge_scores_behind_the_thinking(teacher_file: Path, folder: Path) -> None:
    """Its lead is an answer's beginning, and no thought: with an empty block, as if the template wrote it."""
    found = []
    for template in (OPENS, OPENS.replace("<think>\n", "<think>\n\n</think>\n\n")):
        file = write_tiny(folder / f"judge-{len(found)}.gguf", teacher_file, "llama", template=template)
        losses = LlamaLosses(file)
        found.append(losses.of_options(ASKED, [("Answer: ", ["1/", "2/", "10/"])]))
        losses.close()
    assert found[0] is not None and found[1] is not None
    assert found[0][0] == pytest.approx(found[1][0], abs=0.05)


def test_a_judge_knows_what_it_holds(teacher_file: Path, folder: Path) -> None:
    """With the block that is closed for it: what it holds it can score, and nothing else."""
    losses = LlamaLosses(write_tiny(folder / "short.gguf", teacher_file, "llama", template=OPENS, context=64))
    held = []
    for n in range(10, 40, 2):
        asked = (Message("user", "rain " * n),)
        held.append(losses.holds(asked, "Answer: 10/"))
        assert held[-1] == (losses.of_options(asked, [("Answer: ", ["10/"])]) is not None)
    losses.close()
    assert held[0] and not held[-1]
