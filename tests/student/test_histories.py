"""Histories in spans: where they stand, that none changes nothing, that sharing them changes no loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from srtui.prompts import template
from srtui.sample import Pair, Turn
from srtui.student import Span, Student
from srtui.student.head import examine
from srtui.student.packing import shared_prefixes
from srtui.student.scorer import Scorer
from srtui.student.span_builder import SpanBuilder
from srtui.student.spans import Invalid, as_one
from srtui.training.loss import MicroBatch, summed_nll

pytestmark = pytest.mark.model

TALK = (
    Turn("system", "You are terse."),
    Turn("user", "Name a river."),
    Turn("assistant", "The Nile is a river."),
    Turn("user", "Where does it begin?"),
    Turn("assistant", "It begins at a lake."),
    Turn("user", "And where does it end?"),
    Turn("assistant", "It ends in the sea."),
)
NAMES = ("alpaca", "vicuna", "wizardlm", "chat")


@pytest.fixture(scope="module")
def student(pair_folder: Path) -> Student:
    loaded = Student.load(pair_folder / "tiny", "bf16")
    loaded.model.float()
    return loaded


def builder(student: Student, name: str, protocol: Literal["default", "paper"] = "default") -> SpanBuilder:
    return SpanBuilder(student.tokenizer, template(name, student.tokenizer), protocol, 2048)


def exchange(n: int, turns: tuple[Turn, ...] = TALK) -> Pair:
    """The one whose answer is turn ``n``."""
    return Pair(turns[n - 1].text, "", turns[n].text, turns[: n - 1])


def both(made: tuple[Span | Invalid, Span | Invalid]) -> tuple[Span, Span]:
    assert isinstance(made[0], Span) and isinstance(made[1], Span)
    return made[0], made[1]


@pytest.mark.parametrize("protocol", ["default", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_where_a_history_stands(student: Student, name: str, protocol: Literal["default", "paper"]) -> None:
    made, tokenizer = builder(student, name, protocol), student.tokenizer
    with_it, without = exchange(4), exchange(4)._replace(history=())
    forward, alone = both(made.forward(with_it))
    plain, plain_alone = both(made.forward(without))
    # L(y) has none of it, and the target's ids are the same with and without.
    assert alone.ids == plain_alone.ids and forward.ids[-forward.target :] == plain.ids[-plain.target :]
    said = tokenizer.decode(forward.ids)
    assert [said.find(t.text) for t in TALK[:4]] == sorted(
        said.find(t.text) for t in TALK[:4]
    ) and "terse" in said
    # L(x|h) is the history with x right behind it, and the reverse prompt's span has both.
    reverse, x = both(made.reverse(with_it))
    history = made.history(with_it.history)
    start = len(x.ids) - len(history) - x.target
    assert start in (0, 1) and list(x.ids[start : start + len(history)]) == history
    assert x.ids[-x.target :] == reverse.ids[-reverse.target :]
    assert "Nile" in tokenizer.decode(reverse.ids) and "Nile" not in tokenizer.decode(plain.ids)
    assert forward.history > len(history) // 2 and x.history == start + len(history)


@pytest.mark.parametrize("name", NAMES)
def test_a_history_is_laid_out_as_a_conversation_is(student: Student, name: str) -> None:
    made, turns = builder(student, name), TALK[1:]
    forward, _ = both(made.forward(exchange(3, turns)))
    _, ids = made.conversation([(turns[0].text, ""), (turns[1].text, ""), (turns[2].text, "")])
    assert list(forward.ids[: len(ids)]) == ids


def test_what_a_template_refuses_has_no_score(student: Student) -> None:
    source = student.tokenizer.chat_template
    try:
        student.tokenizer.chat_template = (
            "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('roles must alternate') }}{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        made = builder(student, "chat")
        # A system text goes in front of the user's, as for models without that role; a greeting has no place.
        forward, _ = both(made.forward(exchange(4)))
        assert "You are terse.\n\nName a river." in student.tokenizer.decode(forward.ids)
        greeting = Pair("q", "", "a", (Turn("assistant", "Hello!"),))
        assert made.forward(greeting) == (Invalid("history_not_laid_out"),) * 2
    finally:
        student.tokenizer.chat_template = source


@pytest.mark.parametrize("name", ["alpaca", "chat"])
def test_sharing_histories_saves_tokens_and_changes_no_loss(student: Student, name: str) -> None:
    made = builder(student, name)
    pairs = [exchange(n)._replace(response=TALK[n].text + more) for n in (2, 4, 6) for more in ("", " Yes.")]
    spans = list(dict.fromkeys(s for p in pairs for s in (*both(made.forward(p)), *both(made.reverse(p)))))
    shared, plain = Scorer(student, 256), Scorer(student, 256)
    with_it = dict(shared.score(spans))
    bare = dict(plain.score([replace(s, history=0) for s in spans]))
    assert all(with_it[n].nll == pytest.approx(bare[n].nll, rel=2e-5) for n in bare)
    assert shared.tokens_run < plain.tokens_run
    assert shared.tokens_run + shared.tokens_saved == sum(len(s.ids) for s in spans)


def test_without_histories_nothing_else_is_shared() -> None:
    sequences = [((1, 2, 3, *range(n, n + 40)), 30) for n in range(4)]
    assert shared_prefixes(sequences) == [0] * 4
    two = [((*range(30), 7), 30), ((*range(30), 8), 30), ((50, *range(20)), 20)]
    assert shared_prefixes(two, [30, 30, 0]) == [30, 30, 0]


@pytest.mark.parametrize("name", ["alpaca", "chat"])
def test_a_conversation_as_one_sequence_has_the_same_loss_and_gradient(student: Student, name: str) -> None:
    made = builder(student, name)
    spans = [both(made.forward(exchange(n)))[0].ended(made.end_of_turn, 2048) for n in (2, 4, 6)]
    (whole,) = as_one(spans)
    assert len(whole.also) == 2 and len(whole.targets) == sum(s.target for s in spans)
    assert whole.digest != spans[-1].digest and spans[-1].targets == list(
        range(len(spans[-1].ids) - spans[-1].target, len(spans[-1].ids))
    )
    losses: list[tuple[float, Any]] = []
    weights = student.model.model.layers[0].mlp.down_proj.weight
    weights.requires_grad_(True)
    try:
        for examples in ((whole,), tuple(spans)):
            loss = summed_nll(examine(student.model, "tiny"), MicroBatch(examples, packed=False))
            losses.append((float(loss), torch.autograd.grad(loss, weights)[0]))
    finally:
        weights.requires_grad_(False)
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    assert torch.allclose(losses[0][1], losses[1][1], rtol=1e-3, atol=1e-5)
    # An answer that was rewritten is not the one that later turns were answered after.
    changed = both(made.forward(exchange(4)._replace(response="In Burundi.")))[0].ended(
        made.end_of_turn, 2048
    )
    assert as_one([spans[0], changed, spans[2]]) == [replace(whole, also=whole.also[:1]), changed]


@pytest.mark.parametrize("name", ["alpaca", "chat"])
def test_ten_thousand_turns_leave_no_room_and_take_no_time(student: Student, name: str) -> None:
    """Each of thousands of samples has them, so that each may only be read as far as a text can be long."""
    history = tuple(
        Turn("assistant" if n % 2 else "user", f"Turn {n} of a conversation without end.")
        for n in range(10_000)
    )
    made = builder(student, name)
    read: list[int] = []
    cut = made._cutter.data
    made._cutter.data = lambda text, **how: read.append(len(text)) or cut(text, **how)  # type: ignore[method-assign,func-returns-value]
    reason = Invalid("target_truncated" if name == "alpaca" else "history_not_laid_out")
    assert (
        made.forward(Pair("q", "", "a", history))
        == made.reverse(Pair("q", "", "a", history))
        == (reason,) * 2
    )
    assert sum(read) < 60_000
