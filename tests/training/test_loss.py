"""The chunked loss against the plain one, in value and gradient; packed against padded against alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from srtui.student import Scorer, Span, Student, examine
from srtui.student.packing import packed_attention
from srtui.training import loss
from srtui.training.loss import HeadLoss, MicroBatch, summed_nll


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "cap"), [(None, None), (0.25, None), (None, 3.0), (2.0, 1.5)])
def test_the_head_in_chunks_is_the_head_at_once(
    bias: bool, scale: float | None, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_CHUNK_ROWS", 4)
    torch.manual_seed(1)
    hidden = torch.randn(11, 6, dtype=torch.float64)
    weight, labels = torch.randn(23, 6, dtype=torch.float64), torch.randint(0, 23, (11,))
    offset = torch.randn(23, dtype=torch.float64) if bias else None
    plain, ours = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    logits = torch.nn.functional.linear(plain, weight, offset)
    logits = logits * scale if scale is not None else logits
    logits = torch.tanh(logits / cap) * cap if cap is not None else logits
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    found = HeadLoss.apply(ours, weight, offset, labels, scale, cap)
    by_row = torch.randn(11, dtype=torch.float64)
    (expected * by_row).sum().backward()
    (found * by_row).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, plain.grad)
    with torch.no_grad():
        torch.testing.assert_close(HeadLoss.apply(hidden, weight, offset, labels, scale, cap), expected)


def _plain(model: Any, examples: list[Span]) -> Any:
    """transformers' own loss, a sample at a time, full logits."""
    total = torch.zeros((), dtype=torch.float64)
    for e in examples:
        labels = [-100] * (len(e.ids) - e.target) + list(e.ids[-e.target :])
        out = model(input_ids=torch.tensor([e.ids]), labels=torch.tensor([labels]))
        total = total + out.loss * e.target
    return total


@pytest.mark.model
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradient_are_the_models_own(
    tiny_folder: Path, examples: list[Span], packed: bool, checkpointed: bool
) -> None:
    model = Student.load(tiny_folder, "f32").model.double()
    model.get_output_embeddings().weight.requires_grad_(False)  # tied: the embedding is frozen too
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    some = examples[:4]
    head = examine(model, "tiny")
    expected = _plain(model, some)
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    if packed:
        with packed_attention(model):
            found = summed_nll(head, MicroBatch(tuple(some), True))
            found.backward()
    else:
        found = summed_nll(head, MicroBatch(tuple(some), False))
        found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert wanted
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-6)


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["bf16", "int8", "nf4"])
def test_in_bfloat16_the_gradient_has_the_direction_of_float32s(
    tiny_folder: Path, examples: list[Span], quantization: str
) -> None:
    """As the adapters get it: of the states behind each layer."""
    found: dict[str, list[torch.Tensor]] = {}
    for arithmetic in ("float32", "bfloat16"):
        model = Student.load(tiny_folder, quantization, "cpu", arithmetic=arithmetic).model  # type: ignore[arg-type]
        model.requires_grad_(False)
        head = examine(model, "tiny")
        states: list[torch.Tensor] = []
        for layer in model.model.layers:
            layer.register_forward_hook(
                lambda m, given, made, states=states: (states.append(made.requires_grad_()), made)[1]
            )
        with packed_attention(model):
            loss = summed_nll(head, MicroBatch(tuple(examples[:4]), True))
            found[arithmetic] = [g.float().flatten() for g in torch.autograd.grad(loss, states)]
        assert loss.dtype == torch.float32
    for one, other in zip(found["float32"], found["bfloat16"], strict=True):
        assert torch.cosine_similarity(one, other, dim=0) > 0.999
        assert other.norm() == pytest.approx(one.norm(), rel=0.02)


@pytest.mark.model
@pytest.mark.parametrize("packed", [False, True])
def test_it_is_the_scorers_loss(
    tiny_folder: Path, examples: list[Span], packed: bool, arithmetic: str
) -> None:
    student = Student.load(tiny_folder, "nf4")
    assert student.arithmetic == arithmetic
    scorer = Scorer(student)
    assert scorer.packed
    scored = dict(scorer.score(examples))
    total = sum(s.mean * e.target for s, e in zip((scored[n] for n in range(10)), examples, strict=True))
    batch = MicroBatch(tuple(examples), packed)
    with torch.no_grad():
        if packed:
            with packed_attention(student.model):
                found = float(summed_nll(scorer.head, batch))
        else:
            found = float(summed_nll(scorer.head, batch))
    assert found == pytest.approx(total, rel={"float32": 1e-5, "bfloat16": 1e-3}[arithmetic])
    assert batch.targets == sum(e.target for e in examples)
