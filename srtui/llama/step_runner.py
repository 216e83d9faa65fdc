"""The scheduler's steps, carried out: cells copied, batches decoded, tokens drawn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from srtui.errors import UserError
from srtui.llama import Generation
from srtui.llama.drafting import Drafter
from srtui.llama.gguf import LlamaVocabulary
from srtui.llama.llama_context import LlamaContext
from srtui.llama.sampling import TokenSampler
from srtui.llama.scheduler import Admission, Batch, Move, Scheduler, even_chunk
from srtui.llama.sequence import AnswerSequence


class StepRunner:
    """Runs the sequences of one scheduler, and keeps how far each is. It counts tokens, steps and seconds of decodes."""

    def __init__(
        self, name: str, vocabulary: LlamaVocabulary, scheduler: Scheduler, drafter: Drafter | None
    ) -> None:
        """Takes hold of nothing yet.

        Args:
            name: of the model, for sentences.
            vocabulary: of the model.
            scheduler: says what is decoded next, and hears what came of it.
            drafter: the scheduler's; None where no tokens are guessed.
        """
        self._name, self._vocabulary, self._scheduler, self._drafter = name, vocabulary, scheduler, drafter
        self._samplers: dict[AnswerSequence, TokenSampler] = {}  # of those that have begun
        self._began: dict[AnswerSequence, float] = {}
        self.prompt_tokens = self.saved_tokens = self.new_tokens = 0
        self.steps = 0
        self.decode_seconds = 0.0

    def evaluate_prefix(self, context: LlamaContext) -> None:
        """Run what all prompts begin with, once, in the sequence behind the slots."""
        prefix, start = self._scheduler.prefix, 0
        while start < len(prefix):
            size = even_chunk(len(prefix) - start, context.batch_tokens)
            for i in range(size):
                context.put(i, prefix[start + i], start + i, context.slots, wants_logits=False)
            self.decode(context, size)
            self.prompt_tokens += size
            start += size

    def apply(self, context: LlamaContext, action: Admission | Move) -> None:
        """Copy cells to a slot, and begin what enters it."""
        if action.source not in (None, action.slot):
            context.copy(action.source, action.slot)
        if isinstance(action, Move):
            context.cut(action.source, 0)
            return
        sequence = action.sequence
        if sequence not in self._samplers:
            self._began[sequence] = time.perf_counter()
            sampler = self._samplers[sequence] = TokenSampler(
                self._vocabulary.pointer, self._vocabulary.size, sequence.request.sampler, sequence.seed
            )
            sampler.use_grammar(sequence.grammar)
        if action.source is not None:
            sequence.cached = context.cut(action.slot, action.shared)
            self.saved_tokens += sequence.cached

    def step(self, context: LlamaContext) -> Iterator[Generation]:
        """Take one step; what it finishes."""
        self.steps += 1
        for batch in self._scheduler.step():
            yield from self._evaluate(context, batch)

    def _evaluate(self, context: LlamaContext, batch: Batch) -> Iterator[Generation]:
        """One ``llama_decode``, and what follows from it."""
        size, asked, more = 0, [], batch.drafted
        for n, (sequence, count) in enumerate(batch.fed):
            start, slot = sequence.cached, sequence.slot
            whole = count == sequence.left
            for position in range(start, start + count):
                context.put(size, sequence.tokens[position], position, slot, wants_logits=False)
                size += 1
            draft = batch.drafts[n] if batch.drafts else ()
            if whole:
                context.ask(size - 1)
                asked.append((sequence, size - 1, draft))
            for place, token in enumerate(draft or [0] * more, start + count):
                context.put(size, token, place, slot, wants_logits=bool(draft))
                size += 1
        for slot, end in batch.idle:
            for position in range(end, end + 1 + more):
                context.put(size, 0, position, slot, wants_logits=False)
                size += 1
        fits = self.decode(context, size, wait=bool(asked))
        for slot, end in batch.idle:
            self._take_back(context, slot, end)
        if not fits:
            yield from self._make_room(context, batch.longest)
            return
        for sequence, count in batch.fed:
            if sequence.new_tokens == 0 or count > 1:
                self.prompt_tokens += count
            sequence.cached += count
        for sequence, index, draft in asked:
            self._advance(context, sequence, index, draft, more)
            if sequence.finished:
                following = self._scheduler.hand_over(sequence)
                if following is None:
                    self._free(context, sequence)
                else:
                    self.apply(context, following)
                yield self._finish(sequence)

    def _advance(
        self, context: LlamaContext, sequence: AnswerSequence, index: int, draft: Sequence[int], more: int
    ) -> None:
        """Draw the next tokens of a sequence: one, and another for each token of its draft that was drawn.

        Args:
            context: that was decoded.
            sequence: whose tokens, but for the draft, are counted as cached.
            index: the row of its last one; those of the draft stand behind it.
            draft: the guesses.
            more: how many tokens stand in the cache behind those that are counted.
        """
        segment, accepted, intact = sequence.segment, 0, self._draw(context, sequence, index)
        for guess in draft:
            # What was drawn, and no lead or mark behind it, has to be the very token that is in the cache.
            if not intact or sequence.left != 1 or sequence.tokens[sequence.cached] != guess:
                break
            accepted += 1
            sequence.cached += 1
            intact = self._draw(context, sequence, index + accepted)
        if draft and self._drafter is not None:
            self._drafter.note(segment, len(draft), accepted)
        if more > accepted and intact:
            self._take_back(context, sequence.slot, sequence.cached)

    def _draw(self, context: LlamaContext, sequence: AnswerSequence, index: int) -> bool:
        """Draw the next token of a sequence, and keep cache and grammar as that leaves it; False where it is
        finished, or its end was cut off."""
        sampler, segment = self._samplers[sequence], sequence.segment
        self.new_tokens += 1
        kept = sequence.append(sampler.draw(context.pointer, index))
        was_cut = kept < sequence.cached
        if was_cut:
            sequence.cached = context.cut(sequence.slot, kept)
        if sequence.segment != segment:
            sampler.use_grammar(sequence.grammar)
        return not (was_cut or sequence.finished)

    def _take_back(self, context: LlamaContext, slot: int, length: int) -> None:
        """Take idle tokens, and guesses that did not hold, out of the cache."""
        if context.cut(slot, length) != length:
            raise UserError(f"{self._name}: llama.cpp could not take a token back; update it.")

    def _make_room(self, context: LlamaContext, sequence: AnswerSequence) -> Iterator[Generation]:
        """llama.cpp found no KV slot: the longest sequence is set back, and tried again alone."""
        self._free(context, sequence)
        if not self._scheduler.set_back(sequence):
            self._forget(sequence)
            yield sequence.refusal(context.cells)

    def _finish(self, sequence: AnswerSequence) -> Generation:
        seconds = time.perf_counter() - self._began[sequence]
        self._forget(sequence)
        return sequence.generation(seconds)

    def _free(self, context: LlamaContext, sequence: AnswerSequence) -> None:
        context.cut(sequence.slot, 0)
        self._scheduler.release(sequence)

    def _forget(self, sequence: AnswerSequence) -> None:
        self._samplers.pop(sequence).close()
        del self._began[sequence]
        if self._drafter is not None:
            self._drafter.forget(sequence)

    def drop_all(self) -> None:
        """Forget all sequences, finished or not."""
        for sequence in list(self._samplers):
            self._forget(sequence)

    def decode(self, context: LlamaContext, size: int, *, wait: bool = False) -> bool:
        """Decode the batch of ``size`` tokens; False where the cache has no room for it."""
        began = time.perf_counter()
        fits = context.decode(size, wait=wait)
        self.decode_seconds += time.perf_counter() - began
        return fits
