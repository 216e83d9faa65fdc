"""What fits where: the one place where memory is planned, for the teacher, the student and training.

The functions over numbers know no device; what is free is asked of the device that is to hold it, by
``free_bytes`` for torch and by srtui.llama.gguf for llama.cpp. None plans over what is free, and more
memory never gives less.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

# Of what a device has free, this share is planned with: others use it too, and memory is given out in
# blocks. Of a computer's, which swaps before it says no, less.
DEVICE_SHARE, HOST_SHARE = 0.9, 0.4
# Tokens of one scoring pass: below, a GPU waits; above, it gains nothing. On CPUs 2,048 is where the rate
# stops rising.
_LEAST_TOKENS, _MOST_TOKENS = 2048, 32768
# Decoding on 2 to 8 CPU cores gains little beyond 16 sequences; a GPU has room for more.
CPU_SLOTS, GPU_SLOTS = 16, 32
# Layers go to the GPU before slots, but not so many that no cache fits for this many usual answers.
LEAST_SLOTS, USUAL_LENGTH = 4, 2048
KV_BYTES = {"f32": 4.0, "f16": 2.0, "q4_0": 0.5625, "q8_0": 1.0625}
"""Bytes of a number in a KV cache, by ggml's type."""


@dataclass(frozen=True)
class TeacherShape:
    """A GGUF as memory sees it: the bytes of each of its layers, and of its output; ``kv``, the elements
    of KV cache of one token in one layer; the sizes of its vocabulary, its hidden states and the
    middle of a layer."""

    layers: tuple[int, ...]
    output: int
    kv: int
    vocabulary: int
    hidden: int
    inner: int

    def on_device(self, count: int) -> int:
        """Weights of the last ``count`` layers and the output, which go to the device together."""
        return self.output + sum(self.layers[len(self.layers) - count :]) if count else 0

    def on_devices(self, parts: Sequence[int]) -> list[int]:
        """Weights on each of several devices, to which ``parts`` of the last layers and the output, which counts
        as one more, go in order."""
        units = [*self.layers, self.output][len(self.layers) + 1 - sum(parts) :] if sum(parts) else []
        ends = list(accumulate(parts))
        return [sum(units[end - part : end]) for end, part in zip(ends, parts, strict=True)]


@dataclass(frozen=True)
class TeacherPlan:
    """Where a teacher goes. ``layers`` of ``of`` lie on the GPUs, which have ``free`` bytes and are to give
    ``weights``, ``cache`` (for ``cells`` tokens) and ``compute``, all together. ``parts`` is how many layers go to
    each, the output counted as one more."""

    layers: int
    of: int
    weights: int
    cache: int
    compute: int
    free: int
    cells: int
    parts: tuple[int, ...] = ()

    def sentence(self) -> str:
        """All of it, for a person."""
        gpus = "the GPU" if len(self.parts) < 2 else f"the {len(self.parts)} GPUs"
        if not self.layers:
            return (
                f"The teacher's {self.of} layers stay in this computer's memory: with a KV cache for {self.cells:,} "
                f"tokens none fits {gpus}'{'' if gpus.endswith('s') else 's'} {self.free / 1e9:.1f} GB that are free."
            )
        less = (
            "" if self.layers == self.of else "; the others stay in this computer's memory, which is slower"
        )
        return (
            f"{self.layers} of the teacher's {self.of} layers go to {gpus}{less}: {self.weights / 1e9:.1f} GB of "
            f"weights, {self.cache / 1e9:.1f} GB of KV cache for {self.cells:,} tokens and "
            f"{self.compute / 1e9:.1f} GB to compute, of {self.free / 1e9:.1f} GB that are free."
        )


def plan_teacher(
    shape: TeacherShape, cells: int, free: Sequence[int], *, batch: int = 512, element: float = 2.0
) -> TeacherPlan:
    """As many of the last layers on the GPUs as fit, with their share of a KV cache and the buffers of a pass.

    Args:
        shape: the teacher.
        cells: tokens of the cache.
        free: bytes that each GPU has free.
        batch: tokens of a pass.
        element: bytes of each number in the cache.
    """
    compute = compute_bytes(batch, shape.vocabulary, shape.hidden, shape.inner)
    cell = shape.kv * element * cells
    layers, parts = 0, [0] * len(free)
    for count in range(len(shape.layers) if sum(free) else 0, 0, -1):
        tried = share_out(count + 1, free)
        if all(
            weights + cell * held + compute <= DEVICE_SHARE * room
            for weights, held, room, part in zip(
                shape.on_devices(tried), layers_of(tried), free, tried, strict=True
            )
            if part
        ):
            layers, parts = count, tried
            break
    return TeacherPlan(
        layers=layers,
        of=len(shape.layers),
        weights=shape.on_device(layers),
        cache=round(layers * cell),
        compute=compute * sum(map(bool, parts)),
        free=sum(free),
        cells=cells,
        parts=tuple(parts),
    )


