"""Protocol ``paper`` with the released prompts, beside what the authors' own functions give.

`make test` compares the losses of a few samples, and `make check-method` those of all 40.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui.prompts import PromptSet, template
from srtui.prompts.released import released_prompts
from srtui.sample import Pair
from srtui.student import Scorer, Span, SpanBuilder, Student
from tests.conftest import ROOT

pytestmark = pytest.mark.model
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    path = DATA / "released_prompts.json"
    if not path.exists():
        pytest.skip("the released prompts are not at hand")
    return released_prompts([path])


@pytest.fixture(scope="module")
def student(student_folder: Path) -> Student:
    return Student.load(student_folder, "f32", "cpu")


def test_the_losses_are_those_of_the_released_functions(
    prompts: PromptSet, student: Student, alpaca_file: Path
) -> None:
    rows = json.loads(alpaca_file.read_text(encoding="utf-8"))
    lines = (DATA / "released_scores.jsonl").read_text(encoding="utf-8").splitlines()
    known = [json.loads(line) for line in lines]
    # The shortest first: they say as much about tokens as the others, in less time.
    size = {n: len(rows[n]["output"]) + len(rows[n]["instruction"]) for n in range(40)}
    with_input = [n for n in range(40) if rows[n].get("input")]
    order = [*sorted(size, key=size.__getitem__)[:2], *sorted(with_input, key=size.__getitem__)[:1]]
    spans: list[Span] = []
    wanted: list[float] = []
    for entry in known:
        if entry["sample"] not in order:
            continue
        row = rows[entry["sample"]]
        words = template(entry["template"], prompts=prompts)
        builder = SpanBuilder(student.tokenizer, words, "paper", 2048)
        pair = Pair(row["instruction"], row.get("input") or "", row["output"])
        for span in (*builder.forward(pair), *builder.reverse(pair)):
            assert isinstance(span, Span)
            spans.append(span)
        wanted += [entry[name] for name in ("loss_y_given_x", "loss_y", "loss_x_given_y", "loss_x")]
    found = dict(Scorer(student).score(spans))
    assert [found[n].mean for n in range(len(spans))] == pytest.approx(wanted, abs=1e-3)


def test_the_ids_are_those_of_the_released_functions(
    prompts: PromptSet, student: Student, alpaca_file: Path
) -> None:
    """By the released steps, written out, on many samples and at a length that cuts some of them."""
    tokenizer = student.tokenizer
    rows = json.loads(alpaca_file.read_text(encoding="utf-8"))[::31]
    for name in ("alpaca", "vicuna", "wizardlm"):
        words = template(name, prompts=prompts)
        for length in (2048, 200):
            builder = SpanBuilder(tokenizer, words, "paper", length)
            for row in rows:
                pair = Pair(row["instruction"], row.get("input") or "", row["output"])
                sides = (
                    (words.forward(pair.instruction, pair.input), pair.response, builder.forward(pair)),
                    (words.reverse(pair.response), pair.instruction + pair.input, builder.reverse(pair)),
                )
                for prompt, target, (with_prompt, alone) in sides:
                    whole = tokenizer.encode(prompt + target, truncation=True, max_length=length)
                    start = len(tokenizer.encode(prompt))
                    room = length - len(tokenizer.encode(prompt, truncation=True, max_length=length)) + 1
                    ids = tokenizer.encode(target, truncation=True, max_length=room)
                    if len(whole) <= start or len(ids) < 2:  # the released functions give NaN
                        assert not isinstance(alone, Span)
                        assert isinstance(with_prompt, Span) == (len(whole) > start)
                        continue
                    assert isinstance(with_prompt, Span)
                    assert isinstance(alone, Span)
                    assert (list(with_prompt.ids), with_prompt.target) == (whole, len(whole) - start)
                    assert (list(alone.ids), alone.target) == (ids, len(ids) - 1)
