"""The student on its device: packed attention, 4-bit weights, losses and their gradients, memory."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from srtui.errors import UserError
from srtui.models.memory import free_bytes
from srtui.models.merged_weights import rounded
from srtui.student import Scorer, Span, Student, examine, packing
from srtui.student.packing import packed_attention
from srtui.student.row_attention import KERNELS, trusted
from srtui.training.loss import MicroBatch, summed_nll
from tests.student.test_packing import FAMILIES, tiny
from tests.training.conftest import make_examples


def spans_of(count: int, seed: int = 3) -> list[Span]:
    """Of 8 to 40 tokens; every second one begins with the same eleven."""
    draw = random.Random(seed)
    start = tuple(draw.randrange(97) for _ in range(11))
    return [
        Span(
            (*(start if n % 2 else ()), *(draw.randrange(97) for _ in range(size))), min(size - 1, 4 + n % 9)
        )
        for n, size in enumerate(draw.randrange(8, 30) for _ in range(count))
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_packed_attention_scores_as_one_by_one(
    kind: str, dtype: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grouped heads, windows, capped scores, shared beginnings; against the model's own loss, batch of one."""
    student = tiny(kind, dtype)
    student.model.to(device)
    used: list[Any] = []
    chosen = packing.kernel_for

    def noted(*arguments: Any) -> Any:
        used.append(chosen(*arguments))
        return used[-1]

    monkeypatch.setattr(packing, "kernel_for", noted)
    spans = spans_of(24)
    found = dict(Scorer(student, 64).score(spans))
    for n, span in enumerate(spans):
        ids = torch.tensor([span.ids], device=device)
        with torch.no_grad():
            logs = torch.log_softmax(student.model(ids).logits[0].double(), -1).cpu()
        at = range(len(span.ids) - span.target - 1, len(span.ids) - 1)
        expected = -sum(logs[i, span.ids[i + 1]].item() for i in at)
        assert found[n].nll == pytest.approx(expected, rel={"float32": 1e-4, "bfloat16": 1e-2}[dtype]), n
    if device == "cuda" and dtype == "bfloat16" and kind in ("llama", "qwen2", "qwen3", "mistral window"):
        assert used[-1] is not None, "the row was cut into its sequences"


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("shape", [(32, 8, 128), (14, 2, 64), (8, 8, 96), (8, 4, 256)])
def test_a_whole_row_in_one_call(shape: tuple[int, int, int], windowed: bool, device: str) -> None:
    """The shapes of usual students: a kernel that computes what the plain products do is there."""
    there = torch.device(device)
    kernel = trusted(KERNELS, there, torch.bfloat16, shape, windowed, None)
    assert (kernel is not None) == (device == "cuda")
    if shape[-1] <= 192:  # of wider heads some cards have no gradient; the sequences then go one by one
        assert trusted(KERNELS, there, torch.bfloat16, shape, windowed, None, True) is kernel


def test_nf4_and_its_double_quantization_are_those_of_a_cpu(tiny_folder: Path, device: str) -> None:
    """What a GPU trains on is what a merge on a CPU adds the adapter to, to a few codes at a tie."""
    import bitsandbytes as bnb

    plain = Student.load(tiny_folder, "f32", "cpu").model
    student = Student.load(tiny_folder, "nf4", device, arithmetic="bfloat16")
    layers = dict(student.model.named_modules())
    seen = 0
    for name, module in plain.named_modules():
        if not isinstance(layers[name], bnb.nn.Linear4bit):
            continue
        weight = layers[name].weight
        assert weight.quant_state.nested
        held = bnb.functional.dequantize_4bit(weight.data, weight.quant_state).float().cpu()
        expected = rounded(module.weight.data, "nf4", "bfloat16")
        assert (held != expected).float().mean() < 0.01, name
        given = torch.randn(3, module.in_features, device=device, dtype=torch.bfloat16)
        ours, exact = layers[name](given).float().cpu(), given.float().cpu() @ held.T
        assert (ours - exact).abs().max() <= 0.02 * exact.abs().max()
        seen += 1
    assert seen == 14


