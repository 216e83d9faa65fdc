"""What small models really write, and the rule that nothing is invented."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.reflection import OwnWording, Parsed, Unparsed, load_criteria, parse_free, parse_guided

MARKERS = [
    "[New Instruction]", "[New Answer]", "[Better Answer]", "[End]", "New Answer:", "**New Instruction:**",
    "1. New Answer:", "[/End]", "[end of answer]", "End", "your answer", "\n", '"', "the Endocrine system",
]  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(MARKERS), st.text(max_size=30)), max_size=12).map("".join)


OURS = load_criteria("response", "response").own_wording()


def free(text: str) -> Parsed | Unparsed:
    return parse_free(text, wants_instruction=False, own_wording=OURS)


def test_as_asked() -> None:
    text = "It is vague.\n[New Instruction] Name three rivers. [End]\n[New Answer] Nile, Amazon, Rhine. [End]"
    assert parse_free(text, wants_instruction=True) == Parsed(
        "It is vague.", "Name three rivers.", "Nile, Amazon, Rhine."
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Fine.\n[Better Answer] Forty-two.", "Forty-two."),  # no [End]
        ("Fine.\nBetter Answer: Forty-two.\nIt is so.", "Forty-two.\nIt is so."),  # no brackets
        ("**Better Answer:** Forty-two.", "Forty-two."),
        ("### New Answer:\nForty-two.", "Forty-two."),
        ("1. Better Answer: Forty-two.", "Forty-two."),
        ("[Better Answer]: Forty-two. [END]", "Forty-two."),
        ("[Better Answer] Forty-two. [/Better Answer]", "Forty-two."),
        ("[Better Answer] the better answer [End]\n[Better Answer] Forty-two. [End]", "Forty-two."),
        ("[better answer] the better answer [End] [Better Answer] Forty-two.", "Forty-two."),
        ("[Better Answer] Forty-two. [End] [Better Answer] Another. [End]", "Forty-two."),
        (
            "[Better Answer] The Endocrine system.\nEnd of the day. [End] x",
            "The Endocrine system.\nEnd of the day.",
        ),
        ("[Better Answer] 1. Eggs\n2. The end\n3. Milk [End]", "1. Eggs\n2. The end\n3. Milk"),
        ('[Better Answer] "Forty-two." [End]', '"Forty-two."'),
        (
            "[Better Answer] Use [b]bold[/b] and then [end of line] \\n. [End]",
            "Use [b]bold[/b] and then [end of line] \\n.",
        ),
        ("[Better Answer] Old answer: 41\nNew answer: 42 [End]", "Old answer: 41\nNew answer: 42"),
        ("[Better Answer] [] [End]", "[]"),
        ("[Better Answer] {} [End]", "{}"),
        ("[Better Answer] The answer [End]", "The answer"),
        ("[Better Answer] ... [End]", "..."),
        ('[Better Answer] "A" and "B" [End]', '"A" and "B"'),
        ("[Better Answer] A new answer is what people want. [End]", "A new answer is what people want."),
    ],
)
def test_what_small_models_write(text: str, answer: str) -> None:
    parsed = free(text)
    assert isinstance(parsed, Parsed)
    assert parsed.response == answer


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_response"),
        ("It is a good answer.", "no_response"),
        ("[Better Answer] [End]", "empty_response"),
        ("[Better Answer] the better answer [End]", "placeholder"),
        ("[Better Answer] The better answer.", "placeholder"),
    ],
)
def test_what_is_no_answer(text: str, reason: str) -> None:
    assert free(text) == Unparsed(reason)


def test_an_echo_of_the_prompt_is_no_answer() -> None:
    line = "Then write a better answer to the same instruction: correct, complete."
    assert parse_free(
        f"[Better Answer] {line}", wants_instruction=False, own_wording=OwnWording([line])
    ) == Unparsed("echo")


def test_guided_reads_the_segments() -> None:
    assert parse_guided(["c", " i ", "r [End] more"], wants_instruction=True) == Parsed("c", "i", "r")
    assert parse_guided(["c", "[Better Answer] r"], wants_instruction=False) == Parsed("c", None, "r")
    assert parse_guided(["c", "i", ""], wants_instruction=True) == Unparsed("empty_response")
    assert parse_guided(["c"], wants_instruction=True) == Unparsed("empty_instruction")
    assert parse_guided(["c", "i"], wants_instruction=True) == Unparsed("empty_response")
    assert parse_guided(["c", "Better Answer: r [End]"], wants_instruction=False) == Parsed("c", None, "r")
    assert parse_guided(["c", "i", "Old: 1\nNew answer: 2"], wants_instruction=True) == Parsed(
        "c", "i", "Old: 1\nNew answer: 2"
    )


def test_what_no_marker_ends_is_as_whole_as_the_writing() -> None:
    parsed = parse_free("[New Answer] r [New Instruction] i", wants_instruction=True)
    assert isinstance(parsed, Parsed) and parsed.unclosed == ("instruction",)
    for text, unclosed in (("[Better Answer] r", ("response",)), ("[Better Answer] r [End] and so on", ())):
        found = free(text)
        assert isinstance(found, Parsed) and found.unclosed == unclosed
    guided = parse_guided(["c", "i [End] x", "r"], wants_instruction=True)
    assert isinstance(guided, Parsed) and guided.unclosed == ("response",)


def unmarked(text: str) -> bool:
    """None of our markers, as such or as a heading, and not our own words."""
    low = re.sub(r"\s+", " ", text.lower())
    names = ("new instruction", "new answer", "better answer", "[end", "[ end", "/end", "/ end")
    return bool(text.strip()) and not any(name in low for name in names)


PARTS = [
    "[b]",
    "[/b]",
    "[/code]",
    "[]",
    "{}",
    "The answer",
    "your answer",
    "[1]",
    "[/INST]",
    "Answer:",
    "...",
    '"',
    "`",
]
plain = (
    st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=20)), max_size=8)
    .map("".join)
    .filter(unmarked)
)


@given(plain, plain)
def test_a_text_without_our_markers_survives_unchanged(instruction: str, answer: str) -> None:
    both = f"c\n[New Instruction] {instruction} [End]\n[New Answer] {answer} [End]"
    assert parse_free(both, wants_instruction=True) == Parsed("c", instruction.strip(), answer.strip())
    assert free(f"[Better Answer]\n{answer}") == Parsed("", None, answer.strip())
    assert parse_guided(["c", instruction, answer], wants_instruction=True) == Parsed(
        "c", instruction.strip(), answer.strip()
    )


@given(texts, st.booleans())
def test_free_never_crashes_and_never_invents(text: str, wants_instruction: bool) -> None:
    parsed = parse_free(text, wants_instruction=wants_instruction)
    if isinstance(parsed, Parsed):
        assert parsed.response and parsed.response in text
        assert parsed.critique in text
        assert (parsed.instruction is not None) == wants_instruction
        assert not parsed.instruction or parsed.instruction in text
    else:
        assert parsed.reason


@given(st.lists(texts, max_size=4), st.booleans())
def test_guided_never_crashes_and_never_invents(written: list[str], wants_instruction: bool) -> None:
    parsed = parse_guided(written, wants_instruction=wants_instruction)
    if isinstance(parsed, Parsed):
        assert parsed.response in written[2 if wants_instruction else 1]
        assert not wants_instruction or (parsed.instruction or "") in written[1]
