"""Spans: the token ids of a target with or without its context.

Default protocol. The whole text (prompt, target, end of turn) is tokenised once, with offsets; the
target is the tokens from its first character on, and the unconditional pass scores the very same token
ids. Where a token would hold the end of the prompt and the beginning of the target, prompt and target
are tokenised apart, as they are when the student writes: nothing of a target is lost to its prompt. The
unconditional pass begins from the beginning-of-text token, or, where the tokenizer has none, from the
end-of-text token, so that the first target token is predicted too.

Paper protocol, as the released scripts do: prompt and target encoded as one string; the target
begins at the length of the prompt encoded alone; unconditional passes without the prompt (so that
without a beginning-of-text token the first token is not predicted); truncation at max_length, and
for the unconditional pass at max_length - prompt + 1.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from srtui.hashing import Keys, digest, scheme_1
from srtui.prompts import PromptTemplate
from srtui.prompts.answer_place import Piece
from srtui.sample import Pair
from srtui.student.tokens import Cutter


@lru_cache(16)
def loss_keys(student_id: str) -> Keys:
    """The keys of a student's losses, by the address of the ids and the number of those that are the target."""
    return Keys("loss", ("ids", "target"), student=student_id)


@dataclass(frozen=True)
class Span:
    """Token ``ids`` whose last ``target`` ones are scored, or trained on; ``truncated`` where max_length
    cut some."""

    ids: tuple[int, ...]
    target: int
    truncated: bool = False

    def key(self, student_id: str, protocol: str) -> bytes:
        """Address of this loss in the store. The ids decide it, so a response that occurs in three
        variants is scored once, and both protocols share what is equal in both."""
        return loss_keys(student_id).key(digest(self._bytes()), self.target)

    @property
    def digest(self) -> bytes:
        """16-byte content address, by which a training knows its samples again."""
        return digest(self._bytes(), self.target)

    def ended(self, end_of_turn: Sequence[int], max_length: int) -> Span:
        """What is trained of a scored span: its tokens, and behind them the end of the turn, from which a
        student learns to stop. A protocol may score without it; one that scores it has it already.

        An answer that was cut at ``max_length`` gets no end, since it does not end there; one that leaves
        no room for its end counts as cut.
        """
        end = tuple(end_of_turn)
        if self.truncated or self.ids[-len(end) :] == end:
            return self
        if len(self.ids) + len(end) > max_length:
            return Span(self.ids, self.target, truncated=True)
        return Span((*self.ids, *end), self.target + len(end))

    def _bytes(self) -> bytes:
        """The ids, 32 bits each, the lowest byte first on every machine."""
        ids = array("i", self.ids)
        if sys.byteorder == "big":
            ids.byteswap()
        return ids.tobytes()

    def first_key(self, student_id: str) -> bytes:
        """The key that this loss has where it was stored before keys had a scheme."""
        return scheme_1(student_id, array("i", self.ids).tobytes(), self.target)


@dataclass(frozen=True)
class Invalid:
    """Why a target cannot be scored."""

    reason: str


SpanPair = tuple[Span | Invalid, Span | Invalid]
_Text = tuple[Sequence[Piece], str]  # what stands before a target, and the target


