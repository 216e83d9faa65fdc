"""Sequences end to end in one row: no padding, attention within each, a shared prefix run once.

transformers lets an attention function be registered by name. Ours attends within each sequence of the
row; in front of a sequence's own keys and values it puts those of the prefix that it shares with others,
which are recorded from one pass over the prefix alone. A GPU has kernels for the whole row
(srtui.student.row_attention); elsewhere the row is cut into its sequences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from srtui.student.row_attention import Kernel, PackedRow, kernel_for, lay_out

NAME = "srtui_packed"
# A prefix must be shared by some spans and have some length before it is worth a pass of its own.
_LEAST_SPANS, _LEAST_TOKENS = 8, 8


@dataclass
class Prefix:
    """Token ids that many sequences begin with, and by layer their keys and values, (1, heads, n, d). ``states`` is
    the sum of their last hidden states, (width,), the i-th taken i times."""

    ids: tuple[int, ...]
    layers: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    states: Any = None


@dataclass
class Packing:
    """How a row is cut: the tokens of each sequence and the prefix in front of it. With ``record``,
    the row is that prefix itself, or, behind another one, the rest of it, and its keys and values are kept."""

    lengths: Sequence[int]
    prefixes: Sequence[Prefix | None]
    record: Prefix | None = None
    windows: set[int | None] = field(default_factory=set)  # those that the model's layers asked for
    masks: dict[tuple[int, int, int | None], Any] = field(default_factory=dict)
    row: PackedRow | None = None  # where its sequences lie, once a kernel has asked

    @property
    def shared(self) -> list[Prefix]:
        """The prefixes that it has, each once, in the order in which they come."""
        return list({id(prefix): prefix for prefix in self.prefixes if prefix is not None}.values())


def shared_prefixes(
    sequences: Sequence[tuple[tuple[int, ...], int]], histories: Sequence[int] = ()
) -> list[int]:
    """How long a prefix of each sequence is worth sharing; 0 for none.

    ``sequences`` are (ids, most): of ``ids`` at most the first ``most`` may be shared. Sequences
    with a common beginning are split where they part, as long as eight or more have more in common, or
    two, where that is within the history of both: ``histories`` says of each how many ids that are.
    """
    lengths = [0] * len(sequences)

    def split(group: list[int], known: int, shared: int) -> None:
        most = min(sequences[i][1] for i in group)
        low = min(sequences[i][0][known:most] for i in group)
        high = max(sequences[i][0][known:most] for i in group)
        size = known + next(
            (n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
        )
        if (size - shared) * len(group) > size:  # what it saves against the pass that it costs
            shared = size
            for i in group:
                lengths[i] = size
        children: dict[int, list[int]] = defaultdict(list)
        for i in group:
            ids, room = sequences[i]
            if room > size:
                children[ids[size]].append(i)
        for child in children.values():
            known_before = len(child) > 1 and histories and size < min(histories[i] for i in child)
            if len(child) >= _LEAST_SPANS or known_before:
                split(child, size + 1, shared)

    if len(sequences) >= _LEAST_SPANS or (len(sequences) > 1 and any(histories)):
        split(list(range(len(sequences))), 0, 0)
    return [size if size >= _LEAST_TOKENS else 0 for size in lengths]


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """The model with our attention, and as it was afterwards: training uses its own."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _note_pattern)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# What the model's masks let through, while someone asks: (0, 0, query, key) -> seen, by index.
_patterns: list[Callable[..., Any]] = []


def _note_pattern(*_: Any, mask_function: Callable[..., Any] | None = None, **__: Any) -> None:
    """In the place where transformers makes masks: ours are made in the attention, so there is none."""
    if mask_function is not None:
        _patterns[:] = [*_patterns[-31:], mask_function]


