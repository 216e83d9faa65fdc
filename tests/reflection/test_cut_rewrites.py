"""A rewrite that was cut short is no rewrite: retried with more room, then rejected with its own reason."""

from __future__ import annotations

import pytest

from srtui.llama import Generation, WrittenSegment
from srtui.recipe import Recipe, parse
from srtui.reflection import ReflectionPrompt, load_criteria
from srtui.sample import Pair
from srtui.store.endings import ending_of, packed
from srtui.wording import ending_words

BEFORE = Pair("Name a river.", "", "Nile")


def recipe(mode: str) -> Recipe:
    return parse({"name": "r", "dataset": "d", "reflection": {"mode": mode}}, "test")


def protocol(stage: str, mode: str = "guided") -> ReflectionPrompt:
    return ReflectionPrompt(load_criteria(stage, stage), recipe(mode))  # type: ignore[arg-type]


def status(asked: ReflectionPrompt, *written: tuple[str, str]) -> str:
    parts = tuple(WrittenSegment(text, finish, 9) for text, finish in written)
    text = "".join(text for text, _ in written)
    return asked.read(Generation(0, 0, 0, parts, text, "", "", 1, 9, 0.1), BEFORE).status


C = ("It is vague.", "length")  # a critique may end anywhere


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([C, ("The Nile and its sources", "end")], "parsed"),
        ([C, ("The Nile and its sources", "stop:[End]")], "parsed"),
        ([C, ("The Nile. To address this", "length")], "cut_response"),
        ([C, ("The Nile. The Nile.", "repetition")], "repeated_response"),
        ([C, ("", "length")], "cut_response"),
        ([C, ("The Nile. [end] To address this", "length")], "parsed"),
        ([C, ("", "end")], "empty_response"),
    ],
)
def test_an_answer(written: list[tuple[str, str]], expected: str) -> None:
    assert status(protocol("response"), *written) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([C, ("Name three.", "stop:[End]"), ("Nile, Amazon, Rhine.", "end")], "parsed"),
        ([C, ("Name three rivers that", "length")], "cut_instruction"),
        ([C, ("Name Name", "repetition")], "repeated_instruction"),
        ([C, ("Name three.", "end"), ("Nile, Amaz", "length")], "cut_response"),
        ([C, ("Name three. [end] Well,", "length")], "cut_instruction"),
    ],
)
def test_an_instruction(written: list[tuple[str, str]], expected: str) -> None:
    assert status(protocol("instruction"), *written) == expected


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("It is vague. [Better Answer] The Nile. [End] And so on and", "length", "parsed"),
        ("It is vague. [Better Answer] The Nile and", "length", "cut_response"),
        ("It is vague. [Better Answer] The Nile", "end", "parsed"),
        ("It is vague, and what is", "length", "cut_response"),
        ("It is vague. It is vague.", "repetition", "repeated_response"),
        ("It is vague.", "end", "no_response"),
    ],
)
def test_in_one_go(text: str, finish: str, expected: str) -> None:
    assert status(protocol("response", "free"), (text, finish)) == expected


@pytest.mark.parametrize("mode", ["guided", "free"])
@pytest.mark.parametrize("stage", ["instruction", "response"])
def test_a_retry_has_more_room_and_a_key_of_its_own(stage: str, mode: str) -> None:
    asked = protocol(stage, mode)
    rooms = [sum(s.max_tokens for s in asked.segments(attempt)) for attempt in range(1, 7)]
    assert rooms[0] < rooms[1] < rooms[2] < rooms[3] == rooms[5]
    assert [s.least_tokens or s.max_tokens for s in asked.segments(3)] == [
        s.max_tokens for s in asked.segments(1)
    ]
    assert len(asked.parts) == len(asked.segments(1))


def test_endings_in_words() -> None:
    def said(segments: str | None, finish: str) -> str:
        return ending_words(ending_of(1, segments, finish))

    kept = packed([("critique", "length", 48), ("response", "stop:[End]", 70)])
    assert said(kept, "stop:[End]") == (
        "critique cut off at its limit after 48 tokens, response ended by [End] after 70 tokens"
    )
    assert said(packed([]), "too_long") == "nothing was written: too_long"
    assert "not known" in said(None, "end") and "ended by itself" in said(None, "end")
