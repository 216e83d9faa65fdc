"""Losses and gradients are the model's own, on architectures that differ in their heads, masks and memory.

All of them: python benchmarks/check_architectures.py, or pytest -m slow.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import check_architectures, tiny_architectures
from srtui.errors import UserError
from srtui.student import Scorer, Span, Student, examine
from srtui.student.head import near

# Those that scale or cap their logits in ways of their own, or put layers before them.
OWN_HEAD = [
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "falcon_h1",
    "recurrent_gemma",
    "minicpm3",
    "inkling_text",
]
# Windows, chunks, sinks, recurrent states, absolute positions, experts, a decoder inside its model.
OTHERS = [
    "llama", "llama4_text", "gemma2", "cohere", "gpt2", "gpt_oss", "mimo_v2_flash", "mamba", "lfm2",
    "qwen3_next", "mixtral", "opt", "plbart",
]  # fmt: skip


@pytest.mark.parametrize("name", [*OWN_HEAD, *OTHERS])
def test_loss_and_gradient_are_the_models_own(name: str) -> None:
    found = check_architectures.examine_one(name)
    assert found.kind in ("packed", "padded", "alone"), found.why
    assert bool(found.head) == (name in OWN_HEAD)


@pytest.mark.slow
def test_every_architecture_is_right_or_refused() -> None:
    found = check_architectures.survey()
    assert found["wrong"] == []
    assert len(found["packed"]) + len(found["padded"]) >= 150


def _student(name: str, **changes: Any) -> Student:
    model = tiny_architectures.build(name)
    for field, value in changes.items():
        setattr(model.config, field, value)
    return Student(name, name, "f32", model, None)


@pytest.mark.parametrize("name", ["xlnet", "xlm", "prophetnet"])
def test_a_model_that_sees_what_follows_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(
        UserError, match=r"cannot be a student: its logits depend on the tokens that follow"
    ) as said:
        Scorer(_student(name))
    assert "\n" not in str(said.value)


def test_a_model_that_needs_more_than_text_is_refused_in_one_sentence() -> None:
    student = _student("llama")
    forward = student.model.forward

    def needs_an_image(input_ids: Any = None, pixels: Any = None, **more: Any) -> Any:
        if pixels is None:
            raise ValueError("You must give pixels.\nSee the documentation.")
        return forward(input_ids=input_ids, **more)

    student.model.forward = needs_an_image
    with pytest.raises(UserError, match=r"llama cannot be a student: .*\(You must give pixels\.\)"):
        Scorer(student)


def test_a_model_whose_padding_changes_a_loss_runs_each_text_alone() -> None:
    """A state that runs over the padding and is carried to what comes before it, as a reversed scan would."""
    student = _student("llama")
    inner = student.model.model
    forward = inner.forward

    def reads_its_mask(*given: Any, attention_mask: Any = None, **more: Any) -> Any:
        found = forward(*given, attention_mask=attention_mask, **more)
        if attention_mask is not None:
            found.last_hidden_state = found.last_hidden_state * (2 - attention_mask.float().mean())
        return found

    inner.forward = reads_its_mask
    spans = check_architectures._spans(tiny_architectures.VOCABULARY)
    student.model.set_attn_implementation = lambda *_: None  # so that it cannot be packed either
    scorer = Scorer(student, 400)
    assert scorer.batching == "alone"
    expected, _ = check_architectures._own(student.model, spans)
    found = dict(scorer.score(spans))
    assert [found[n].nll for n in range(len(spans))] == pytest.approx(expected, rel=1e-5)


def test_a_cap_that_a_short_text_does_not_reach_is_seen() -> None:
    """Logits near 0 hide a cap of 30; hidden states far from the text's show it."""
    student = _student("recurrent_gemma", logits_soft_cap=300.0)
    assert not examine(student.model, "capped").direct


def test_attention_that_is_told_more_than_ours_knows_is_not_packed() -> None:
    """Sinks (gpt-oss, MiMo) change every weight; a short text may hardly show it."""
    for name in ("gpt_oss", "mimo_v2_flash"):
        student = _student(name)
        with torch.no_grad():
            for parameter, value in student.model.named_parameters():
                if "sink" in parameter:
                    value.fill_(-20.0)  # no weight worth seeing
        assert Scorer(student).batching == "padded", name


def test_a_pattern_of_attention_that_only_a_long_text_meets_is_not_packed() -> None:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    torch.manual_seed(1)
    config = Llama4TextConfig(
        vocab_size=96, hidden_size=32, intermediate_size=32, intermediate_size_mlp=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2, attention_chunk_size=100,
        max_position_embeddings=256, pad_token_id=0, use_qk_norm=False,
    )  # fmt: skip
    student = Student("l4", "l4", "f32", Llama4ForCausalLM(config).eval(), None)
    scorer = Scorer(student, 1000)
    assert scorer.batching == "padded"
    spans = [Span(tuple((7 * n + 3 * i) % 90 + 3 for i in range(150)), 20) for n in range(3)]
    expected, _ = check_architectures._own(student.model, spans)
    found = dict(scorer.score(spans))
    assert [found[n].nll for n in range(3)] == pytest.approx(expected, rel=1e-5)


def test_how_near_is_near() -> None:
    torch.manual_seed(0)
    exact = torch.randn(50, 100)
    assert near(exact.bfloat16(), exact.bfloat16())
    assert near(exact.bfloat16().float(), exact, error=torch.finfo(torch.bfloat16).eps)
    assert not near(exact.bfloat16().float(), exact)
    assert not near(exact * 1.1, exact, error=torch.finfo(torch.bfloat16).eps)
    assert not near(torch.full_like(exact, float("nan")), exact)
