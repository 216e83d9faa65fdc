"""Losses of spans, each once, in length-sorted batches, with the language-model head only where a
target token is predicted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from srtui.scoring.ifd import SpanLoss
from srtui.scoring.spans import Span
from srtui.scoring.student import Student

# Logits are made in chunks of this many target positions: float32 x vocabulary, so at 152,000
# tokens of vocabulary a chunk is 0.6 GB at most and memory does not grow with the batch.
_HEAD_ROWS = 512
_HEAD_BYTES = 256 * 2**20


class Scorer:
    """Scores spans with one student.

    ``batch_tokens`` is the number of tokens, padding included, of one forward pass; "auto" is found
    from the device, and an out-of-memory halves it and goes on.
    """

    def __init__(self, student: Student, batch_tokens: int | Literal["auto"] = "auto") -> None:
        self._model = student.model
        self._device = next(student.model.parameters()).device
        self._budget = batch_tokens if batch_tokens != "auto" else _budget(self._device)
        self.tokens_run = 0

    def score(
        self, spans: Sequence[Span], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, SpanLoss]]:
        """Yield (index into ``spans``, loss) as they come, longest first; stops early when asked.

        A loss that is not finite has the reason ``non_finite``; a span that cannot run even alone
        has ``out_of_memory``.
        """
        import torch

        order = sorted(range(len(spans)), key=lambda i: -len(spans[i].ids))
        at = 0
        while at < len(order) and not should_stop():
            width = len(spans[order[at]].ids)
            batch = order[at : at + max(1, self._budget // width)]
            try:
                losses = self._batch([spans[i] for i in batch])
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                if len(batch) > 1:
                    self._budget = max(width, width * (len(batch) // 2))
                    continue
                losses = [SpanLoss(0.0, spans[batch[0]].target, reason="out_of_memory")]
            at += len(batch)
            self.tokens_run += sum(len(spans[i].ids) for i in batch)
            yield from zip(batch, losses, strict=True)

    def _batch(self, spans: Sequence[Span]) -> list[SpanLoss]:
        import torch

        width = max(len(s.ids) for s in spans)
        ids = torch.zeros(len(spans), width, dtype=torch.long)
        mask = torch.zeros(len(spans), width, dtype=torch.long)
        rows: list[int] = []
        columns: list[int] = []
        labels: list[int] = []
        for n, span in enumerate(spans):
            size = len(span.ids)
            ids[n, :size] = torch.tensor(span.ids)
            mask[n, :size] = 1
            first = size - span.target
            rows += [n] * span.target
            columns += range(first - 1, size - 1)  # a token is predicted at the position before it
            labels += span.ids[first:]
        with torch.inference_mode():
            padded = bool((mask == 0).any())
            hidden = _body(self._model)(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device) if padded else None,
                use_cache=False,
            ).last_hidden_state
            picked = hidden[
                torch.tensor(rows, device=self._device), torch.tensor(columns, device=self._device)
            ]
            nll = self._nll(picked, torch.tensor(labels, device=self._device))
            sums = torch.zeros(len(spans), dtype=torch.float64)
            sums.index_add_(0, torch.tensor(rows), nll.double().cpu())
        return [
            SpanLoss(total, span.target, span.truncated)
            if math.isfinite(total)
            else SpanLoss(0.0, span.target, span.truncated, "non_finite")
            for total, span in zip(sums.tolist(), spans, strict=True)
        ]

    def _nll(self, hidden: Any, labels: Any) -> Any:
        """Negative log-likelihood of each label, (n,) float32, from hidden states (n, width)."""
        import torch

        head = self._model.get_output_embeddings()
        vocabulary = head.weight.shape[0]
        step = max(1, min(_HEAD_ROWS, _HEAD_BYTES // (4 * vocabulary)))
        config = self._model.config.get_text_config()
        cap, scale = getattr(config, "final_logit_softcapping", None), getattr(config, "logit_scale", None)
        parts = []
        for start in range(0, len(labels), step):
            logits = head(hidden[start : start + step]).float()
            if scale is not None:
                logits = logits * scale
            if cap is not None:
                logits = torch.tanh(logits / cap) * cap
            wanted = logits.gather(1, labels[start : start + step, None])[:, 0]
            parts.append(torch.logsumexp(logits, dim=1) - wanted)
        return torch.cat(parts)


def _body(model: Any) -> Any:
    """The transformer without its language-model head; adapters are layers inside it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, base.base_model_prefix)


def _budget(device: Any) -> int:
    """Tokens a forward pass: enough to keep the device busy, little enough to leave it room."""
    import torch

    if device.type != "cuda":
        return 2048
    free, _ = torch.cuda.mem_get_info(device)
    return max(2048, min(65536, int(free * 0.25 / 400_000)))
