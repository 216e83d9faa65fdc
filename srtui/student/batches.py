"""Which spans go through a student together, and in which order: arithmetic over their sizes, without a model.

The order and the batches decide a loss's last digits, so whoever runs a student, in this process or in others, takes
them from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from srtui.student.packing import shared_prefixes
from srtui.student.spans import Span


@dataclass(frozen=True)
class PassOrder:
    """Indices of spans in the order in which they are run, and of each span how many ids of its beginning are run once
    for many. ``chained``: what begins alike stands together, since beginnings continue shorter ones."""

    order: tuple[int, ...]
    shared: tuple[int, ...]
    chained: bool


@dataclass(frozen=True)
class Batching:
    """How a student's spans are run: ``packed`` end to end, ``padded`` to one length, or each ``alone``; ``tokens`` of
    one forward pass at most. A span of more than ``alone_beyond`` tokens runs alone in any case."""

    how: Literal["packed", "padded", "alone"]
    tokens: int
    alone_beyond: int | None = None

    def runs_alone(self, length: int) -> bool:
        """Whether a text of so many tokens would change the positions of those beside it."""
        return self.alone_beyond is not None and length > self.alone_beyond

    def order(self, spans: Sequence[Span]) -> PassOrder:
        """The longest first, so that what does not fit shows at once; of conversations, what begins alike together."""
        shared = [0] * len(spans)
        chained = self.how == "packed" and any(s.history for s in spans)
        if self.how == "packed":
            # The position before the target predicts its first token, so it has to be run.
            shared = shared_prefixes(
                [
                    (s.ids, 0 if self.runs_alone(len(s.ids)) else max(0, len(s.ids) - s.target - 1))
                    for s in spans
                ],
                [s.history for s in spans] if chained else (),
            )
        order = sorted(range(len(spans)), key=lambda i: shared[i] - len(spans[i].ids))
        if chained:
            order.sort(key=lambda i: (not self.runs_alone(len(spans[i].ids)), spans[i].ids))
        return PassOrder(tuple(order), tuple(shared), chained)

    def next_batch(self, sizes: Sequence[int]) -> int:
        """How many spans of these sizes, longest first, go into the next forward pass: one at least."""
        if self.how == "alone" or self.runs_alone(sizes[0]):
            return 1
        total = 0
        for count, size in enumerate(sizes):
            total = total + size if self.how == "packed" else (count + 1) * sizes[0]
            if count and total > self.tokens:
                return count
        return len(sizes)

    def batches(self, spans: Sequence[Span], order: PassOrder) -> Iterator[tuple[int, ...]]:
        """The indices of each forward pass's spans, one pass after the other, as long as memory holds them."""
        begin = 0
        while begin < len(order.order):
            rest = order.order[begin:]
            size = self.next_batch([len(spans[i].ids) - order.shared[i] for i in rest])
            yield rest[:size]
            begin += size

    def halved(self, sizes: Sequence[int]) -> Batching:
        """For a device that had no memory for a pass of spans of these sizes."""
        return replace(self, tokens=max(1, self._cost(sizes) // 2))

    def _cost(self, sizes: Sequence[int]) -> int:
        return sum(sizes) if self.how == "packed" else len(sizes) * max(sizes)
