"""Packed and padded, alone and together, with a shared beginning or without: the same losses."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srtui.student import Scorer, Span, Student
from srtui.student.packing import shared_prefixes

ids = st.lists(st.integers(0, 2), max_size=12).map(tuple)


@given(st.lists(ids.map(lambda i: (i, max(0, len(i) - 2))), max_size=40))
def test_a_shared_prefix_is_shared_and_worth_it(sequences: list[tuple[tuple[int, ...], int]]) -> None:
    found = shared_prefixes(sequences)
    by_prefix: dict[tuple[int, ...], int] = {}
    for (one, most), size in zip(sequences, found, strict=True):
        assert 0 <= size <= most
        if size:
            by_prefix[one[:size]] = by_prefix.get(one[:size], 0) + 1
    # Passes over the prefixes never cost more than the tokens that they spare.
    assert sum(map(len, by_prefix)) <= sum(found)


def test_two_templates_in_one_lot_are_split() -> None:
    one, other = tuple(range(20)), (*range(9), *range(50, 70))
    sequences = [((*one, 100 + n, 7), 20) for n in range(10)] + [
        ((*other, 100 + n, 7), 29) for n in range(10)
    ]
    assert shared_prefixes(sequences) == [20] * 10 + [29] * 10


def tiny(kind: str, dtype: str = "float32") -> Any:
    """A student-like object with a small random model of one of the families."""
    import transformers as t

    shape: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    torch.manual_seed(1)
    config = {
        "llama": lambda: t.LlamaConfig(**shape),
        "qwen2": lambda: t.Qwen2Config(**shape),
        "qwen3": lambda: t.Qwen3Config(**shape, head_dim=8),
        "mistral window": lambda: t.MistralConfig(**shape, sliding_window=5),
        "gemma2": lambda: t.Gemma2Config(**shape, head_dim=8, sliding_window=5),
        "gemma3": lambda: t.Gemma3TextConfig(**shape, head_dim=8, sliding_window=5),
        "lfm2": lambda: t.Lfm2Config(**shape, layer_types=["conv", "full_attention"]),
        # A chunk of 256 tokens and a state of 256, its defaults, are slow where no kernel does the scan.
        "falcon h1": lambda: t.FalconH1Config(
            **shape, mamba_n_heads=8, mamba_d_head=8, mamba_d_ssm=64, mamba_d_state=16, mamba_chunk_size=16
        ),
        "gpt2": lambda: t.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    }[kind]()
    model = t.AutoModelForCausalLM.from_config(config)
    model.eval().to(getattr(torch, dtype))
    return Student("tiny", "tiny", "f32", model, None)


FAMILIES = ["llama", "qwen2", "qwen3", "mistral window", "gemma2", "gemma3", "gpt2"]


# Sums of up to 27 tokens' losses: in another order, and of logits of 8 bits.
NOISE = {"float32": 1e-5, "bfloat16": 2e-3}


@pytest.mark.parametrize("dtype", NOISE)
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_scores_as_one_by_one(kind: str, dtype: str) -> None:
    """Against the model's own loss, batch of one, whole logits."""
    student = tiny(kind, dtype)
    draw = random.Random(3)
    start = tuple(draw.randrange(97) for _ in range(11))
    spans = [
        Span((*(start if n % 2 else ()), *(draw.randrange(97) for _ in range(size))), min(size - 1, 4 + n))
        for n, size in enumerate(draw.randrange(6, 40) for _ in range(24))
    ]
    scorer = Scorer(student, 64)
    before = student.model.config._attn_implementation
    found = dict(scorer.score(spans))
    assert student.model.config._attn_implementation == before
    for n, span in enumerate(spans):
        with torch.no_grad():
            logits = student.model(torch.tensor([span.ids])).logits[0].double()
        logs = torch.log_softmax(logits, -1)
        at = range(len(span.ids) - span.target - 1, len(span.ids) - 1)
        expected = -sum(logs[i, span.ids[i + 1]].item() for i in at)
        assert found[n].nll == pytest.approx(expected, rel=NOISE[dtype]), (kind, n)
    if kind != "gpt2":
        assert scorer.packed
        assert scorer.tokens_saved > 0
    assert scorer.tokens_run + scorer.tokens_saved == sum(len(s.ids) for s in spans)


