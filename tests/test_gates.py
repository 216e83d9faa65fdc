"""Gates: what each stops and lets pass, and how often it is right on rewrites that were labelled by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.evaluation.statistics import wilson
from srtui.gates import GATES, all_gates, copied_share, first_gate, language_of, repeated_share
from srtui.recipe import parse
from srtui.sample import Pair, Target

LABELLED = Path(__file__).with_name("labelled") / "rewrites.jsonl"
WRITTEN = LABELLED.with_name("written.jsonl")
BEFORE = Pair(
    "Name three fruits and say where they grow.", "", "Apples grow on trees. So do pears and plums."
)


def stopped(after: Pair, before: Pair = BEFORE, target: Target = "response") -> set[str]:
    return {found.gate for found in all_gates(before, after, target)}


def answer(text: str, before: Pair = BEFORE) -> set[str]:
    return stopped(before._replace(response=text), before)


@pytest.mark.parametrize(
    ("gate", "text"),
    [
        ("cut_off", "Apples and pears grow on trees, and so do plums and"),
        ("cut_off", "Apples, pears,"),
        ("cut_off", "Here is a list of fruits that grow on trees:"),
        ("cut_off", "1. Apples.\n2. Pears.\n3."),
        ("cut_off", "```python\nfruits = ['apple']\n"),
        ("cut_off", "Apples grow on trees in many countries. Pears and plums grow on the very same kinds"),
        ("cut_off", "Apples grow on trees, and many people like them very much. The second"),
        ("about_the_task", "The new instruction asks for three fruits and for the places where they grow."),
        ("about_the_task", "[Better Answer] Apples, pears and plums."),
        ("about_the_task", "This answer is more detailed than the previous one."),
        ("about_the_task", "Criticism: it names no place."),
        ("language", "Der Apfel wächst auf dem Baum, und die Birne ist nicht die einzige, die auf ihm wächst."),
        ("language", "Яблоки растут на деревьях."),
        ("refusal", "I'm sorry, but fruits are not something that I know about."),
        ("refusal", "As an AI language model, I have never eaten a fruit."),
        ("repetition", "Apples grow on the trees. " * 6),
        ("prompt_copy", "Name three fruits and say where they grow."),
    ],
)  # fmt: skip
def test_a_gate_stops(gate: str, text: str) -> None:
    assert gate in answer(text)


@pytest.mark.parametrize(
    "text",
    [
        "Apples, pears and plums. All three grow on trees, in gardens and in orchards.",
        "1. Apples: on trees\n2. Pears: on trees\n3. Strawberries: on the ground",
        "Apples",
        "```python\nfruits = ['apple', 'pear', 'plum']\n```",
        "Dear Ann,\n\nApples grow on trees.\n\nWarmly,\nTom",
        "Where do pears grow? On trees! And plums, too.",
        "The answer is 42.",
    ],
)
def test_a_good_answer_passes(text: str) -> None:
    assert not answer(text)


@pytest.mark.parametrize(
    ("instruction", "text"),
    [
        ("Find the missing number in this sequence: 52, 34, 17, __", "9."),
        ("Which one is right? A) four B) five", "The correct answer is A"),
        ("Write a query that lists all users.", "SELECT * FROM users;"),
        ("Declare a number in C.", "int x = 5;"),
        ("Suggest a book on the stars.", "1. The Night Sky by Mark A. Garlick\n2. Looking Up: A Journey by Roy A. Gallant"),
        ("Translate into Russian: Hello, how are you?", "Привет, как дела? Это очень хорошо."),
        ("Translate to Norwegian: I cannot see the house.", "Jeg kan ikke se huset på haugen, det har vært der, og det er en bakke."),
        ("Find playlists.", "1. https://open.example.com/a\n2. https://b.example.com/c\n3. https://www.example.com/d"),
        ("Write an email that apologises for being late.", "Dear Ms Lee,\n\nI am sorry that I was late. It will not happen again."),
        ("My friend's dog died. How do I comfort her?", "I'm sorry to hear about her dog. Be there for her, and listen."),
        ("Make a menu in HTML.", "<ul>\n" + "".join(f'<li><a href="#">{w}</a></li>\n' for w in ("Home", "News", "Shop", "Help")) + "</ul>"),
        ("List related addresses.", "\n".join(f"https://example.com/a-long-way-to-say/it/{w}" for w in ("one", "two", "six", "ten"))),
        ("What does a program counter hold?", "The program counter holds the address of the next instruction to be fetched."),
        ("What is a Nash equilibrium?", "Each player plays the best response to what all the others play."),
        ("भारत के बारे में बताइए।", "भारत में कई भाषाएँ हैं। भारत में कई धर्म हैं। भारत में कई नदियाँ हैं। भारत में कई पर्वत हैं।"),
    ],
)  # fmt: skip
def test_what_looks_like_a_sign_and_is_none_passes(instruction: str, text: str) -> None:
    """Numbers, options, code, names, scripts, links, letters and other subjects: each was stopped once."""
    before = Pair(instruction, "", "Bees make honey.")
    assert not answer(text, before)


def test_a_text_passes_where_the_one_before_was_like_it() -> None:
    """A data set's own way of writing stops nothing: poems without an end, answers that refuse, texts on texts."""
    for text in (
        "leaves fall, and",
        "I'm sorry, but I cannot answer that.",
        "The new instruction is shorter.",
    ):
        assert not answer(text + " so", BEFORE._replace(response=text)) & {"refusal", "about_the_task"}
    assert "cut_off" not in answer("Red leaves fall, and", BEFORE._replace(response="Brown leaves fall, and"))


