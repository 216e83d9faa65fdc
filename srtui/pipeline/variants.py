"""A student that brings the missing scores of variants into the store, each distinct span once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from srtui.errors import UserError
from srtui.hashing import key
from srtui.measures import MEASURES, Metric, SpanLoss
from srtui.prompts import PromptSet, template
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.corpus import Variant, batched
from srtui.store.scores import StoredScore
from srtui.student.model import Quantization, Student
from srtui.student.scorer import Embedded, open_scorer
from srtui.student.span_builder import SpanBuilder
from srtui.student.spans import Invalid, Span

# By variant: the conditional and the unconditional span, each with its key; or why there are none.
_Cut = dict[int, "tuple[tuple[bytes, Span], ...] | Invalid"]
PairLosses = tuple[SpanLoss, SpanLoss]
"""The conditional and the unconditional loss of a text."""
_BLOCK = 512  # variants cut into tokens together
_NO_EMBEDDINGS = "A GGUF student has no embeddings here; name a folder of safetensors as the student."


class VariantScorer:
    """One way of scoring: a loaded student, a prompt template, a protocol and a length.

    ``setting_id`` is its row in the store. ``tokens_run`` counts tokens that went through the
    student; ``tokens_saved`` those that did not have to, by cause: ``shared`` (a span that is stored,
    or that another variant has too) and ``prefix`` (a beginning that many spans have).
    """

    def __init__(
        self,
        store: Store,
        path: Path,
        quantization: Quantization,
        *,
        name: str,
        template_name: str,
        protocol: Literal["default", "paper"] = "default",
        max_length: int = 2048,
        batch_tokens: int | Literal["auto"] = "auto",
        student: Student | None = None,
        prompts: PromptSet | None = None,
        scorer: Any = None,
        blocks: int = 1,
        histories: bool = False,
        embeds: bool = False,
    ) -> None:
        """``student``, where it is given, is the one at ``path``, loaded already, and ``scorer`` what runs its spans.
        ``prompts`` is the recipe's prompts file. ``blocks``: how many times what one device reads between two looks
        at the store is read. ``histories``: whether texts may have one. With ``embeds`` texts get their embeddings in
        the pass that scores their IFD."""
        self.student = student or Student.load(path, quantization)
        words = template(template_name, self.student.tokenizer, prompts)
        self._block = _BLOCK * blocks
        self._scorer = scorer or open_scorer(self.student, batch_tokens)
        self.longest: int | None = self._scorer.longest
        """Tokens that the student has positions for, where it has a table of them: no text is longer."""
        self.spans = SpanBuilder(
            self.student.tokenizer, words, protocol, min(max_length, self.longest or max_length)
        )
        self._store, self._protocol = store, protocol
        self._embeds = embeds and quantization != "gguf"
        self._shared = 0
        self._tokenizing = ThreadPoolExecutor(1, "srtui-tokenizer")
        self._expected: tuple[list[int], Metric, Future[_Cut]] | None = None
        self.setting_id = store.scores.setting(
            name,
            self.student.id,
            quantization,
            template_name,
            protocol,
            max_length,
            words.version,
            words.chat.date if words.chat else None,
            self.spans.histories if histories else None,
        )

    def close(self) -> None:
        """Free the student's memory."""
        self._tokenizing.shutdown(cancel_futures=True)
        self.student.close()

    @property
    def protocol(self) -> Literal["default", "paper"]:
        """How texts are cut into tokens (docs/method.md)."""
        return self._protocol

    @property
    def tokens_run(self) -> int:
        """Tokens that went through the student."""
        return int(self._scorer.tokens_run)

    @property
    def tokens_saved(self) -> dict[str, int]:
        """Tokens that did not have to, by cause: ``shared`` and ``prefix``."""
        return {"shared": self._shared, "prefix": int(self._scorer.tokens_saved)}

    @property
    def why_padded(self) -> str:
        """Why the student's spans are padded and not packed; "" where they are packed."""
        return str(self._scorer.why_padded)

    def scores(
        self, variant_ids: Iterable[int], metric: Metric
    ) -> dict[int, tuple[float | None, str | None]]:
        """(score, reason for none) of the variants that have been scored; ``metric`` names a measure that is stored."""
        return self._store.scores.of_variants(variant_ids, self.setting_id, metric)

    def score(
        self, variant_ids: Iterable[int], metric: Metric, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, float]]:
        """Store the missing scores of these variants; yields, as it goes, the tokens run since the last
        time and the share of this call's tokens that are done.

        Losses are stored every second or so, so a kill loses little; when asked to stop, scores
        that are not complete are left for the next time.
        """
        requested = list(dict.fromkeys(variant_ids))
        stored = self.scores(requested, metric)
        blocks = list(batched((v for v in requested if v not in stored), self._block))
        following = self._cut_ahead(blocks[0], metric) if blocks else None
        for n, _ in enumerate(blocks):
            assert following is not None  # noqa: S101 - one is cut for every block
            pairs = following.result()
            # The next block's texts are cut into tokens while the student reads this one's.
            following = self._cut_ahead(blocks[n + 1], metric) if n + 1 < len(blocks) else None
            for tokens, share in self._score_block(pairs, metric, should_stop):
                yield tokens, (n + share) / len(blocks)
            if should_stop():
                return

    def expect(self, variant_ids: Iterable[int], metric: Metric) -> None:
        """Begin to cut into tokens what ``score`` will be asked for next, while what is in hand is decided."""
        requested = list(dict.fromkeys(variant_ids))
        stored = self.scores(requested, metric)
        block = next(batched((v for v in requested if v not in stored), self._block), [])
        if block:
            self._expected = block, metric, self._cut_ahead(block, metric)

    def _cut_ahead(self, block: list[int], metric: Metric) -> Future[_Cut]:
        """The spans of a block of variants, by the tokenizer's thread; those that were expected are begun already."""
        expected, self._expected = self._expected, None
        if expected is not None and expected[:2] == (block, metric):
            return expected[2]
        return self._tokenizing.submit(self._cut, self._variants(block), metric)

    def _variants(self, ids: Iterable[int]) -> list[Variant]:
        return list(self._store.corpus.variants(ids).values())

    def _cut(self, variants: list[Variant], metric: Metric) -> _Cut:
        spans = self._spans_of([v.pair for v in variants], metric)
        return {v.id: both_spans for v, both_spans in zip(variants, spans, strict=True)}

    def _score_block(
        self, pairs: _Cut, metric: Metric, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[int, float]]:
        keyed: dict[bytes, Span] = {}
        for address, span in (ks for pair in pairs.values() if not isinstance(pair, Invalid) for ks in pair):
            self._shared += len(span.ids) * (address in keyed)
            keyed[address] = span
        embedded = self._embedding(pairs) if self._embeds and metric == "ifd" else None
        losses = yield from self._losses(keyed, should_stop, embedded=embedded)
        self._store.scores.add(
            self.setting_id,
            [
                s
                for i, pair in pairs.items()
                if (s := self._stored_score(i, metric, pair, losses)) is not None
            ],
        )

    def embed(
        self, variant_ids: Iterable[int], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[float]:
        """Store the missing embeddings of these variants, each of the span that IFD scores as the response after its
        prompt; yields the share that is done. What has no span has no embedding. Raises UserError for a GGUF."""
        if self.student.quantization == "gguf":
            raise UserError(_NO_EMBEDDINGS)
        missing = self._store.embeddings.missing(variant_ids, self.setting_id)
        for n, block in enumerate(batched(missing, _BLOCK)):
            cut = {v.id: self.spans.forward(v.pair)[0] for v in self._variants(block)}
            spans = {i: span for i, span in cut.items() if not isinstance(span, Invalid)}
            ids = list(spans)
            embedded = self._scorer.embed(list(spans.values()), should_stop)
            self._store.embeddings.add(
                self.setting_id, [(ids[position], vectors.whole) for position, vectors in embedded]
            )
            yield min(1.0, (n + 1) * _BLOCK / len(missing))
            if should_stop():
                return

    def embed_texts(
        self, texts: Sequence[str], should_stop: Callable[[], bool] = lambda: False
    ) -> list[NDArray[np.float16] | None]:
        """The embedding of each text by itself, from the store or else made and stored; None where there is nothing to
        embed, and for what a stop left open. Raises UserError for a GGUF."""
        if self.student.quantization == "gguf":
            raise UserError(_NO_EMBEDDINGS)
        spans: dict[bytes, Span] = {}
        key_of: dict[str, bytes] = {}
        for text in texts:
            span = self.spans.alone(text)
            if not isinstance(span, Invalid):
                key_of[text] = key("embedding", student=self.student.losses_id, span=span.digest)
                spans[key_of[text]] = span
        known = self._store.embeddings.texts(spans)
        for block in batched([k for k in spans if k not in known], _BLOCK):
            embedded = self._scorer.embed([spans[k] for k in block], should_stop)
            self._store.embeddings.add_texts((block[n], vectors.target) for n, vectors in embedded)
            if should_stop():
                break
        known = self._store.embeddings.texts(spans)  # as they are stored, whether they are new or not
        return [known.get(key_of[text]) if text in key_of else None for text in texts]

    def _embedding(self, pairs: _Cut) -> Callable[[Mapping[bytes, Embedded]], None]:
        """What stores the embeddings of these variants, as :meth:`embed` does, when their conditional span has run."""
        variants: dict[bytes, list[int]] = {}
        for variant_id, pair in pairs.items():
            if not isinstance(pair, Invalid):
                variants.setdefault(pair[0][0], []).append(variant_id)

        def store(embeddings: Mapping[bytes, Embedded]) -> None:
            self._store.embeddings.add(
                self.setting_id,
                [(v, embeddings[key].whole) for key in embeddings for v in variants.get(key, ())],
            )

        return store

    def conditional(
        self, variant_ids: Iterable[int], should_stop: Callable[[], bool] = lambda: False
    ) -> dict[int, float]:
        """L(y|x) of these variants, mean NLL in nats a token, where there is one; stored like all losses."""
        keyed: dict[bytes, Span] = {}
        key_of: dict[int, bytes] = {}
        for variant_id, variant in self._store.corpus.variants(variant_ids).items():
            span = self.spans.forward(variant.pair)[0]
            if not isinstance(span, Invalid):
                key_of[variant_id] = span.key(self.student.losses_id, self._protocol)
                keyed[key_of[variant_id]] = span
        for _ in self._losses(keyed, should_stop):
            pass
        stored = self._store.scores.losses(keyed)
        losses = {i: stored[key] for i, key in key_of.items() if key in stored}
        return {i: loss.mean for i, loss in losses.items() if loss.reason is None}

    def pair_losses(
        self,
        pairs: Sequence[Pair],
        metric: Metric,
        should_stop: Callable[[], bool] = lambda: False,
        by_token: bool = False,
    ) -> Generator[tuple[int, float], None, list[PairLosses]]:
        """Both losses of texts that are no variants, stored as all losses are; yields as ``score`` does.

        Args:
            pairs: the texts.
            metric: ``ifd`` for L(y|x) and L(y), ``rifd`` for L(x|y) and L(x).
            should_stop: asked between passes; when it says so, what is not computed has the reason ``stopped``.
            by_token: give the tokens' own losses, too.

        Returns:
            (conditional, unconditional) of each pair, in order.
        """
        cut = self._spans_of(pairs, metric)
        keyed = {key: span for spans in cut if not isinstance(spans, Invalid) for key, span in spans}
        losses = yield from self._losses(keyed, should_stop, by_token)
        token_losses = self._store.scores.token_losses(keyed) if by_token else {}

        def loss(key: bytes) -> SpanLoss:
            stored = losses.get(key)
            if stored is None:
                return SpanLoss(None, 0, reason="stopped")
            return replace(stored, by_token=token_losses.get(key))

        pair_losses: list[PairLosses] = []
        for spans in cut:
            if isinstance(spans, Invalid):
                nothing = SpanLoss(None, 0, reason=spans.reason)
                pair_losses.append((nothing, nothing))
            else:
                (conditional, _), (unconditional, _) = spans
                pair_losses.append((loss(conditional), loss(unconditional)))
        return pair_losses

    def span_losses(
        self, spans: Sequence[Span], should_stop: Callable[[], bool] = lambda: False
    ) -> list[SpanLoss]:
        """The loss of each of these spans, stored like all losses; one that a stop left open has the reason
        ``stopped``."""
        keys = [span.key(self.student.losses_id, self._protocol) for span in spans]
        for _ in self._losses(dict(zip(keys, spans, strict=True)), should_stop):
            pass
        stored = self._store.scores.losses(keys)
        return [
            stored.get(key) or SpanLoss(None, span.target, reason="stopped")
            for key, span in zip(keys, spans, strict=True)
        ]

    def _losses(
        self,
        keyed: dict[bytes, Span],
        should_stop: Callable[[], bool],
        by_token: bool = False,
        embedded: Callable[[Mapping[bytes, Embedded]], None] | None = None,
    ) -> Generator[tuple[int, float], None, dict[bytes, SpanLoss]]:
        """The losses of these spans, from the store or else computed and stored; yields as ``score`` does.

        Args:
            keyed: the spans, by the keys of their losses.
            should_stop: asked between passes.
            by_token: run again what is stored without its tokens' own losses.
            embedded: gets the embeddings of what is run, before its losses are stored.
        """
        stored = self._store.scores.losses(keyed) | self._stored_before(keyed)
        lacking: set[bytes] = set()
        if by_token:
            with_tokens = self._store.scores.token_losses(keyed)
            lacking = {k for k, loss in stored.items() if loss.reason is None and k not in with_tokens}
        unscored = [(k, span) for k, span in keyed.items() if k not in stored or k in lacking]
        self._shared += sum(len(span.ids) for k, span in keyed.items() if k in stored.keys() - lacking)
        computed: dict[bytes, SpanLoss] = {}
        vectors: dict[bytes, Embedded] = {}

        def note(index: int, embedding: Embedded) -> None:
            vectors[unscored[index][0]] = embedding

        def keep(losses: dict[bytes, SpanLoss]) -> None:
            if embedded is not None:
                embedded(vectors)
                vectors.clear()
            stored.update(self._stored(losses))

        stored_at = time.monotonic()
        before, scored = self._scorer.tokens_run, 0
        whole = sum(len(span.ids) for _, span in unscored)
        spans = [span for _, span in unscored]
        for index, loss in self._scorer.score(spans, should_stop, by_token, note if embedded else None):
            computed[unscored[index][0]] = loss
            scored += len(unscored[index][1].ids)
            if self._scorer.tokens_run > before:
                yield self._scorer.tokens_run - before, scored / whole
                before = self._scorer.tokens_run
            if time.monotonic() - stored_at > 1.0:
                keep(computed)
                computed, stored_at = {}, time.monotonic()
        keep(computed)
        return stored

    def _stored(self, computed: dict[bytes, SpanLoss]) -> dict[bytes, SpanLoss]:
        """Store these losses; what they are in the store. Another engine may have computed one in the meantime,
        beside other texts and with another last digit, and scores are of the losses that are stored."""
        if self._store.scores.add_losses(computed):
            return computed
        return self._store.scores.losses(computed)

    def _stored_before(self, keyed: dict[bytes, Span]) -> dict[bytes, SpanLoss]:
        """Losses that an earlier srtui stored under keys of the first scheme; stored under these, too."""
        identity = self.student.first_losses_id
        if identity is None or not self._store.scores.has_first_losses():
            return {}
        first = {span.first_key(identity): key for key, span in keyed.items()}
        by_key = {first[key]: loss for key, loss in self._store.scores.losses(first).items()}
        return self._stored(by_key)

    def _spans_of(
        self, pairs: Sequence[Pair], metric: Metric
    ) -> list[tuple[tuple[bytes, Span], ...] | Invalid]:
        """Of each text the conditional and the unconditional span, each with its key; or why there are none."""
        forward = MEASURES[metric].losses == ("forward",)
        direction: Literal["forward", "reverse"] = "forward" if forward else "reverse"
        return [self._keyed(spans) for spans in self.spans.of_all(pairs, direction)]

    def _keyed(
        self, spans: tuple[Span | Invalid, Span | Invalid]
    ) -> tuple[tuple[bytes, Span], ...] | Invalid:
        keyed: list[tuple[bytes, Span]] = []
        for span in spans:
            if isinstance(span, Invalid):
                return span
            keyed.append((span.key(self.student.losses_id, self._protocol), span))
        return tuple(keyed)

    @staticmethod
    def _stored_score(
        variant_id: int,
        metric: Metric,
        pair: tuple[tuple[bytes, Span], ...] | Invalid,
        losses: dict[bytes, SpanLoss],
    ) -> StoredScore | None:
        if isinstance(pair, Invalid):
            return StoredScore(variant_id, metric, None, None, None, pair.reason)
        keys = [key for key, _ in pair]
        if not all(key in losses for key in keys):
            return None
        value, reason = MEASURES[metric].value(*(losses[key] for key in keys))
        return StoredScore(variant_id, metric, keys[0], keys[1], value, reason)
