"""The scorer for a student that is a GGUF: the same interface, through llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from srtui.measures import SpanLoss
from srtui.student.model import Student
from srtui.student.packing import shared_prefixes
from srtui.student.spans import Span


class GgufScorer:
    """See :class:`srtui.student.scorer.Scorer`; ``batch_tokens`` bounds the KV cache's cells."""

    why_padded = ""
    longest = None

    def __init__(self, student: Student, batch_tokens: int | Literal["auto"] = "auto") -> None:
        self._losses = student.model
        self._cells = 4096 if batch_tokens == "auto" else batch_tokens
        self.tokens_run = self.tokens_saved = 0

    def score(
        self,
        spans: Sequence[Span],
        should_stop: Callable[[], bool] = lambda: False,
        by_token: bool = False,
        embedded: None = None,
    ) -> Iterator[tuple[int, SpanLoss]]:
        """Yield (index into ``spans``, loss), longest first.

        Args:
            spans: what is scored.
            should_stop: asked between groups; stops early.
            by_token: whether losses have each token's own, too, in nats.
            embedded: nothing, since a GGUF gives no hidden states.
        """
        histories = [s.history for s in spans] if any(s.history for s in spans) else ()
        shared = shared_prefixes([(s.ids, max(0, len(s.ids) - s.target - 1)) for s in spans], histories)
        order = sorted(range(len(spans)), key=lambda i: shared[i] - len(spans[i].ids))
        if histories:  # what begins alike goes together
            order.sort(key=lambda i: spans[i].ids)
        requests = [(spans[i].ids, spans[i].target, shared[i]) for i in order]
        for group, nlls, run in self._losses.losses(requests, self._cells):
            if should_stop():
                return
            self.tokens_run += run
            self.tokens_saved += sum(len(requests[n][0]) for n in group) - run
            for n, span_nlls in zip(group, nlls, strict=True):
                span = spans[order[n]]
                if span_nlls is None:
                    yield order[n], SpanLoss(None, span.target, span.truncated, "non_finite")
                else:
                    tokens = np.asarray(span_nlls, dtype=np.float32) if by_token else None
                    yield order[n], SpanLoss(sum(span_nlls), span.target, span.truncated, by_token=tokens)
