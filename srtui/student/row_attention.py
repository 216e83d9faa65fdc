"""Attention of a whole packed row by one call, where a GPU has a kernel for sequences of different lengths.

A kernel takes the queries of all sequences end to end, their keys and values end to end, and where each
sequence begins in both: torch's own (``torch.nn.attention.varlen``, FlashAttention 2, Dao 2023), or flash-attn's
where it is installed, which also caps scores softly. The shared beginning of some sequences is put in front of
the keys and values of each by one gather. No kernel is trusted by its name: each is compared once with
:func:`dense` for the shape and type that it is asked for, and one that fails or differs is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

# The rounding of one weight and of one value in bfloat16 is 2^-8 of it; a key too many or too few is some tenths.
_SAME = 0.03
_SAME_GRADIENT = 0.06  # a gradient is of two such products


@dataclass(frozen=True)
class PackedRow:
    """Where the sequences of a row lie: (sequences + 1,) int32 of the first query and the first key of each,
    with the ends behind them, and the most of either that one has. ``gathered``, (keys,) int64, puts the shared
    beginnings, end to end with the row's own keys behind them, in the sequences' order; None where nothing is
    shared."""

    query_starts: Any
    key_starts: Any
    longest_query: int
    longest_key: int
    gathered: Any = None


Kernel = Callable[[Any, Any, Any, PackedRow, float | None, int | None, float | None], Any]
"""(query (tokens, heads, d), key and value (keys, key heads, d), row, scale, window, softcap) -> (tokens, heads,
d). A query of a sequence sees its keys up to its own, the last query the last key, and of those the last
``window`` where that is given; scores are capped as softcap x tanh(score / softcap) where that is."""


def key_order(lengths: Sequence[int], beginnings: Sequence[int | None], sizes: Sequence[int]) -> list[int]:
    """Which keys stand in front of and in each sequence of a row.

    Args:
        lengths: the tokens of each sequence, without its beginning.
        beginnings: which of the shared beginnings each has in front of it, by index; None for none.
        sizes: the tokens of each shared beginning.

    Returns:
        Indices into the shared beginnings, end to end, with the row's own tokens behind them.
    """
    starts = [0, *accumulate(sizes)]
    order: list[int] = []
    own = starts[-1]
    for length, beginning in zip(lengths, beginnings, strict=True):
        if beginning is not None:
            order += range(starts[beginning], starts[beginning + 1])
        order += range(own, own + length)
        own += length
    return order


def lay_out(
    lengths: Sequence[int], beginnings: Sequence[int | None], sizes: Sequence[int], device: Any
) -> PackedRow:
    """The row of some sequences.

    Args:
        lengths: the tokens of each sequence, without its beginning.
        beginnings: which of the shared beginnings each has in front of it, by index; None for none.
        sizes: the tokens of each shared beginning.
        device: where the row's tensors lie.
    """
    import torch

    keys = [
        length + (0 if beginning is None else sizes[beginning])
        for length, beginning in zip(lengths, beginnings, strict=True)
    ]

    def starts(counts: Sequence[int]) -> Any:
        return torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device)

    shares = any(beginning is not None for beginning in beginnings)
    gathered = torch.tensor(key_order(lengths, beginnings, sizes), device=device) if shares else None
    return PackedRow(starts(lengths), starts(keys), max(lengths), max(keys), gathered)


def kernel_for(query: Any, key: Any, value: Any, window: int | None, softcap: float | None) -> Kernel | None:
    """The kernel for a row of such tensors; None where the sequences go one by one: on a CPU, in float32, and
    where no kernel here does what is asked.

    Args:
        query: (1, heads, tokens, d).
        key: (1, key heads, tokens, d).
        value: as ``key``.
        window: how many keys a query sees at most, itself included; None for all.
        softcap: that scores are capped at, or None.
    """
    import torch

    alike = query.dtype == key.dtype == value.dtype and query.shape[-1] == value.shape[-1]
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16) or not alike:
        return None
    return trusted(
        KERNELS,
        query.device,
        query.dtype,
        (query.shape[1], key.shape[1], query.shape[-1]),
        window is not None,
        softcap,
        torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value)),
    )


@lru_cache(maxsize=64)
def trusted(
    kernels: tuple[Kernel, ...],
    device: Any,
    dtype: Any,
    shape: tuple[int, int, int],
    windowed: bool,
    softcap: float | None,
    trains: bool = False,
) -> Kernel | None:
    """The first kernel that computes what :func:`dense` does, tried on a few sequences; None for none.

    Args:
        kernels: to try, in this order.
        device: torch's.
        dtype: of queries, keys and values.
        shape: heads, key heads, width of a head.
        windowed: whether a window is asked for.
        softcap: that scores are capped at, or None.
        trains: whether its gradient is asked for: some kernels have none for wide heads on some cards.
    """
    import torch

    heads, key_heads, width = shape
    lengths, beginnings, sizes = [3, 70, 1, 5], [0, None, 0, 1], [9, 130]
    row = lay_out(lengths, beginnings, sizes, device)
    generator = torch.Generator().manual_seed(1)

    def drawn(rows: int, count: int) -> Any:
        return torch.randn(rows, count, width, generator=generator).to(device=device, dtype=dtype)

    keys = int(row.key_starts[-1])
    query, key, value = drawn(sum(lengths), heads), drawn(keys, key_heads), drawn(keys, key_heads)
    outer = drawn(sum(lengths), heads)
    window = 7 if windowed else None

    def answer(kernel: Kernel, kind: Any) -> list[Any]:
        """What it computes in this type, and where it is to train, the gradients of queries, keys and values."""
        parts = [part.to(kind).clone().requires_grad_(trains) for part in (query, key, value)]
        output = kernel(*parts, row, None, window, softcap)  # type: ignore[call-arg]
        gradients = torch.autograd.grad(output, parts, outer.to(output.dtype)) if trains else ()
        return [part.detach().float() for part in (output, *gradients)]

    # Layers that are computed twice count what a pass keeps for its gradient; this trial is none of it.
    apart = torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept)
    with torch.set_grad_enabled(trains), torch.autocast(device.type, enabled=False), apart:
        expected = None
        for kernel in kernels:
            try:
                computed = answer(kernel, dtype)
            except torch.OutOfMemoryError:
                raise
            except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError, AssertionError):
                continue
            expected = expected or answer(dense, torch.float32)
            bounds = [_SAME, *[_SAME_GRADIENT] * 3]
            if all(
                ours.shape == theirs.shape
                and float((ours - theirs).abs().max()) <= bound * float(theirs.abs().max())
                for ours, theirs, bound in zip(computed, expected, bounds, strict=False)
            ):
                return kernel
    return None


def _torch_kernel(
    query: Any,
    key: Any,
    value: Any,
    row: PackedRow,
    scale: float | None,
    window: int | None,
    softcap: float | None,
) -> Any:
    """A :data:`Kernel`: torch's, where its version has windows and grouped heads.

    Raises:
        NotImplementedError: for capped scores.
    """
    from torch.nn.attention.varlen import varlen_attn

    if softcap is not None:
        raise NotImplementedError("torch's kernel does not cap scores")
    return varlen_attn(
        query,
        key,
        value,
        row.query_starts,
        row.key_starts,
        row.longest_query,
        row.longest_key,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _flash_kernel(
    query: Any,
    key: Any,
    value: Any,
    row: PackedRow,
    scale: float | None,
    window: int | None,
    softcap: float | None,
) -> Any:
    """A :data:`Kernel`: flash-attn's.

    Raises:
        ImportError: where it is not installed.
    """
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens_q=row.query_starts,
        cu_seqlens_k=row.key_starts,
        max_seqlen_q=row.longest_query,
        max_seqlen_k=row.longest_key,
        softmax_scale=scale,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        softcap=softcap or 0.0,
    )


def dense(
    query: Any,
    key: Any,
    value: Any,
    row: PackedRow,
    scale: float | None,
    window: int | None,
    softcap: float | None,
) -> Any:
    """A :data:`Kernel` in plain products over all pairs of the row, as every other has to compute it.

    Args:
        query: (tokens, heads, d).
        key: (keys, key heads, d).
        value: as ``key``.
        row: where the sequences begin.
        scale: of the scores; None is one over the root of d.
        window: how many keys a query sees at most, itself included; None for all.
        softcap: that scores are capped at, or None.
    """
    import torch

    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * (
        scale if scale is not None else query.shape[-1] ** -0.5
    )
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~visible(row, window), float("-inf")).softmax(-1, dtype=torch.float32)
    return torch.einsum("hqk,khd->qhd", weights.to(value.dtype), value)


def visible(row: PackedRow, window: int | None) -> Any:
    """(queries, keys), bool: which keys each query sees."""
    import torch

    def placed(starts: Any) -> tuple[Any, Any]:
        """Of each token of a row its sequence, and how many of it come behind it."""
        every = torch.arange(int(starts[-1]), device=starts.device)
        sequence = torch.searchsorted(starts[1:].contiguous(), every, right=True, out_int32=True)
        return sequence, starts[sequence + 1] - 1 - every

    of_query, behind_query = placed(row.query_starts)
    of_key, behind_key = placed(row.key_starts)
    distance = behind_key[None, :] - behind_query[:, None]
    seen = (of_query[:, None] == of_key[None, :]) & (distance >= 0)
    return seen if window is None else seen & (distance < window)


KERNELS: tuple[Kernel, ...] = (_torch_kernel, _flash_kernel)
"""Those of a GPU, in the order in which they are tried."""