class SpanBuilder:
    """Makes the spans of a pair for one student, template and protocol.

    ``tokenizer`` is a Hugging Face fast tokenizer. What a dataset's text spells never becomes a
    special token (srtui.student.tokens).
    """

    def __init__(
        self,
        tokenizer: Any,
        template: PromptTemplate,
        protocol: Literal["default", "paper"] = "default",
        max_length: int = 2048,
    ) -> None:
        self._tokenizer, self._template, self._protocol, self._max = tokenizer, template, protocol, max_length
        self._cutter = Cutter(tokenizer, template.chat)
        self._bos = self._beginning()
        # Where there is no beginning-of-text token, the unconditional pass starts from end-of-text.
        self._start = self._bos or [int(tokenizer.eos_token_id)]
        self._end = self._end_of_turn()

    def forward(self, pair: Pair) -> SpanPair:
        """The spans of L(y|x) and L(y)."""
        return self.forward_all([pair])[0]

    def reverse(self, pair: Pair) -> SpanPair:
        """The spans of L(x|y) and L(x); x has no end of turn, for nobody trains on it."""
        return self.reverse_all([pair])[0]

    def forward_all(self, pairs: Sequence[Pair]) -> list[SpanPair]:
        """:meth:`forward` of each: together they take less time, and the tokenizer holds no other thread up."""
        return self._all_spans([self._forward_text(pair) for pair in pairs], self._end)

    def reverse_all(self, pairs: Sequence[Pair]) -> list[SpanPair]:
        """:meth:`reverse` of each, as :meth:`forward_all` does it."""
        return self._all_spans([self._reverse_text(pair) for pair in pairs], [])

    def _forward_text(self, pair: Pair) -> _Text | Invalid:
        if not pair.response.strip():
            return Invalid("empty_response")
        return self._template.forward_pieces(pair.instruction, pair.input), pair.response

    def _reverse_text(self, pair: Pair) -> _Text | Invalid:
        target = self._template.reverse_target(pair.instruction, pair.input)
        if target is None:
            target = (
                pair.instruction + pair.input
                if self._protocol == "paper"
                else self._template.target_of(pair.instruction, pair.input)
            )
        if not target.strip():
            return Invalid("empty_instruction")
        if not pair.response.strip():
            return Invalid("empty_response")
        return self._template.reverse_pieces(pair.response), target

    def _all_spans(self, texts: Sequence[_Text | Invalid], end: list[int]) -> list[SpanPair]:
        prefix = self._template.answer_prefix
        whole = [(text[0], prefix + text[1]) for text in texts if not isinstance(text, Invalid)]
        made = iter(
            [self._paper_spans(*text) for text in whole]
            if self._protocol == "paper"
            else [self._spans(ids, start, end) for ids, start in self._cutter.cut_all(whole)]
        )
        return [(text, text) if isinstance(text, Invalid) else next(made) for text in texts]

    def _spans(self, whole: list[int], start: int, end: list[int]) -> SpanPair:
        ids = [*self._opening(whole), *whole, *end]
        first = len(ids) - len(whole) - len(end) + start
        kept = ids[: self._max]
        truncated = len(kept) < len(ids)
        count = len(kept) - first
        if len(ids) - len(end) - first <= 0:
            nothing = Invalid("empty_target")
            return nothing, nothing
        if count <= 0:
            return Invalid("target_truncated"), Invalid("target_truncated")
        if first == 0:  # nothing before the target: give it something to be predicted from
            kept = [*self._start, *kept]
        return (
            Span(tuple(kept), count, truncated),
            Span((*self._start, *kept[len(kept) - count :]), count, truncated),
        )

    def _paper_spans(self, prompt: Sequence[Piece], target: str) -> SpanPair:
        whole = self._cutter.whole([*prompt, (target, True)])
        before = self._cutter.whole(prompt)
        alone = self._cutter.data(target)
        whole, before, alone = [*self._bos, *whole], [*self._bos, *before], [*self._bos, *alone]
        conditional, unconditional = whole[: self._max], alone[: max(self._max - len(before) + 1, 0)]
        # The first token of all is never predicted, with or without a beginning-of-text token.
        count = min(len(conditional) - len(before), len(conditional) - 1)
        alone_count = len(unconditional) - 1
        why = Invalid("target_truncated" if len(whole) > len(before) and len(alone) > 1 else "empty_target")
        # An answer of one token has no L(y) here, and so no score; it can be trained all the same.
        return (
            Span(tuple(conditional), count, len(conditional) < len(whole)) if count > 0 else why,
            Span(tuple(unconditional), alone_count, len(unconditional) < len(alone))
            if count > 0 and alone_count > 0
            else why,
        )

    def conversation(self, turns: Sequence[tuple[str, str]]) -> tuple[str, list[int]]:
        """The text, and the ids, before the next answer of a conversation.

        ``turns`` are (instruction, input) of the user at even places and (answer, "") at odd ones, the
        last the user's. A chat template lays them out itself; with a plain template an answer ends as
        it is trained to, and an empty line stands before the next instruction.
        """
        if self._template.chat is not None:
            chat = [
                ("assistant" if n % 2 else "user", PromptTemplate.target_of(*turn))
                for n, turn in enumerate(turns)
            ]
            pieces = self._template.chat.pieces(chat)
            ids = self._cutter.whole(pieces)
            return "".join(text for text, _ in pieces), [*self._opening(ids), *ids]
        text, ids = "", list(self._bos)
        for n, turn in enumerate(turns):
            if n % 2:
                answer = self._template.answer_prefix + turn[0]
                text += f"{answer}\n\n"
                ids += [*self._cutter.data(answer, inside=True), *self._end]
                ids += self._cutter.data("\n\n", inside=True)
            else:
                prompt = self._template.forward(*turn)
                ids += self._cutter.data(prompt, inside=bool(text))
                text += prompt
        return text, ids

    def continuation(self, context: str, text: str) -> Span:
        """The span of ``text`` right behind ``context``, neither with template nor end; what exceeds the
        length is cut off the context's beginning."""
        whole, start = self._cutter.cut([(context, True)], text)
        target = len(whole) - start
        ids = [*(self._bos if context else self._start), *whole]
        return Span(tuple(ids[-max(self._max, target + 1) :]), target, len(ids) > self._max)

    @property
    def max_length(self) -> int:
        """The most tokens of a text."""
        return self._max

    @property
    def end_of_turn(self) -> list[int]:
        """The ids that end an answer."""
        return list(self._end)

    # -- tokens -----------------------------------------------------------------------------

    def _opening(self, whole: list[int]) -> list[int]:
        """The beginning-of-text token, unless the chat template has written it already."""
        return [] if whole[: len(self._bos)] == self._bos else self._bos

    def _beginning(self) -> list[int]:
        bos = self._tokenizer.bos_token_id
        added = list(self._tokenizer("a").input_ids)
        return [int(bos)] if bos is not None and added[:1] == [bos] else []

    def _end_of_turn(self) -> list[int]:
        text = self._template.end_of_turn
        if text is None:
            return [int(self._tokenizer.eos_token_id)]
        return self._cutter.markup(text)
