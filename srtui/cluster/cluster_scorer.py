"""A scorer that is many: the forward passes of one scorer, made by whichever worker is free.

The engine's process has the student's tokenizer and its identities, and no weights. Which spans go through together is
decided here, by the same rules and sizes as in one process, so losses are those of one process of that device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from srtui.cluster.dispatch import SUSPECT_AFTER, Task
from srtui.cluster.pool import Pool
from srtui.cluster.scorer_job import Pass, PassResult, StudentFacts
from srtui.errors import UserError
from srtui.measures import SpanLoss
from srtui.student import Span, Student
from srtui.student.batches import Batching, PassOrder

if TYPE_CHECKING:
    from srtui.student.scorer import Embedded


class ClusterStudent(Student):
    """A student whose weights are in the workers of ``pool``: there is a tokenizer, and no model."""

    pool: Pool

    @classmethod
    def of(cls, pool: Pool, facts: StudentFacts, quantization: Any, tokenizer: Any) -> ClusterStudent:
        """The student that the workers of ``pool`` have opened.

        Args:
            pool: of its workers.
            facts: that they all stated.
            quantization: how they hold its weights.
            tokenizer: read in this process.
        """
        student = cls(
            facts.name,
            facts.id,
            quantization,
            None,
            tokenizer,
            facts.arithmetic,
            facts.losses_id,
            facts.first_losses_id,
        )
        student.pool = pool
        return student

    def close(self) -> None:
        """End its workers."""
        self.pool.close()


class ClusterScorer:
    """See :class:`srtui.student.scorer.Scorer`."""

    def __init__(self, pool: Pool, facts: StudentFacts) -> None:
        """``pool``: of scorers, open; ``facts``: what they all stated."""
        self._pool, self._facts = pool, facts
        self._blocks = count()
        self.tokens_run = self.tokens_saved = 0

    @property
    def longest(self) -> int | None:
        """Tokens that the model's table of positions holds; None where there is none."""
        return self._facts.longest

    @property
    def why_padded(self) -> str:
        """Why spans are padded and not packed; "" where they are packed."""
        return self._facts.why_padded

    @property
    def batches(self) -> Batching:
        """How spans go through together: as many as the worker with the least memory can."""
        tokens = min((facts.more["tokens"] for facts in self._pool.facts), default=1)
        return Batching(self._facts.how, tokens, self._facts.alone_beyond)

    def score(
        self,
        spans: Sequence[Span],
        should_stop: Callable[[], bool] = lambda: False,
        by_token: bool = False,
        embedded: Callable[[int, Embedded], None] | None = None,
    ) -> Iterator[tuple[int, SpanLoss]]:
        """Yield (index into ``spans``, loss) as they come. See :meth:`srtui.student.scorer.Scorer.score`.

        Args:
            spans: what is scored.
            should_stop: asked between passes; stops early.
            by_token: whether losses have each token's own, too, in nats.
            embedded: gets (index into ``spans``, embedding) of each span before its loss comes.
        """
        batches = self.batches
        order, embeds_too = batches.order(spans), embedded is not None
        passes = self._passes(spans, order, batches, should_stop, by_token=by_token, embeds_too=embeds_too)
        for index, value in passes:
            loss, embedding = value if embeds_too and value is not None else (value, None)
            if embedded is not None and embedding is not None:
                embedded(index, embedding)
            yield index, loss or SpanLoss(None, spans[index].target, reason="workers_died")

    def embed(
        self, spans: Sequence[Span], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index into ``spans``, embedding) as they come. See :meth:`srtui.student.scorer.Scorer.embed`."""
        order = sorted(range(len(spans)), key=lambda i: -len(spans[i].ids))
        unshared = PassOrder(tuple(order), (0,) * len(spans), False)
        for index, embedding in self._passes(spans, unshared, self.batches, should_stop, embeds=True):
            if embedding is None:
                raise UserError(
                    "A text cannot be embedded: each worker that was at it died; run the same command again."
                )
            yield index, embedding

    def _passes(
        self,
        spans: Sequence[Span],
        order: PassOrder,
        batches: Batching,
        should_stop: Callable[[], bool],
        **how: bool,
    ) -> Iterator[tuple[int, Any]]:
        block = next(self._blocks)

        def task(chosen: Sequence[int], deaths: int = 0) -> Task:
            some = [spans[i] for i in chosen]
            work = Pass(some, [order.shared[i] for i in chosen], order.chained, block, **how)
            return Task(work, chosen, sum(len(s.ids) for s in some), deaths=deaths)

        self._pool.submit([task(chosen) for chosen in batches.batches(spans, order)])
        for finished, _, result in self._pool.run(should_stop):
            chosen = finished.key
            if result is None and len(chosen) > 1:  # one of them is what the workers died of
                half = len(chosen) // 2
                self._pool.submit([task(part, SUSPECT_AFTER) for part in (chosen[:half], chosen[half:])])
                continue
            pass_result: PassResult = result or PassResult([None] * len(chosen), 0, 0)
            self.tokens_run += pass_result.tokens_run
            self.tokens_saved += pass_result.tokens_saved
            yield from zip(chosen, pass_result.values, strict=True)