def test_a_student_that_cannot_be_packed_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny("llama")
    monkeypatch.setattr(type(student.model), "set_attn_implementation", lambda *_: None)
    scorer = Scorer(student, 64)
    assert not scorer.packed and scorer.why_padded
    spans = [Span(tuple(range(3, 3 + n)), 2) for n in range(4, 20)]
    one_by_one = {n: loss.nll for n, loss in Scorer(student, 1).score(spans)}
    assert {n: loss.nll for n, loss in scorer.score(spans)} == pytest.approx(one_by_one, rel=1e-5)


@pytest.mark.parametrize("dtype", NOISE)
@pytest.mark.parametrize("kind", ["lfm2", "falcon h1"])
def test_layers_that_look_into_the_span_before_are_found(kind: str, dtype: str) -> None:
    """A short convolution or a state runs on over a span's border; the trial is in float32, where even the
    little that it does at random weights shows."""
    student = tiny(kind, dtype)
    types = {name: parameter.dtype for name, parameter in student.model.named_parameters()}
    scorer = Scorer(student, 64)
    assert not scorer.packed and "off by" in scorer.why_padded
    assert {name: parameter.dtype for name, parameter in student.model.named_parameters()} == types
    spans = [Span(tuple(range(3, 3 + n)), 2) for n in range(4, 20)]
    alone = {n: loss.nll for n, loss in Scorer(student, 1).score(spans)}  # one token a pass: one span
    found = {n: loss.nll for n, loss in scorer.score(spans)}
    assert found == pytest.approx(alone, rel=NOISE[dtype])


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_whether_it_packs_does_not_hang_on_rounding(kind: str) -> None:
    """Weights so large that in bfloat16 the hidden states of two orders of summing differ by a tenth."""
    student = tiny(kind, "bfloat16")
    for parameter in student.model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 20
    assert Scorer(student, 64).why_padded == ""


def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny("llama")
    scorer = Scorer(student, 400)
    real, sizes = scorer._batch, []

    def small_memory(spans: Any, *how: Any) -> Any:
        sizes.append(sum(len(s.ids) for s in spans))
        if sizes[-1] > 100:
            raise torch.OutOfMemoryError
        return real(spans, *how)

    monkeypatch.setattr(scorer, "_batch", small_memory)
    spans = [Span(tuple(3 + (n + i) % 90 for i in range(20)), 5) for n in range(30)]
    spans.append(Span(tuple(3 + i % 90 for i in range(120)), 5))
    found = dict(scorer.score(spans))
    assert len(found) == 31
    assert found[30].reason == "out_of_memory"
    assert all(found[n].reason is None for n in range(30))
    assert sizes[-1] <= 100


@pytest.mark.model
def test_a_gguf_student_scores_as_its_safetensors(pair_folder: Path) -> None:
    """The same interface through llama.cpp, whose kernels sum otherwise, and keep keys and values in 16 bits."""
    from srtui.prompts import template
    from srtui.sample import Pair
    from srtui.student import SpanBuilder, open_scorer

    gguf, folder = (
        Student.load(pair_folder / "tiny.F16.gguf", "gguf"),
        Student.load(pair_folder / "tiny", "f32"),
    )
    builder, other = (SpanBuilder(s.tokenizer, template("alpaca"), "default", 512) for s in (gguf, folder))
    pairs = [
        Pair("Name the capital of Australia.", "", "Canberra is the capital of Australia."),
        Pair("Sort.", "3, 1, 2", "1, 2, 3"),
        *(
            Pair(f"Write {n} words about bread.", "", "Bread is " + "very " * n + "good.")
            for n in range(2, 10)
        ),
    ]
    spans = [s for p in pairs for s in builder.forward(p)]
    assert spans == [s for p in pairs for s in other.forward(p)]
    scorer = open_scorer(gguf, 256)
    mine, theirs = dict(scorer.score(spans)), dict(Scorer(folder).score(spans))
    assert scorer.tokens_saved > 0
    for n in range(len(spans)):
        assert mine[n].mean == pytest.approx(theirs[n].mean, abs=0.2)
