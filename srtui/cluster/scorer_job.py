"""A worker's student: loaded as one process loads it, and run a forward pass a task."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from srtui.cluster.worker_messages import ModelFiles, ShippedFolder, WorkDone, WorkerFacts

if TYPE_CHECKING:
    from srtui.student import Quantization, Span
    from srtui.student.batches import Batching
    from srtui.student.scorer import Embedded


class StudentFacts(NamedTuple):
    """What must be the same in all workers of a student: its identities, and how its spans are run."""

    name: str
    id: str
    arithmetic: Literal["float32", "bfloat16"]
    losses_id: str
    first_losses_id: str | None
    longest: int | None
    why_padded: str
    how: Literal["packed", "padded", "alone"]
    alone_beyond: int | None


class Pass(NamedTuple):
    """Spans for one forward pass, and of each the ids that are run once for many; of which ``block`` of spans.
    ``embeds``: their embeddings are wanted, and not their losses; ``embeds_too``: pairs of both."""

    spans: Sequence[Span]
    shared: Sequence[int]
    chained: bool
    block: int
    by_token: bool = False
    embeds: bool = False
    embeds_too: bool = False


class PassResult(NamedTuple):
    """Losses (or embeddings) in the order of the pass's spans; tokens that were run, and that were not."""

    values: Sequence[Any]
    tokens_run: int
    tokens_saved: int


@dataclass
class ScorerJob:
    """``quantization`` and ``batch_tokens`` are a recipe's; ``threads`` of a CPU's, 0 for torch's own choice."""

    model: ModelFiles
    quantization: Quantization
    batch_tokens: int | Literal["auto"]
    adapter: ShippedFolder | None
    threads: int = 0
    device: str = ""

    def open(self, node: str) -> WorkerFacts:
        """See :class:`srtui.cluster.worker.Job`."""
        import torch

        from srtui.student import Student, open_scorer
        from srtui.student.batches import Batching
        from srtui.workspace import go_offline

        go_offline()
        if self.threads:
            torch.set_num_threads(self.threads)
        self._queue: deque[tuple[int, Pass]] = deque()
        self._block = -1
        notes: list[str] = []
        path = self.model.find(node)
        student = Student.load(
            path,
            self.quantization,
            adapter=self.adapter.unpack() if self.adapter else None,
            report_line=notes.append,
        )
        self._scorer = open_scorer(student, self.batch_tokens)
        gguf = self.quantization == "gguf"
        batches: Batching = (
            Batching("packed", 4096 if self.batch_tokens == "auto" else self.batch_tokens)
            if gguf
            else self._scorer.batches
        )
        same = StudentFacts(
            student.name,
            student.id,
            student.arithmetic,
            student.losses_id,
            student.first_losses_id,
            self._scorer.longest,
            self._scorer.why_padded,
            batches.how,
            batches.alone_beyond,
        )
        more = {"tokens": batches.tokens, "notes": notes}
        return WorkerFacts(node, os.getpid(), self.device, same, more, window=2)

    def add(self, tasks: Iterable[tuple[int, Any]]) -> None:
        """See :class:`srtui.cluster.worker.Job`."""
        self._queue.extend(tasks)

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int, Any]]:
        """See :class:`srtui.cluster.worker.Job`."""
        while self._queue and not should_stop():
            ticket, work = self._queue.popleft()
            run, saved = self._scorer.tokens_run, self._scorer.tokens_saved
            values = self._values(work)
            yield (
                ticket,
                0,
                PassResult(values, self._scorer.tokens_run - run, self._scorer.tokens_saved - saved),
            )
        self._queue.clear()

    def _values(self, work: Pass) -> list[Any]:
        values: list[Any] = [None] * len(work.spans)
        embeddings: dict[int, Embedded] = {}
        if work.embeds:
            scored: Iterator[tuple[int, Any]] = self._scorer.embed(work.spans)
        elif self.quantization == "gguf":
            scored = self._scorer.score(work.spans, by_token=work.by_token)
        else:
            from srtui.student.batches import PassOrder

            if work.block != self._block:
                self._scorer.forget_beginnings()
                self._block = work.block
            order = PassOrder(tuple(range(len(work.spans))), tuple(work.shared), work.chained)
            scored = self._scorer.score_in_order(
                work.spans,
                order,
                by_token=work.by_token,
                keep=True,
                embedded=embeddings.__setitem__ if work.embeds_too else None,
            )
        for n, value in scored:
            values[n] = (value, embeddings.get(n)) if work.embeds_too else value
        return values

    def done(self) -> WorkDone:
        """See :class:`srtui.cluster.worker.Job`."""
        run = self._scorer.tokens_run
        waiting = len(self._queue)
        return WorkDone(moved=run, prompt_tokens=run, slots=1, slots_in_use=1, waiting=waiting)

    def ask(self, name: str, given: Any) -> Any:
        """Nothing is asked of a scorer."""
        raise ValueError(name)
