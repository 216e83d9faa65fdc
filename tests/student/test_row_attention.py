"""A row by one call against the same row cut into its sequences. The kernels themselves run on a GPU alone
(tests/gpu); here their place is taken by the plain products that each of them is compared with before use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from srtui.student import Scorer, Span, packing
from srtui.student.packing import Packing, packed_attention
from srtui.student.row_attention import KERNELS, dense, kernel_for, key_order, lay_out, trusted, visible
from tests.student.test_packing import FAMILIES, tiny

ROWS = st.lists(st.tuples(st.integers(1, 6), st.none() | st.integers(0, 2)), min_size=1, max_size=6)


@given(ROWS, st.lists(st.integers(1, 4), min_size=3, max_size=3), st.none() | st.integers(1, 5))
@settings(deadline=None)
def test_who_sees_whom(rows: list[tuple[int, int | None]], sizes: list[int], window: int | None) -> None:
    """Token by token: the beginning and what stands before it in its own sequence, the nearest of a window."""
    lengths, beginnings = [length for length, _ in rows], [beginning for _, beginning in rows]
    row = lay_out(lengths, beginnings, sizes, "cpu")
    seen = visible(row, window)
    order = key_order(lengths, beginnings, sizes)
    if row.gathered is not None:
        assert row.gathered.tolist() == order
    own, query, first = sum(sizes), 0, 0
    for length, beginning in rows:
        before = [] if beginning is None else range(sum(sizes[:beginning]), sum(sizes[: beginning + 1]))
        whole = [*before, *range(own, own + length)]
        assert order[first : first + len(whole)] == whole
        for n in range(length):
            last = len(before) + n + 1
            start = 0 if window is None else max(0, last - window)
            keys = seen[query].nonzero()[:, 0].tolist()
            assert [order[k] for k in keys] == whole[start:last]
            query += 1
        own, first = own + length, first + len(whole)
    assert (query, first) == (sum(lengths), int(row.key_starts[-1]))


@pytest.mark.parametrize("kind", [*FAMILIES[:-1], "gpt2"])
def test_every_family_scores_as_by_its_sequences(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped heads, windows, capped scores, shared beginnings, and beginnings that go on from another."""
    student = tiny(kind)
    start = tuple(range(5, 21))
    spans = [
        Span((*start[: 16 if n % 3 else 9], *((7 * n + 5 * i) % 90 for i in range(6 + n % 7))), 3, history=9)
        for n in range(20)
    ]
    scorer = Scorer(student, 64)
    cut = {n: loss.nll for n, loss in scorer.score(spans)}
    calls: list[int] = []

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return dense(*arguments)

    monkeypatch.setattr(packing, "kernel_for", lambda *_: counted)
    whole = {n: loss.nll for n, loss in scorer.score(spans)}
    assert bool(calls) == scorer.packed
    assert whole == pytest.approx(cut, rel=1e-5)


def test_gradients_are_those_of_the_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama").model
    lengths = [5, 1, 9]
    ids = torch.arange(3, 3 + sum(lengths))[None]
    positions = torch.tensor([[p for size in lengths for p in range(size)]])
    found = []
    for kernel in (None, dense):
        monkeypatch.setattr(packing, "kernel_for", lambda *_, kernel=kernel: kernel)
        model.zero_grad()
        with packed_attention(model):
            hidden = model.model(
                input_ids=ids, position_ids=positions, use_cache=False, packing=Packing(lengths, [None] * 3)
            ).last_hidden_state
        (hidden * torch.linspace(-1, 1, hidden.shape[-1])).sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_kernel_is_tried_before_it_is_used() -> None:
    """One that aligns the first query with the first key, one whose window is a key too wide, one that fails."""

    def first_aligned(q: Any, k: Any, v: Any, row: Any, scale: Any, window: Any, softcap: Any) -> Any:
        parts = []
        for n in range(len(row.query_starts) - 1):
            a, b = int(row.query_starts[n]), int(row.query_starts[n + 1])
            c = int(row.key_starts[n])
            only = lay_out([b - a], [None], [], "cpu")
            parts.append(dense(q[a:b], k[c : c + b - a], v[c : c + b - a], only, scale, window, softcap))
        return torch.cat(parts)

    def wide(q: Any, k: Any, v: Any, row: Any, scale: Any, window: int, softcap: Any) -> Any:
        return dense(q, k, v, row, scale, window + 1, softcap)

    def fails(*_: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    cpu, shape = torch.device("cpu"), (4, 2, 16)
    for wrong in (first_aligned, wide, fails):
        assert trusted((wrong,), cpu, torch.bfloat16, shape, True, None) is None
        assert trusted((wrong, dense), cpu, torch.bfloat16, shape, True, None) is dense
    # Those of a GPU are none of a CPU's, and torch's caps nothing.
    assert trusted(KERNELS, cpu, torch.bfloat16, shape, False, None) is None
    assert trusted(KERNELS, cpu, torch.bfloat16, shape, False, 30.0) is None


class _Backwards(torch.autograd.Function):
    """Plain products forwards; backwards whatever ``wrong`` makes of their gradients."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, rest: Any, wrong: Any) -> Any:
        ctx.save_for_backward(q, k, v)
        ctx.rest, ctx.wrong = rest, wrong
        return dense(q, k, v, *rest)

    @staticmethod
    def backward(ctx: Any, outer: Any) -> Any:
        with torch.enable_grad():
            parts = [part.detach().requires_grad_() for part in ctx.saved_tensors]
            gradients = torch.autograd.grad(dense(*parts, *ctx.rest), parts, outer)
        return (*ctx.wrong(gradients), None, None)


@pytest.mark.parametrize("windowed", [False, True])
def test_a_kernel_that_trains_is_tried_backwards_too(windowed: bool) -> None:
    """FlashAttention has no gradient of heads wider than 192 on some cards, and says so in the backward pass alone."""

    def fails(_: Any) -> Any:
        raise RuntimeError("backward for head dim > 192 requires another card")

    def kernel(wrong: Any) -> Any:
        return lambda q, k, v, *rest: _Backwards.apply(q, k, v, rest, wrong)

    def asked(one: Any, *, trains: bool) -> bool:
        return trusted((one,), torch.device("cpu"), torch.bfloat16, (4, 2, 16), windowed, None, trains) is one

    for wrong in (fails, lambda g: (g[0], g[1], 2 * g[2]), lambda g: (g[0], 0 * g[1], g[2])):
        assert asked(kernel(wrong), trains=False) and not asked(kernel(wrong), trains=True)
    assert asked(kernel(lambda g: g), trains=True) and asked(dense, trains=True)


def test_the_trial_is_no_part_of_a_layer_that_is_computed_twice() -> None:
    """The first pass tries the kernel, and the second finds it tried."""
    weight = torch.ones(4, requires_grad=True)
    trusted.cache_clear()

    def layer(x: Any) -> Any:
        assert trusted((dense,), torch.device("cpu"), torch.bfloat16, (2, 1, 8), False, None, True) is dense
        return (x * weight).sin()

    checkpoint(layer, torch.ones(4), use_reentrant=False).sum().backward()
    assert weight.grad is not None and trusted.cache_info().misses == 1


def test_a_cpu_goes_by_sequences() -> None:
    part = torch.zeros(1, 2, 3, 8, dtype=torch.bfloat16)
    assert kernel_for(part, part, part, None, None) is None
