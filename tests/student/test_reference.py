"""The scorer against an independent reference: a plain loop, batch of one, float32, from the formulas.

``pytest tests/student/test_reference.py --samples 200`` compares as many real samples; `make test` takes a few.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from srtui.prompts import template
from srtui.sample import Pair
from srtui.student import Invalid, Scorer, SpanBuilder, SpanLoss, Student, ifd, rifd
from tests.conftest import ROOT

pytestmark = pytest.mark.model
ALPACA = template("alpaca")
MAX_LENGTH = 2048
SPREAD = 200
# Float32 sums in another order differ by this much, in nats a token, where a target has few tokens.
NOISE = 2e-5


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest) -> list[Pair]:
    """Real samples, spread over the file, short ones if they are few: they say as much of tokens, borders and
    sums, in less time. The quickstart's where the real data is not at hand."""
    count = int(request.config.getoption("--samples"))
    real = ROOT.parent / "shared" / "data" / "alpaca_cherry_3k.json"
    if real.exists():
        rows = json.loads(real.read_text(encoding="utf-8"))
    else:
        lines = (ROOT / "recipes" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    found = [
        Pair(r["instruction"], r.get("input") or "", r["output"])
        for r in rows[:: max(1, len(rows) // max(count, SPREAD))]
        if len(r["output"]) > 120 or count > SPREAD
    ]
    found.sort(key=lambda pair: len(pair.instruction) + len(pair.input) + len(pair.response))
    with_input = [pair for pair in found if pair.input]
    without = [pair for pair in found if not pair.input]
    half = max(count // 2, count - len(without))
    return [*with_input[:half], *without][:count]


def mean_nll(model: Any, context: list[int], target: list[int]) -> float:
    """Mean negative log-likelihood of ``target`` after ``context``, nats a token."""
    with torch.no_grad():
        logits = model(torch.tensor([context + target])).logits[0]
    logs = torch.log_softmax(logits[len(context) - 1 : -1].double(), dim=-1)
    return -logs[torch.arange(len(target)), torch.tensor(target)].mean().item()


def four(model: Any, tokenizer: Any, pair: Pair) -> tuple[float, float, float, float]:
    """L(y|x), L(y), L(x|y), L(x) by the design's words: the whole text is cut into tokens once, the target
    is what starts at or after its first character, and without a prompt it follows end-of-text."""

    def both(prompt: str, target: str, end: list[int]) -> tuple[float, float]:
        encoded = tokenizer(prompt + target, return_offsets_mapping=True, add_special_tokens=False)
        first = next(n for n, (at, _) in enumerate(encoded["offset_mapping"]) if at >= len(prompt))
        ids = encoded["input_ids"]
        scored = ids[first:] + end
        return mean_nll(model, ids[:first], scored), mean_nll(model, [tokenizer.eos_token_id], scored)

    forward = both(ALPACA.forward(pair.instruction, pair.input), pair.response, [tokenizer.eos_token_id])
    x = f"{pair.instruction}\n{pair.input}" if pair.input else pair.instruction
    return (*forward, *both(ALPACA.reverse(pair.response), x, []))


def paper_four(model: Any, tokenizer: Any, pair: Pair) -> tuple[float, float, float, float]:
    """The same as the released scripts do it: prompt and target as one string, the start of the target by
    encoding what stands before it, the target alone without a prompt, the input behind the instruction."""

    def both(prompt: str, target: str) -> tuple[float, float]:
        whole = tokenizer(prompt + target).input_ids[:MAX_LENGTH]
        start = len(tokenizer(prompt).input_ids)
        alone = tokenizer(target).input_ids[: MAX_LENGTH - start + 1]
        losses = []
        for ids, ignored in ((whole, start), (alone, 0)):
            # Labels before ``ignored`` are -100, and the first token of all is never predicted.
            first = max(1, ignored)
            losses.append(mean_nll(model, ids[:first], ids[first:]))
        return losses[0], losses[1]

    forward = both(ALPACA.forward(pair.instruction, pair.input), pair.response)
    return (*forward, *both(ALPACA.reverse(pair.response), pair.instruction + pair.input))


def scored(student: Student, protocol: Any, pairs: list[Pair]) -> list[list[SpanLoss]]:
    builder = SpanBuilder(student.tokenizer, ALPACA, protocol, MAX_LENGTH)
    spans = [s for p in pairs for s in (*builder.forward(p), *builder.reverse(p))]
    assert not any(isinstance(s, Invalid) for s in spans)
    found = dict(Scorer(student).score(spans))  # type: ignore[arg-type]
    return [[found[4 * n + k] for k in range(4)] for n in range(len(pairs))]


@pytest.fixture(scope="module")
def exact(student_folder: Path) -> Student:
    return Student.load(student_folder, "f32", "cpu")


@pytest.fixture(scope="module")
def expected(exact: Student, pairs: list[Pair]) -> list[tuple[float, float, float, float]]:
    return [four(exact.model, exact.tokenizer, p) for p in pairs]


def test_float32(exact: Student, pairs: list[Pair], expected: list[tuple[float, ...]]) -> None:
    found = scored(exact, "default", pairs)
    for losses, wanted in zip(found, expected, strict=True):
        assert [loss.mean for loss in losses] == pytest.approx(wanted, rel=1e-5, abs=NOISE)
        assert ifd(*losses[:2])[0] == pytest.approx(math.exp(wanted[0] - wanted[1]), rel=1e-4)
        assert rifd(*losses[2:])[0] == pytest.approx(math.exp(wanted[2] - wanted[3]), rel=1e-4)


# The largest relative error of a loss, and the distance of two scores that may be told apart the wrong way,
# where bf16 weights are multiplied in this type: 2^-9 is one rounding to bfloat16.
ROUNDING = {"float32": (2e-3, 1e-3), "bfloat16": (0.04, 0.05)}


def test_bfloat16(
    student_folder: Path, pairs: list[Pair], expected: list[tuple[float, ...]], arithmetic: str
) -> None:
    """Near float32, and the same winners: of two samples the one with the higher IFD, the lower r-IFD;
    where one differs, the two lie near each other."""
    error, near = ROUNDING[arithmetic]
    found = scored(Student.load(student_folder, "bf16", "cpu"), "default", pairs)
    worst = max(
        abs(loss.mean / wanted - 1)
        for losses, four_losses in zip(found, expected, strict=True)
        for loss, wanted in zip(losses, four_losses, strict=True)
    )
    assert worst <= error
    mine = [(ifd(*losses[:2])[0] or 0, rifd(*losses[2:])[0] or 0) for losses in found]
    theirs = [(math.exp(w[0] - w[1]), math.exp(w[2] - w[3])) for w in expected]
    differing = []
    for n in range(1, len(pairs)):
        for metric in (0, 1):
            one, other = theirs[n - 1][metric], theirs[n][metric]
            if (one > other) != (mine[n - 1][metric] > mine[n][metric]):
                differing.append(abs(one / other - 1))
    assert all(distance <= near for distance in differing)
    assert len(differing) <= max(0.005, 2 * near) * 2 * (len(pairs) - 1)


def test_the_papers_protocol(exact: Student, pairs: list[Pair]) -> None:
    some = pairs[: max(3, len(pairs) // 4)]
    found = scored(exact, "paper", some)
    for losses, pair in zip(found, some, strict=True):
        wanted = paper_four(exact.model, exact.tokenizer, pair)
        assert [loss.mean for loss in losses] == pytest.approx(wanted, rel=1e-5, abs=NOISE)