def long_patterns_differ(model: Any, body: Any, length: int) -> bool:
    """Whether a layer of ``model`` would see other tokens of a sequence of up to ``length`` than our
    attention shows it: those before it, or those within the window that it asks for. A short trial
    does not say: Llama 4's chunks are 8,192 tokens long."""
    import torch

    device = next(model.parameters()).device
    packing = Packing([4], [None])
    _patterns.clear()
    with packed_attention(model):
        body(input_ids=torch.arange(4, device=device)[None], use_cache=False, packing=packing)
    key = torch.arange(length)[None]
    query = torch.tensor([n for n in (0, 1, length // 3, length // 2, length - 1) if n < length])[:, None]
    allowed = [key <= query]
    allowed += [(key <= query) & (key > query - w) for w in packing.windows if w is not None]
    zero = torch.zeros((), dtype=torch.long)
    for pattern in _patterns:
        visible = pattern(zero, zero, query.to(device), key.to(device)).cpu()
        if not any(torch.equal(visible, expected) for expected in allowed):
            return True
    return False


def _attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **arguments: Any,
) -> tuple[Any, None]:
    """Attention within each sequence. Query is (1, heads, tokens, d); returns (1, tokens, heads, d).

    Raises TypeError where the model hands over what would change the result and is not known here:
    sinks, biases by position, chosen blocks.
    """
    import torch

    if packing is None:
        raise ValueError("packed attention without a packing")
    unknown = [n for n, value in arguments.items() if isinstance(value, torch.Tensor) and n != "position_ids"]
    if unknown:
        raise TypeError(f"its attention takes {', '.join(unknown)}")
    packing.windows.add(sliding_window)
    layer = getattr(module, "layer_idx", 0)
    query, key, value = _autocast(query, key, value)
    kernel = kernel_for(query, key, value, sliding_window, softcap)
    if kernel is not None:
        return _whole_row(kernel, query, key, value, packing, layer, scaling, sliding_window, softcap), None
    return _by_sequence(query, key, value, packing, layer, scaling, sliding_window, softcap), None


def _autocast(*parts: Any) -> tuple[Any, ...]:
    """Queries, keys and values in the type that autocast gives attention, as torch's own gets them: norms
    answer in float32 there."""
    import torch

    kind = parts[0].device.type
    if kind != "cuda" or not torch.is_autocast_enabled(kind):
        return parts
    return tuple(part.to(torch.get_autocast_dtype(kind)) for part in parts)


def _whole_row(
    kernel: Kernel,
    query: Any,
    key: Any,
    value: Any,
    packing: Packing,
    layer: int,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Any:
    """The row by one call of ``kernel``; shapes as in :func:`_attend`.

    Without shared prefixes, as in training, nothing is gathered: a gather's gradient is added up in another order
    each time.
    """
    import torch

    shared = packing.shared
    if packing.row is None:
        index = {id(prefix): n for n, prefix in enumerate(shared)}
        packing.row = lay_out(
            packing.lengths,
            [None if prefix is None else index[id(prefix)] for prefix in packing.prefixes],
            [prefix.layers[layer][0].shape[2] for prefix in shared],
            query.device,
        )
    row = packing.row
    if row.gathered is not None:
        key, value = (
            torch.cat([*(prefix.layers[layer][n] for prefix in shared), part], dim=2)[:, :, row.gathered]
            for n, part in enumerate((key, value))
        )
    if packing.record is not None:
        packing.record.layers[layer] = (key, value)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return kernel(q, k, v, row, scaling, window, softcap)[None].contiguous()


def _by_sequence(
    query: Any,
    key: Any,
    value: Any,
    packing: Packing,
    layer: int,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
) -> Any:
    """The row cut into its sequences, one after the other; shapes as in :func:`_attend`."""
    import torch

    if packing.record is not None:
        packing.record.layers[layer] = (key, value)
    outputs, begin = [], 0
    for size, prefix in zip(packing.lengths, packing.prefixes, strict=True):
        q, k, v = (part[:, :, begin : begin + size] for part in (query, key, value))
        begin += size
        before = 0
        if prefix is not None:
            keys, values = prefix.layers[layer]
            before = keys.shape[2]
            k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
            if packing.record is not None:  # one that goes on from another: its keys and values are both's
                packing.record.layers[layer] = (k, v)
        window = sliding_window if sliding_window is not None and sliding_window < before + size else None
        mask = None if not before and window is None else _mask(packing, size, before, window, q.device)
        groups = q.shape[1] // k.shape[1]
        # Only the CPU's fused kernel takes grouped heads together with a mask.
        fused = softcap is None and (mask is None or q.device.type == "cpu")
        if groups > 1 and not fused:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        if softcap is not None:
            outputs.append(_softcapped(q, k, v, mask, scaling, softcap))
        else:
            outputs.append(
                torch.nn.functional.scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    attn_mask=mask,
                    is_causal=mask is None,
                    scale=scaling,
                    enable_gqa=groups > 1 and fused,
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _mask(packing: Packing, size: int, before: int, window: int | None, device: Any) -> Any:
    """(size, before + size): a token sees the prefix, itself and what comes before it in its sequence."""
    import torch

    mask = packing.masks.get((size, before, window))
    if mask is None:
        row = torch.arange(before, before + size, device=device)[:, None]
        column = torch.arange(before + size, device=device)[None, :]
        mask = column <= row
        if window is not None:
            mask &= column > row - window
        packing.masks[size, before, window] = mask
    return mask


def _softcapped(q: Any, k: Any, v: Any, mask: Any, scaling: float | None, softcap: float) -> Any:
    """Attention with tanh-capped scores (Gemma 2), which the fused kernels do not have."""
    import torch

    size, whole = q.shape[2], k.shape[2]
    scores = q @ k.transpose(2, 3) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    if mask is None:
        mask = torch.ones(size, whole, dtype=torch.bool, device=q.device).tril(whole - size)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.to(q.dtype) @ v