@pytest.mark.parametrize("quantization", ["f32", "bf16", "nf4", "int8"])
def test_losses_are_those_of_a_cpu(tiny_folder: Path, quantization: Any, device: str) -> None:
    here = Student.load(tiny_folder, quantization, device)
    there = Student.load(tiny_folder, quantization, "cpu", arithmetic=here.arithmetic)
    assert here.device.type == device
    spans = make_examples()
    ours, theirs = (dict(Scorer(student).score(spans)) for student in (here, there))
    for n in range(len(spans)):
        assert ours[n].mean == pytest.approx(theirs[n].mean, rel=1e-4 if quantization == "f32" else 2e-2)


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_are_the_models_own(tiny_folder: Path, packed: bool, device: str) -> None:
    """HeadLoss in chunks, and packed attention backwards, against transformers' own loss."""
    model = Student.load(tiny_folder, "f32", device).model
    model.get_output_embeddings().weight.requires_grad_(False)
    model.train()
    some = make_examples()[:4]
    expected = torch.zeros((), device=device)
    for e in some:
        labels = [-100] * (len(e.ids) - e.target) + list(e.ids[-e.target :])
        out = model(
            input_ids=torch.tensor([e.ids], device=device), labels=torch.tensor([labels], device=device)
        )
        expected = expected + out.loss * e.target
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    head = examine(model, "tiny")
    if packed:
        with packed_attention(model):
            found = summed_nll(head, MicroBatch(tuple(some), True))
            found.backward()
    else:
        found = summed_nll(head, MicroBatch(tuple(some), False))
        found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert wanted
    for name, parameter in model.named_parameters():
        if name in wanted:
            size = wanted[name].abs().max()
            assert (parameter.grad - wanted[name]).abs().max() <= 1e-3 * size, name


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_half_precision_gradients_point_where_float32s_do(
    kind: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast, where norms answer in float32: the row's kernel and the sequences' way agree as well."""
    grads = {}
    for name, half, whole in (
        ("float32", False, True),
        ("by sequences", True, False),
        ("whole row", True, True),
    ):
        student = tiny(kind)
        student.model.to(device).train()
        head = examine(student.model, "tiny")
        if not whole:
            monkeypatch.setattr(packing, "kernel_for", lambda *_: None)
        spans = tuple(Span(s.ids, s.target) for s in spans_of(6))
        with packed_attention(student.model), torch.autocast(device, torch.bfloat16, enabled=half):
            summed_nll(head, MicroBatch(spans, True)).backward()
        monkeypatch.undo()
        grads[name] = torch.cat(
            [p.grad.float().flatten() for p in student.model.model.layers.parameters() if p.grad is not None]
        )
    for name in ("by sequences", "whole row"):
        assert torch.cosine_similarity(grads[name], grads["float32"], dim=0) > 0.99, name


def test_a_long_text(pair_folder: Path, device: str) -> None:
    """All of the student's 2,048 positions, packed beside short ones and alone."""
    student = Student.load(pair_folder / "tiny", "bf16", device)
    draw = random.Random(1)
    long = Span(tuple(draw.randrange(5, 900) for _ in range(2040)), 700)
    short = [Span(tuple(draw.randrange(5, 900) for _ in range(9)), 3) for _ in range(3)]
    scorer = Scorer(student, 4096)
    together = dict(scorer.score([long, *short]))
    alone = next(iter(scorer.score([long])))[1]
    assert together[0].nll == pytest.approx(alone.nll, rel=2e-3)


def test_an_adapter_on_its_student(pair_folder: Path, drawn_adapter: Path, device: str) -> None:
    """The tuned student: other losses than without, and those of a CPU."""
    spans = make_examples()[:4]
    means = []
    for place, adapter in ((device, None), (device, drawn_adapter), ("cpu", drawn_adapter)):
        student = Student.load(pair_folder / "tiny", "nf4", place, adapter, arithmetic="bfloat16")
        means.append([loss.mean for _, loss in sorted(Scorer(student).score(spans))])
    assert means[1] != pytest.approx(means[0], rel=1e-2)
    assert means[1] == pytest.approx(means[2], rel=2e-2)


def test_memory_is_handed_back(tiny_folder: Path, device: str, on_gpu: bool) -> None:
    """With the garbage collector off: no stage's weights wait for it."""
    gc.collect()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    student = Student.load(tiny_folder, "nf4", device)
    dict(Scorer(student).score(make_examples()))
    weight = weakref.ref(next(student.model.parameters()))
    gc.disable()
    try:
        student.close()
        assert weight() is None
        if on_gpu:
            # cuBLAS and the kernels keep their own workspaces, which are no weights.
            assert torch.cuda.memory_allocated() - before < 64 * 2**20
            assert torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < 64 * 2**20
    finally:
        gc.enable()


def test_out_of_memory_halves_the_pass_and_then_says_so(pair_folder: Path, on_gpu: bool) -> None:
    if not on_gpu:
        pytest.skip(
            "a CPU's memory is not filled up; tests/student/test_out_of_memory.py puts it in torch's mouth"
        )
    place = torch.device("cuda")
    student = Student.load(pair_folder / "tiny", "bf16", "cuda")
    scorer = Scorer(student, 200_000)
    filler = torch.empty(max(0, free_bytes(place) - 160 * 2**20), dtype=torch.uint8, device=place)
    spans = [Span(tuple((n * 31 + i) % 900 + 5 for i in range(1000)), 500) for n in range(160)]
    losses = dict(scorer.score(spans))
    assert len(losses) == 160
    assert scorer.batches.tokens < 200_000, "memory never ran out"
    assert sum(loss.reason is None for loss in losses.values()) > 0
    student.close()
    with pytest.raises(UserError, match=r"does not fit the GPU's memory|leaves no memory"):
        more = torch.empty(max(0, free_bytes(place) - 2**20), dtype=torch.uint8, device=place)
        Scorer(Student.load(pair_folder / "tiny", "f32", "cuda"))
        del more
    del filler
