"""Losses of spans, each once, packed end to end, with the language-model head only where a target
token is predicted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from srtui.errors import UserError
from srtui.gpu_errors import gpu_fault
from srtui.measures import SpanLoss
from srtui.models.memory import free_bytes, inner_width, release, scoring_tokens, token_bytes
from srtui.student.arithmetic import in_float32
from srtui.student.batches import Batching, PassOrder
from srtui.student.head import examine
from srtui.student.model import Student
from srtui.student.packing import Packing, Prefix, long_patterns_differ, packed_attention
from srtui.student.spans import Span

# Logits are made in chunks of this many target positions: float32 x vocabulary, so at 152,000
# tokens of vocabulary a chunk is 0.6 GB at most and memory does not grow with the batch.
_HEAD_ROWS = 512
_HEAD_BYTES = 256 * 2**20
_LONG = 2**17  # tokens of the longest sequence whose attention is looked at
# Two orders of summing in float32 differ by up to 3e-6 of the largest hidden state (thirty layers, NF4);
# a short convolution that reaches into the span before (LFM2), by 1e-4 at random weights.
_PACKED_AS_PADDED = 5e-5


class Embedded(NamedTuple):
    """Embeddings of a span, (width,) each: of all its tokens, and of its target's.

    An embedding is the mean of last hidden states, the i-th of the span weighted by i: RDS+ (Ivison et al. 2025,
    arXiv 2503.01807, section 3), since later tokens have seen more.
    """

    whole: NDArray[np.float32]
    target: NDArray[np.float32]


class Scorer:
    """Scores spans with one student.

    ``batch_tokens`` is the number of tokens of one forward pass; "auto" is found from the memory
    that is free, and an out-of-memory halves it and the work continues. Spans lie end to end with no padding,
    and a beginning that many of them share is run once; where the student's attention cannot be cut
    like that, they are padded, and where padding changes a loss, each runs alone (``batching`` says
    which, ``why_padded`` why). ``head`` makes the model's own logits. ``tokens_run`` are those that went
    through the model, ``tokens_saved`` those that a shared beginning spared. Raises UserError for a model
    that does not predict tokens from those before them.
    """

    def __init__(self, student: Student, batch_tokens: int | Literal["auto"] = "auto") -> None:
        self._model = student.model
        self._device = student.device
        budget = batch_tokens if batch_tokens != "auto" else self._affordable()
        self._prefixes: dict[tuple[int, ...], Prefix] = {}
        self._chained = False  # whether a longer beginning continues a shorter one
        self.tokens_run = self.tokens_saved = 0
        try:
            self.head = examine(self._model, student.name)
            self.why_padded = self._packs() or self._differs_when_long()
        except RuntimeError as error:
            if gpu_fault(error) != "memory":
                raise
            raise UserError(
                f"{student.name} leaves no memory on the device for even a short text; choose a smaller student."
            ) from error
        self.tokens_run = self.tokens_saved = 0  # the trial is no work
        how: Literal["packed", "padded", "alone"] = (
            "packed" if self.packed else "padded" if self.head.pads else "alone"
        )
        self.batches = Batching(how, budget, self.head.alone_beyond)
        """Which spans go through together: fewer at a time after memory ran out."""

    @property
    def packed(self) -> bool:
        """Whether spans share a row, and not each a padded one."""
        return not self.why_padded

    @property
    def longest(self) -> int | None:
        """Tokens that the model's table of positions holds; None where there is none."""
        return self.head.longest

    @property
    def batching(self) -> Literal["packed", "padded", "alone"]:
        """How spans go through the model together."""
        return self.batches.how

    def score(
        self,
        spans: Sequence[Span],
        should_stop: Callable[[], bool] = lambda: False,
        by_token: bool = False,
        embedded: Callable[[int, Embedded], None] | None = None,
    ) -> Iterator[tuple[int, SpanLoss]]:
        """Yield (index into ``spans``, loss) as they come, longest first; stops early when asked.

        A loss that is not finite has the reason ``non_finite``; a span that cannot run even alone has
        ``out_of_memory``.

        Args:
            spans: what is scored.
            should_stop: asked between passes.
            by_token: losses have each token's own, too; that costs no pass.
            embedded: gets the embeddings of a span, by its index, before its loss comes; that costs no pass either.
        """
        yield from self.score_in_order(
            spans, self.batches.order(spans), should_stop, by_token, embedded=embedded
        )

    def score_in_order(
        self,
        spans: Sequence[Span],
        passes: PassOrder,
        should_stop: Callable[[], bool] = lambda: False,
        by_token: bool = False,
        keep: bool = False,
        embedded: Callable[[int, Embedded], None] | None = None,
    ) -> Iterator[tuple[int, SpanLoss]]:
        """As ``score`` does, in an order that is given: a part of another's, with the beginnings that were shared there.

        Args:
            spans: to score.
            passes: of ``spans``, as :meth:`Batching.order` makes it.
            should_stop: asked between passes.
            by_token: give the tokens' own losses, too.
            keep: the beginnings for a next call, until one of ``forget_beginnings``.
            embedded: as for ``score``.
        """
        order, shared = passes.order, passes.shared
        self._chained = passes.chained
        waiting = Counter(spans[i].ids[: shared[i]] for i in order) if self._chained else Counter()
        begin, emptied = 0, False
        while begin < len(order) and not should_stop():
            sizes = [len(spans[i].ids) - shared[i] for i in order[begin:]]
            batch = self.batches.next_batch(sizes)
            chosen = order[begin : begin + batch]
            outcome = self._try_batch(
                [spans[i] for i in chosen], [shared[i] for i in chosen], by_token, embedded is not None
            )
            if outcome is None:
                held, emptied = bool(self._prefixes) and not emptied, True
                self._prefixes.clear()
                release(self._device)
                if batch > 1:
                    # Half of what was run. The beginnings were not, so they do not count.
                    self.batches = self.batches.halved(sizes[:batch])
                    continue
                if held:
                    continue  # without the other beginnings, it may fit
                outcome = [SpanLoss(None, spans[chosen[0]].target, reason="out_of_memory")], []
            losses, embeddings = outcome
            emptied = False
            for i, embedding in zip(chosen, embeddings, strict=False):
                if embedded is not None:
                    embedded(i, embedding)
            begin += batch
            self.tokens_run += sum(len(spans[i].ids) - shared[i] for i in chosen)
            self.tokens_saved += sum(shared[i] for i in chosen)
            yield from zip(chosen, losses, strict=True)
            for beginning in [spans[i].ids[: shared[i]] for i in chosen] if self._chained else ():
                waiting[beginning] -= 1
                if not waiting[beginning]:
                    self._prefixes.pop(beginning, None)
        if not keep:
            self.forget_beginnings()

    def forget_beginnings(self) -> None:
        """Free the keys and values of shared beginnings."""
        self._prefixes.clear()

    def embed(
        self, spans: Sequence[Span], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Embedded]]:
        """Yield (index into ``spans``, embeddings), longest first; stops early when asked. Raises UserError where a
        single span is too long for the device."""
        order = sorted(range(len(spans)), key=lambda i: -len(spans[i].ids))
        begin = 0
        while begin < len(order) and not should_stop():
            batch = self.batches.next_batch([len(spans[i].ids) for i in order[begin:]])
            chosen = order[begin : begin + batch]
            batch_spans = [spans[i] for i in chosen]
            try:
                embedded = self._embedded_alone(batch_spans)
            except RuntimeError as error:
                if gpu_fault(error) != "memory":
                    raise
                release(self._device)
                if batch == 1:
                    raise UserError("A text is too long for this device's memory to be embedded.") from error
                self.batches = self.batches.halved([len(s.ids) for s in batch_spans])
                continue
            begin += batch
            self.tokens_run += sum(len(s.ids) for s in batch_spans)
            yield from zip(chosen, embedded, strict=True)

    def _embedded_alone(self, spans: Sequence[Span]) -> list[Embedded]:
        """The embeddings of spans in one pass that is for them alone, without shared beginnings."""
        import torch

        shared = [0] * len(spans)
        with torch.inference_mode(), self._forgetting(spans):
            return self._embedded(spans, self._states(spans, shared), shared)

    def _states(self, spans: Sequence[Span], shared: Sequence[int]) -> list[Any]:
        """The last hidden states of each span, (tokens, width), from its ``shared`` one on."""
        if self.packed:
            hidden, starts = self._packed_pass(spans, shared)
            sizes = (len(s.ids) - cut for s, cut in zip(spans, shared, strict=True))
            return [hidden[0, start : start + size] for start, size in zip(starts, sizes, strict=True)]
        hidden = self._padded_pass(spans)
        return [hidden[n, : len(s.ids)] for n, s in enumerate(spans)]

    def _embedded(
        self, spans: Sequence[Span], states: Sequence[Any], shared: Sequence[int]
    ) -> list[Embedded]:
        """The embeddings of spans by their states, of which a shared beginning is summed up already."""
        import torch

        means = []
        for span, rest, cut in zip(spans, states, shared, strict=True):
            size, first = len(span.ids), len(span.ids) - span.target
            target = _weighted_sum(rest[first - cut :], first)
            whole = target + _weighted_sum(rest[: first - cut], cut)
            if cut:
                whole = whole + self._prefixes[span.ids[:cut]].states
            weight = size * (size + 1) / 2
            means.append(torch.stack([whole / weight, target / (weight - first * (first + 1) / 2)]))
        return [Embedded(*both) for both in np.asarray(torch.stack(means).cpu().numpy())]

    def _try_batch(
        self, spans: Sequence[Span], shared: Sequence[int], by_token: bool, embed: bool
    ) -> tuple[list[SpanLoss], list[Embedded]] | None:
        """None where memory ran out. The exception is gone by then: it would hold the tensors of the
        pass that failed, and the device could not have them back."""
        try:
            return self._batch(spans, shared, by_token, embed)
        except RuntimeError as error:
            if gpu_fault(error) != "memory":
                raise
            return None

    def _affordable(self) -> int:
        """Tokens of a pass, by what the device has free."""
        if self._device.type != "cuda":
            return scoring_tokens(1, 0, self._device.type)
        hidden = int(self._model.config.get_text_config().hidden_size)
        token = token_bytes(hidden, inner_width(self._model))
        return scoring_tokens(token, free_bytes(self._device), self._device.type)

    def _batch(
        self, spans: Sequence[Span], shared: Sequence[int], by_token: bool, embed: bool
    ) -> tuple[list[SpanLoss], list[Embedded]]:
        import torch

        rows = [n for n, s in enumerate(spans) for _ in range(s.target)]
        labels = [token for s in spans for token in s.ids[len(s.ids) - s.target :]]
        with torch.inference_mode(), self._forgetting(spans):
            states = self._states(spans, shared)
            # A token is predicted at the position before it.
            picked = torch.cat(
                [
                    rest[len(s.ids) - s.target - 1 - cut : len(s.ids) - 1 - cut]
                    for s, rest, cut in zip(spans, states, shared, strict=True)
                ]
            )
            embedded = self._embedded(spans, states, shared) if embed else []
            nll = self._nll(picked, torch.tensor(labels, device=self._device))
            sums = torch.zeros(len(spans), dtype=torch.float64)
            sums.index_add_(0, torch.tensor(rows), nll.double().cpu())
        token_nlls = nll.float().cpu().split([s.target for s in spans]) if by_token else [None] * len(spans)
        losses = [
            SpanLoss(total, span.target, span.truncated, by_token=None if nlls is None else nlls.numpy())
            if math.isfinite(total)
            else SpanLoss(None, span.target, span.truncated, "non_finite")
            for total, span, nlls in zip(sums.tolist(), spans, token_nlls, strict=True)
        ]
        return losses, embedded

    @contextmanager
    def _forgetting(self, spans: Sequence[Span]) -> Iterator[None]:
        try:
            yield
        finally:
            self.head.forget(max(len(s.ids) for s in spans))

    def _packed_pass(self, spans: Sequence[Span], shared: Sequence[int]) -> tuple[Any, list[int]]:
        """Hidden states (1, tokens, width) of the spans end to end, and where each begins."""
        prefixes = [self._prefix(s.ids[:cut]) if cut else None for s, cut in zip(spans, shared, strict=True)]
        ids = [token for s, cut in zip(spans, shared, strict=True) for token in s.ids[cut:]]
        lengths = [len(s.ids) - cut for s, cut in zip(spans, shared, strict=True)]
        positions = [p for s, cut in zip(spans, shared, strict=True) for p in range(cut, len(s.ids))]
        starts = [0, *accumulate(lengths)][:-1]
        return self._row(ids, positions, Packing(lengths, prefixes)), starts

    def _prefix(self, ids: tuple[int, ...]) -> Prefix:
        """The keys and values of a shared beginning, made by one pass over it alone."""
        prefix = self._prefixes.get(ids)
        if prefix is None:
            prefix = Prefix(ids)
            begun = (
                max((p for p in self._prefixes if ids[: len(p)] == p), key=len, default=())
                if self._chained
                else ()
            )
            reused, new = len(begun), len(ids) - len(begun)
            packing = Packing([new], [self._prefixes[begun] if reused else None], record=prefix)
            hidden = self._row(list(ids[reused:]), list(range(reused, len(ids))), packing)
            before = self._prefixes[begun].states if reused else 0
            prefix.states = before + _weighted_sum(hidden[0], reused)
            self._prefixes[ids] = prefix  # only now: the pass may have run out of memory
            self.tokens_run += new
            self.tokens_saved -= new
        return prefix

    def _row(self, ids: Sequence[int], positions: Sequence[int], packing: Packing) -> Any:
        import torch

        with packed_attention(self._model):
            return self.head.body(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=torch.tensor([positions], device=self._device),
                use_cache=False,
                packing=packing,
            ).last_hidden_state

    def _padded_pass(self, spans: Sequence[Span]) -> Any:
        """Hidden states (spans, longest, width)."""
        import torch

        width = max(len(s.ids) for s in spans)
        ids = torch.zeros(len(spans), width, dtype=torch.long)
        mask = torch.zeros(len(spans), width, dtype=torch.long)
        for n, span in enumerate(spans):
            ids[n, : len(span.ids)] = torch.tensor(span.ids)
            mask[n, : len(span.ids)] = 1
        padded = bool((mask == 0).any())
        return self.head.body(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device) if padded else None,
            use_cache=False,
        ).last_hidden_state

    def _packs(self) -> str:
        """Why this student's attention cannot be cut into sequences; "" where it can. Tried on two short
        ones with a shared beginning, against the same ones padded: in float32, so that what differs is
        the method and not the rounding of the type that the student computes in."""
        import torch

        last = min(1000, self.head.vocabulary) - 1
        start = tuple(last - n % last for n in range(8))
        two = [Span((*start, *(n % last for n in range(7, 7 + size))), 2) for size in (3, 6)]
        try:
            with torch.inference_mode(), in_float32(self._model):
                padded = self._padded_pass(two)
                packed, starts = self._packed_pass(two, [len(start)] * 2)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, IndexError) as error:
            if gpu_fault(error):
                raise
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"its code does not take packed sequences ({first_line})"
        finally:
            self._prefixes.clear()
        for n, span in enumerate(two):
            size = len(span.ids) - len(start)
            alone, other = padded[n, len(start) : len(start) + size], packed[0, starts[n] : starts[n] + size]
            off = float((alone - other).abs().amax() / alone.abs().amax())
            if not off <= _PACKED_AS_PADDED:
                return f"packed, its hidden states are off by {off:.1e} of the largest"
        return ""

    def _differs_when_long(self) -> str:
        """Why long sequences cannot be packed though short ones can; "" where they can."""
        import torch

        config = self._model.config.get_text_config()
        longest = int(getattr(config, "max_position_embeddings", None) or _LONG)
        try:
            with torch.inference_mode():
                differ = long_patterns_differ(self._model, self.head.body, min(longest, _LONG))
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, IndexError) as error:
            if gpu_fault(error):
                raise
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"what its attention sees of a long text cannot be asked ({first_line})"
        return "its attention sees a long text in a pattern of its own" if differ else ""

    def _nll(self, hidden: Any, labels: Any) -> Any:
        """Negative log-likelihood of each label, (n,) float32, from hidden states (n, width)."""
        import torch

        step = max(1, min(_HEAD_ROWS, _HEAD_BYTES // (4 * self.head.vocabulary)))
        parts = []
        for start in range(0, len(labels), step):
            logits = self.head.logits(hidden[start : start + step])
            chosen = logits.gather(1, labels[start : start + step, None])[:, 0]
            parts.append(torch.logsumexp(logits, dim=1) - chosen)
        return torch.cat(parts)


def _weighted_sum(states: Any, first: int) -> Any:
    """The sum of hidden states, (n, width), of the positions from ``first`` on, the i-th of all taken i times."""
    import torch

    weights = torch.arange(first + 1, first + 1 + len(states), device=states.device, dtype=torch.float32)
    return weights @ states.float()


def open_scorer(student: Student, batch_tokens: int | Literal["auto"] = "auto") -> Any:
    """What scores spans with this student: a GGUF runs in llama.cpp, everything else in torch."""
    if student.quantization == "gguf":
        from srtui.student.gguf_scorer import GgufScorer

        return GgufScorer(student, batch_tokens)
    return Scorer(student, batch_tokens)
