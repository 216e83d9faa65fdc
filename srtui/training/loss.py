"""The loss of training: the scorer's, of each target token, with a gradient.

The language-model head runs only where a target token is predicted, a chunk of positions at a time,
so memory grows neither with vocabulary x length nor with the prompt. With a frozen head the chunk's
gradient is known as soon as its logits are, so it is taken at once and no logits are kept or made
again (as in Hsu et al. 2024, "Liger Kernel", section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from srtui.student import Head, Span
from srtui.student.packing import Packing

CHUNK_BYTES = 128 * 2**20  # of float32 logits; 2,048 positions at most
_CHUNK_ROWS = 2048


@dataclass(frozen=True)
class MicroBatch:
    """Samples for one pass. ``packed``: end to end in one row, else padded at the end."""

    examples: tuple[Span, ...]
    packed: bool

    @property
    def targets(self) -> int:
        """Target tokens in it."""
        return sum(len(e.targets) for e in self.examples)

    @property
    def tokens(self) -> int:
        """Without padding."""
        return sum(len(e.ids) for e in self.examples)

    @property
    def weight(self) -> int:
        """What the mean of a step's loss is over: target tokens."""
        return self.targets


Objective = Callable[[Head, MicroBatch], tuple[Any, dict[str, Any]]]
"""The loss of a batch, summed over what its ``weight`` counts, (), with a gradient; and figures summed alike."""


def summed_nll(head: Head, batch: MicroBatch) -> Any:
    """Negative log-likelihood of all target tokens of ``batch``, in nats, summed: a scalar with a
    gradient for the hidden states, by the model that ``head`` belongs to. A packed batch needs
    srtui.student.packing's attention in place."""
    return token_nlls(head, batch).sum()


def span_nlls(head: Head, batch: MicroBatch) -> Any:
    """As :func:`summed_nll`, of each example by itself: (examples,)."""
    nlls = token_nlls(head, batch)
    # And not index_add, which on a GPU adds in another order each time: a resumed training would differ.
    return torch.stack([part.sum() for part in nlls.split([len(e.targets) for e in batch.examples])])


def token_nlls(head: Head, batch: MicroBatch) -> Any:
    """Negative log-likelihood of each target token of ``batch``, (targets,), one example after the other."""
    device = next(head.model.parameters()).device
    hidden = (_packed if batch.packed else _padded)(head.body, batch, device)
    width = 0 if batch.packed else max(len(e.ids) for e in batch.examples)
    starts = (
        [0, *accumulate(len(e.ids) for e in batch.examples)][:-1]
        if batch.packed
        else [n * width for n in range(len(batch.examples))]
    )
    # A token is predicted at the position before it.
    places = [
        start + place - 1 for start, e in zip(starts, batch.examples, strict=True) for place in e.targets
    ]
    labels = [e.ids[place] for e in batch.examples for place in e.targets]
    picked = hidden.flatten(0, 1)[torch.tensor(places, device=device)]
    targets = torch.tensor(labels, device=device)
    if not head.direct:
        return OwnHeadLoss.apply(picked, targets, head)  # type: ignore[no-untyped-call]
    output = head.model.get_output_embeddings()
    return HeadLoss.apply(picked, output.weight, output.bias, targets, head.scale, head.cap)  # type: ignore[no-untyped-call]


def _packed(body: Any, batch: MicroBatch, device: Any) -> Any:
    lengths = [len(e.ids) for e in batch.examples]
    return body(
        input_ids=torch.tensor([[i for e in batch.examples for i in e.ids]], device=device),
        position_ids=torch.tensor([[p for size in lengths for p in range(size)]], device=device),
        use_cache=False,
        packing=Packing(lengths, [None] * len(lengths)),
    ).last_hidden_state


def _padded(body: Any, batch: MicroBatch, device: Any) -> Any:
    lengths = [len(e.ids) for e in batch.examples]
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, e in enumerate(batch.examples):
        ids[n, : lengths[n]] = torch.tensor(e.ids)
        mask[n, : lengths[n]] = 1
    return body(
        input_ids=ids.to(device),
        attention_mask=None if bool(mask.all()) else mask.to(device),
        use_cache=False,
    ).last_hidden_state


class HeadLoss(torch.autograd.Function):
    """Cross-entropy of each row of a frozen head's logits, (n,): hidden (n, width), weight (vocabulary,
    width), bias (vocabulary,) or None, labels (n,), and what the model does to its logits: multiply
    by ``scale``, cap as ``cap`` x tanh(logits / cap)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        scale: float | None,
        cap: float | None,
    ) -> torch.Tensor:
        """The cross-entropy of each of ``labels`` in nats, (positions,), by chunks of positions.

        Args:
            ctx: autograd's; keeps the gradient of ``hidden``.
            hidden: (positions, width), before the head.
            weight: (vocabulary, width), frozen.
            bias: (vocabulary,), or None.
            labels: (positions,), token ids.
            scale: that logits are multiplied by, where the model does.
            cap: where the model caps logits softly, at what.
        """
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        losses = torch.empty(len(labels), dtype=wide, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in _chunks(len(labels), weight.shape[0]):
            logits = torch.nn.functional.linear(hidden[part].to(weight.dtype), weight, bias).to(wide)
            if scale is not None:
                logits *= scale
            if cap is not None:
                logits = torch.tanh(logits / cap) * cap
            chosen = logits.gather(1, labels[part, None])[:, 0]
            normaliser = torch.logsumexp(logits, dim=1)
            losses[part] = normaliser - chosen
            if gradient is None:
                continue
            slope = None if cap is None else 1 - (logits / cap) ** 2
            logits = logits.sub_(normaliser[:, None]).exp_()  # now probabilities
            logits[torch.arange(len(chosen), device=logits.device), labels[part]] -= 1
            if slope is not None:
                logits *= slope
            if scale is not None:
                logits *= scale
            gradient[part] = (logits.to(weight.dtype) @ weight).to(hidden.dtype)
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of ``hidden``, as forward kept it, times the outer one; the head is frozen."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype)[:, None], None, None, None, None, None


class OwnHeadLoss(torch.autograd.Function):
    """The same of hidden (n, width) and labels (n,) by ``head``, whatever it does to its logits: the
    gradient is autograd's through the model's own head, a chunk at a time."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, labels: torch.Tensor, head: Head) -> torch.Tensor:
        """The cross-entropy of each of ``labels`` in nats, (positions,), by a head that
        computes its own logits of ``hidden`` (positions, width).

        Args:
            ctx: autograd's; keeps the gradient of ``hidden``.
            hidden: (positions, width), before the head.
            labels: (positions,), token ids.
            head: computes logits, (positions, vocabulary).
        """
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        losses = torch.empty(len(labels), dtype=wide, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in _chunks(len(labels), head.vocabulary):
            chunk = hidden[part].detach().requires_grad_(gradient is not None)
            with torch.set_grad_enabled(gradient is not None):
                loss = torch.nn.functional.cross_entropy(head.logits(chunk), labels[part], reduction="none")
            losses[part] = loss.detach()
            if gradient is not None:
                (gradient[part],) = torch.autograd.grad(loss, chunk, torch.ones_like(loss))
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of ``hidden``, as forward kept it, times the outer one."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype)[:, None], None, None


def _chunks(rows: int, vocabulary: int) -> Sequence[slice]:
    step = max(1, min(_CHUNK_ROWS, CHUNK_BYTES // (4 * vocabulary)))
    return [slice(start, start + step) for start in range(0, rows, step)]