def share_out(count: int, free: Sequence[int]) -> list[int]:
    """How many of ``count`` layers, the output counted as one, go to each GPU: as their ``free`` bytes are, and as
    many to each where none of them says."""
    weights = free if sum(free) else [1] * len(free)
    ends = [round(count * end / sum(weights)) for end in accumulate(weights)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def layers_of(parts: Sequence[int]) -> list[int]:
    """How many of each part's layers have a KV cache: all but the output, which is the last."""
    last = max((n for n, part in enumerate(parts) if part), default=-1)
    return [part - (n == last) for n, part in enumerate(parts)]


def cells_that_fit(
    cell: float, layers: int, gpus: Sequence[tuple[int, int]], *, host: int, compute: int
) -> int:
    """How many tokens of KV cache a loaded teacher can have, each layer's where the layer is.

    Args:
        cell: bytes of one token in one layer.
        layers: all of the teacher's.
        gpus: for each GPU how many of them are on it, and the bytes that it has free; the other layers are in
            this computer's memory.
        host: bytes free in this computer's memory.
        compute: bytes that the buffers of a pass still take on each GPU.
    """
    on_gpus = sum(held for held, _ in gpus)
    fits = [(DEVICE_SHARE * free - compute) / (cell * held) for held, free in gpus if held]
    if layers > on_gpus:
        fits.append((HOST_SHARE * host) / (cell * (layers - on_gpus)))
    return max(0, int(min(fits)))


def least_cells(slots: int | Literal["auto"], context: int | Literal["auto"]) -> int:
    """Tokens of the KV cache that a teacher's layers are planned beside: a few of its ``slots`` of ``context``
    tokens each, and the beginning that they share."""
    few = LEAST_SLOTS if slots == "auto" else min(slots, LEAST_SLOTS)
    return (1 + few) * (USUAL_LENGTH if context == "auto" else context)


def slots_that_fit(requested: int, longest: int, cells: int) -> int:
    """How many sequences of ``longest`` tokens, ``requested`` at most, go into ``cells`` beside one more
    for the beginning that they share; 0 where not even one does."""
    return max(0, min(requested, cells // longest - 1))


def compute_bytes(batch: int, vocabulary: int, hidden: int, inner: int) -> int:
    """Bytes of llama.cpp's buffers for a pass, about: logits, and a layer's intermediate results, in float32.

    Args:
        batch: tokens of the pass.
        vocabulary: tokens that a logit is made for.
        hidden: numbers of a hidden state.
        inner: numbers in the middle of a layer.
    """
    return 4 * batch * (vocabulary + 8 * hidden + 3 * inner)


def scoring_tokens(token: int, free: int, device: str) -> int:
    """Tokens of one scoring pass where one takes ``token`` bytes while a layer works on it: half of
    ``free``, so that logits and shared beginnings have the rest."""
    if device != "cuda":
        return _LEAST_TOKENS
    return max(1, min(_MOST_TOKENS, int(free * 0.5 / token)))


def token_bytes(hidden: int, inner: int) -> int:
    """What one token takes in a layer: residual, norms, query, key, value and their rotations; gate, up
    and their product; in bfloat16, some of them in float32 for a moment."""
    return 2 * (24 * hidden + 6 * inner)


# -- torch's devices ----------------------------------------------------------------------------------


def free_bytes(device: Any) -> int:
    """Memory that torch could still take on ``device``: the GPU's own, or this computer's."""
    import psutil
    import torch

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    return int(psutil.virtual_memory().available)


def release(device: Any = None) -> None:
    """Give back to the device what nothing refers to any more."""
    import torch

    gc.collect()
    if (device is None or device.type == "cuda") and torch.cuda.is_available():
        # Of a GPU that is gone there is nothing to have back, and why it is gone is being said already.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def drop_weights(model: Any) -> None:
    """Take a model's weights out of it, whoever still refers to the model: quantized layers lie in
    reference cycles, and a trainer or an exception may hold one. It cannot be run any more."""
    for module in model.modules():
        module._parameters.clear()
        module._buffers.clear()
        for name in ("quant_state", "state", "_cache"):  # bitsandbytes' scales, and its weights in 8 bits
            module.__dict__.pop(name, None)
    release()


def inner_width(model: Any) -> int:
    """The widest layer of a torch model but its head: what a token's intermediate results need."""
    head = model.get_output_embeddings()
    widths = [
        max(int(module.in_features), int(module.out_features))
        for module in model.modules()
        if module is not head and hasattr(module, "in_features") and hasattr(module, "out_features")
    ]
    config = model.config.get_text_config()
    chosen = int(getattr(config, "num_experts_per_tok", None) or 1)
    widths += [chosen * max(p.shape[1:]) for p in model.parameters() if p.dim() == 3 and p.shape[1] > 1]
    return max(widths, default=4 * int(config.hidden_size))


__all__: Sequence[str] = [
    "CPU_SLOTS",
    "DEVICE_SHARE",
    "GPU_SLOTS",
    "HOST_SHARE",
    "KV_BYTES",
    "LEAST_SLOTS",
    "USUAL_LENGTH",
    "TeacherPlan",
    "TeacherShape",
    "cells_that_fit",
    "compute_bytes",
    "drop_weights",
    "free_bytes",
    "inner_width",
    "layers_of",
    "least_cells",
    "plan_teacher",
    "release",
    "scoring_tokens",
    "share_out",
    "slots_that_fit",
    "token_bytes",
]