def test_a_language_that_was_asked_for_passes() -> None:
    german = "Die Äpfel sind nicht die einzigen, und das ist auch gut für den Garten."
    asked = Pair("Translate the sentence into German.", "The apples are not the only ones.", "Äpfel.")
    assert "language" not in answer(german, asked)
    assert "language" in answer(german)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat is on the table and it was not there before.", "English"),
        ("Das ist nicht der Hund, und die Katze ist auch nicht im Haus.", "German"),
        ("El perro no está en la casa y los gatos se van con ella.", "Spanish"),
        ("Le chat est dans la maison et les chiens ne sont pas avec nous.", "French"),
        ("これはペンです。", "Japanese"),
        ("这是一本书。", "Chinese"),
        ("Это не книга.", "Cyrillic"),
        ("42", ""),
        ("", ""),
    ],
)
def test_a_language_is_known_by_its_commonest_words(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_lost_input_is_found() -> None:
    before = Pair(
        "Summarise the paragraph.", "Bees that visit many flowers live longer than others.", "Bees."
    )
    gone = Pair("Summarise what is known about insects in one sentence.", "", "Insects are many.")
    assert "lost_input" in stopped(gone, before, "instruction")
    written = Pair(f"Summarise this: {before.input}", "", "Bees live long.")
    assert "lost_input" not in stopped(written, before, "instruction")
    points = Pair("Summarise the following text in one sentence.", "", "It is short.")
    assert "lost_input" in stopped(points, BEFORE, "instruction")
    assert "lost_input" not in stopped(points, BEFORE, "response")  # its instruction was there before


@given(st.text(), st.text(), st.text(), st.sampled_from(["instruction", "response"]))
def test_what_has_not_changed_is_never_stopped(a: str, b: str, c: str, target: Target) -> None:
    assert not stopped(Pair(a, b, c), Pair(a, b, c), target) - {"lost_input"}


@given(st.text(max_size=200), st.text(max_size=200))
def test_shares_are_shares(text: str, other: str) -> None:
    assert 0 <= repeated_share(text) <= 1
    assert 0 <= copied_share(text, other) <= 1
    assert stopped(Pair(other, "", text)) <= GATES.keys()


def test_the_first_gate_of_those_that_are_on_is_the_reason() -> None:
    after = BEFORE._replace(response="The new instruction asks for fruits, and")
    assert first_gate(BEFORE, after, "response", ()) is None
    found = first_gate(BEFORE, after, "response", ("about_the_task", "cut_off"))
    assert found is not None
    assert found == ("about_the_task", 'talk about the task: the new answer says "The new instruction"')


def test_the_recipe_has_every_gate_and_all_are_off() -> None:
    gates = parse({"name": "r", "dataset": "d"}, "test").gates
    assert gates.active == ()
    assert [name for name in type(gates).model_fields if name != "coherence_percent"] == list(GATES)
    on = parse({"name": "r", "dataset": "d", "gates": {"rater": True, "cut_off": True}}, "test").gates
    assert (on.active, on.of_texts) == (("cut_off", "rater"), ("cut_off",))


COHERENCE_LIMIT = 0.010
"""What a tenth of the quickstart's own pairs are below, by SmolLM2-135M in NF4, measured once."""


def says(gate: str, row: dict[str, Any]) -> bool:
    """Whether a gate stops a labelled rewrite; that on coherence by the values that were measured."""
    if gate == "coherence":
        before, after = row["coherence"]
        return bool(after < min(before, COHERENCE_LIMIT))
    pairs = (Pair(**row[side]) for side in ("before", "after"))
    return any(found.gate == gate for found in all_gates(*pairs, row["target"], (gate,)))


def counts(gate: str, rows: list[dict[str, Any]]) -> tuple[int, int, int]:
    """(stopped and rightly so, stopped, labelled) of a gate."""
    stopped = [says(gate, row) for row in rows]
    labelled = [gate in row["gates"] for row in rows]
    right = sum(a and b for a, b in zip(stopped, labelled, strict=True))
    return right, sum(stopped), sum(labelled)


def rows(file: Path = LABELLED) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


LABELLED_GATES = [gate for gate in GATES if gate != "rater"]


def test_the_figures_of_the_documentation_are_those_of_the_labelled_rewrites() -> None:
    """222 rewrites of the demo's teacher, on the quickstart's data, labelled by hand before a gate had seen them: those
    of seed 7 before the gates were written, those of seed 8 after."""
    labelled = rows()
    by_seed = {seed: [row for row in labelled if row["seed"] == seed] for seed in (7, 8)}
    assert [len(some) for some in by_seed.values()] == [111, 111]
    expected = {
        "cut_off": ((11, 12, 12), (8, 8, 9)),
        "about_the_task": ((72, 72, 92), (48, 50, 83)),
        "language": ((1, 1, 2), (3, 3, 3)),
        "refusal": ((3, 3, 3), (1, 1, 3)),
        "repetition": ((0, 0, 0), (0, 0, 1)),
        "prompt_copy": ((1, 1, 1), (1, 1, 3)),
        "lost_input": ((0, 0, 0), (0, 0, 0)),
        "coherence": ((10, 14, 48), (8, 13, 32)),
    }
    assert {
        gate: tuple(counts(gate, some) for some in by_seed.values()) for gate in LABELLED_GATES
    } == expected
    written = rows(WRITTEN)
    assert len(written) == 36
    expected_of_written = {"repetition": (8, 8, 10), "lost_input": (9, 10, 10)}
    assert {gate: counts(gate, written) for gate in expected_of_written} == expected_of_written
    method = (Path(__file__).resolve().parents[1] / "docs" / "method.md").read_text(encoding="utf-8")
    for gate, both in expected.items():
        line = next(
            line for line in method.partition("## Gates")[2].splitlines() if line.startswith(f"| `{gate}`")
        )
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert cells == [
            words
            for right, said, there in both
            for words in (rate(right, said, "stopped"), rate(right, there, "labelled"))
        ] + written_cells(expected_of_written.get(gate))


def written_cells(of_written: tuple[int, int, int] | None) -> list[str]:
    if of_written is None:
        return ["-", "-"]
    right, said, there = of_written
    return [rate(right, said, "stopped"), rate(right, there, "labelled")]


def rate(right: int, of: int, what: str) -> str:
    """A rate as the documentation has it, with its 95 % Wilson interval."""
    if not of:
        return f"none {what}"
    share = wilson(right, of)
    low, high = share["low"], share["high"]
    assert low is not None
    assert high is not None
    return f"{right} of {of} ({100 * low:.0f} to {100 * high:.0f} %)"
