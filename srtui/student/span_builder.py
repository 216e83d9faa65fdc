"""A pair's texts, cut into spans: the token ids of a target with or without its context.

Default protocol. The whole text (prompt, target, end of turn) is tokenised once, with offsets; the
target is the tokens from its first character on, and the unconditional pass scores the very same token
ids. Where a token would hold the end of the prompt and the beginning of the target, prompt and target
are tokenised apart, as they are when the student writes: nothing of a target is lost to its prompt. The
unconditional pass begins from the beginning-of-text token, or, where the tokenizer has none, from the
end-of-text token, so that the first target token is predicted too.

Of a pair with a history, prompts have it in front: a chat template lays all of it out, a plain template as
``SpanBuilder.conversation`` says. L(y) has no history; L(x) has it too, right in front of x and with the tokens that
it has in the reverse prompt's span, where it is known as well (docs/method.md, Conversations).

Paper protocol, as the released scripts do: prompt and target encoded as one string; the target
begins at the length of the prompt encoded alone; unconditional passes without the prompt (so that
without a beginning-of-text token the first token is not predicted); truncation at max_length, and
for the unconditional pass at max_length - prompt + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal, NamedTuple

from srtui.errors import UserError
from srtui.prompts import PromptTemplate
from srtui.prompts.answer_place import Piece
from srtui.prompts.chat_layout import HISTORIES, ChatLayout, joined
from srtui.sample import Pair, Role, Turn
from srtui.student.spans import Invalid, Span
from srtui.student.tokens import Cutter


class _SpanRequest(NamedTuple):
    """A target behind a prompt, as texts.

    ``prompt`` is the pieces in front of the target, without a history; ``end`` are the ids that end the turn;
    ``history`` the turns in front of the prompt; ``question`` the instruction and the input that it was made of;
    ``keeps_history`` says whether the unconditional span has the history too.
    """

    prompt: Sequence[Piece]
    target: str
    end: list[int]
    history: Sequence[Turn]
    question: tuple[str, str]
    keeps_history: bool = False

    def whole(self, answer_prefix: str) -> list[Piece]:
        """Prompt and target as one text, in pieces."""
        return [*self.prompt, (answer_prefix + self.target, True)]


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
        self._layout = None if template.chat is None else ChatLayout(template.chat)

    def forward(self, pair: Pair) -> tuple[Span | Invalid, Span | Invalid]:
        """The spans of L(y|x) and L(y)."""
        return self._of(self._forward(pair))

    def reverse(self, pair: Pair) -> tuple[Span | Invalid, Span | Invalid]:
        """The spans of L(x|y) and L(x); x has no end of turn, for nobody trains on it."""
        return self._of(self._reverse(pair))

    def of_all(
        self, pairs: Sequence[Pair], direction: Literal["forward", "reverse"]
    ) -> list[tuple[Span | Invalid, Span | Invalid]]:
        """What ``forward`` or ``reverse`` gives of each; their texts are cut into tokens together."""
        requests = [self._forward(pair) if direction == "forward" else self._reverse(pair) for pair in pairs]
        whole = [
            n
            for n, request in enumerate(requests)
            if not isinstance(request, Invalid) and not request.history and self._protocol == "default"
        ]
        texts = [requests[n].whole(self._template.answer_prefix) for n in whole]  # type: ignore[union-attr]
        encoded = dict(zip(whole, self._cutter.encode_all(texts), strict=True))
        return [self._of(request, encoded.get(n)) for n, request in enumerate(requests)]

    def _forward(self, pair: Pair) -> _SpanRequest | Invalid:
        if not pair.response.strip():
            return Invalid("empty_response")
        x = (pair.instruction, pair.input)
        return _SpanRequest(self._template.forward_pieces(*x), pair.response, self._end, pair.history, x)

    def _reverse(self, pair: Pair) -> _SpanRequest | Invalid:
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
        x = self._template.reversed(pair.response)
        return _SpanRequest(
            self._template.forward_pieces(*x), target, [], pair.history, x, keeps_history=True
        )

    def _of(
        self, request: _SpanRequest | Invalid, encoded: Any = None
    ) -> tuple[Span | Invalid, Span | Invalid]:
        """The conditional and the unconditional span of what is asked for; ``encoded`` is its prompt and target as
        ``Cutter.encode_all`` cuts them."""
        if isinstance(request, Invalid):
            return request, request
        prompt, target, end, history, question, keeps_history = request
        target = self._template.answer_prefix + target
        refused = Invalid("history_not_laid_out")
        before: list[int] | None = []
        if history:
            try:
                if self._layout is not None:
                    prompt = self._layout.pieces(
                        [*history, Turn("user", PromptTemplate.target_of(*question))]
                    )
                before = self.history(history, prompt)
            except UserError:
                return refused, refused
        if before is None:  # a part of it stands behind x: nothing can be told of x with it in front
            if keeps_history:
                return refused, refused
            before = []
        if self._protocol == "paper":
            return self._paper_spans(prompt, target, before, keeps_history)
        plain = bool(before) and self._template.chat is None
        whole, start = self._cutter.cut(prompt, target, inside=plain, encoded=encoded)
        if plain:
            whole, start = [*before, *whole], start + len(before)
        ids = [*self._opening(whole), *whole, *end]
        first = len(ids) - len(whole) - len(end) + start
        kept = ids[: self._max]
        truncated = len(kept) < len(ids)
        count = len(kept) - first
        if len(ids) - len(end) - first <= 0:
            empty_target = Invalid("empty_target")
            return empty_target, empty_target
        if count <= 0:
            return Invalid("target_truncated"), Invalid("target_truncated")
        if first == 0:  # nothing before the target: give it something to be predicted from
            kept = [*self._start, *kept]
        context = self._opened(before) if keeps_history and before else self._start
        return (
            Span(tuple(kept), count, truncated, _common(kept, self._opened(before) if before else [])),
            Span(
                (*context, *kept[len(kept) - count :]),
                count,
                truncated,
                len(context) if context is not self._start else 0,
            ),
        )

    def _paper_spans(
        self, prompt: Sequence[Piece], target: str, history: list[int], keeps_history: bool
    ) -> tuple[Span | Invalid, Span | Invalid]:
        if history and self._template.chat is None:
            whole = [*history, *self._cutter.whole([*prompt, (target, True)])]
            before = [*history, *self._cutter.whole(prompt)]
        else:
            whole = self._cutter.whole([*prompt, (target, True)])
            before = self._cutter.whole(prompt)
        kept_history = history if keeps_history else []
        alone = [*kept_history, *self._cutter.data(target, inside=bool(kept_history))]
        whole, before, alone = self._behind_bos(whole), self._behind_bos(before), self._behind_bos(alone)
        conditional, unconditional = whole[: self._max], alone[: max(self._max - len(before) + 1, 0)]
        # The first token of all is never predicted, with or without a beginning-of-text token.
        count = min(len(conditional) - len(before), len(conditional) - 1)
        alone_count = len(unconditional) - max(1, len(self._behind_bos(kept_history)) if kept_history else 1)
        why = Invalid("target_truncated" if len(whole) > len(before) and len(alone) > 1 else "empty_target")
        # An answer of one token has no L(y) here, and so no score; it can be trained all the same.
        return (
            Span(
                tuple(conditional),
                count,
                len(conditional) < len(whole),
                _common(conditional, self._behind_bos(history) if history else []),
            )
            if count > 0
            else why,
            Span(
                tuple(unconditional),
                alone_count,
                len(unconditional) < len(alone),
                len(self._behind_bos(kept_history)) if kept_history else 0,
            )
            if count > 0 and alone_count > 0
            else why,
        )

    def conversation(self, turns: Sequence[tuple[str, str]]) -> tuple[str, list[int]]:
        """The text, and the ids, before the next answer of a conversation.

        ``turns`` are (instruction, input) of the user at even places and (answer, "") at odd ones, the
        last the user's. A chat template lays them out itself; with a plain template an answer ends as
        it is trained to, and an empty line stands before the next instruction.
        """
        if self._layout is not None:
            pieces = self._layout.pieces(
                Turn("assistant" if n % 2 else "user", PromptTemplate.target_of(*turn))
                for n, turn in enumerate(turns)
            )
            ids = self._cutter.whole(pieces)
            return "".join(text for text, _ in pieces), [*self._opening(ids), *ids]
        text, ids = "", list(self._bos)
        for n, (words, input_text) in enumerate(turns):
            turn_text, its_ids = self._plain_turn(
                "assistant" if n % 2 else "user", words, input_text, inside=bool(text)
            )
            text, ids = text + turn_text, ids + its_ids
        return text, ids

    def history(self, turns: Sequence[Turn], prompt: Sequence[Piece] | None = None) -> list[int] | None:
        """The ids of ``turns`` as they are in front of a user's turn, without a beginning-of-text token of their own;
        None where a chat template writes a part of them behind it.

        Neighbours of one role are one turn. A plain template lays turns out as ``conversation`` does, a system
        text in front with an empty line behind it. A chat template's are cut out of ``prompt``, the pieces of a prompt
        that begins with them (any other, where there is none): where it divides turns by ordinary text, what ends
        one and begins the next share tokens, and those are left out. Raises UserError for what a chat template does
        not lay out.
        """
        if self._layout is not None:
            pieces = self._layout.history(turns)
            if pieces is None:
                return None
            followed = prompt or self._layout.pieces([*turns, Turn("user", "q")])
            within = self._cutter.opening(followed, sum(len(text) for text, _ in pieces))
            if within is not None:
                return within
            by_itself = self._cutter.whole(pieces)
            return by_itself[: _common(by_itself, self._cutter.whole(followed))]
        ids: list[int] = []
        for role, text in joined(turns):
            if len(ids) > self._max:  # no target fits behind it, however much there is of it
                break
            ids += self._plain_turn(role, text, "", inside=bool(ids))[1]
        return ids

    def _plain_turn(self, role: Role, text: str, input_text: str, *, inside: bool) -> tuple[str, list[int]]:
        """A turn as a plain template has it, with what stands behind it: its text and its ids."""
        if role == "user":
            prompt = self._template.forward(text, input_text)
            return prompt, self._cutter.data(prompt, inside=inside)
        gap = "\n\n"
        if role == "system":
            return text + gap, self._cutter.data(text + gap, inside=inside)
        answer = self._template.answer_prefix + text
        ids = [*self._cutter.data(answer, inside=True), *self._end, *self._cutter.data(gap, inside=True)]
        return answer + gap, ids

    def continuation(self, context: str, text: str) -> Span:
        """The span of ``text`` right behind ``context``, neither with template nor end; what exceeds the
        length is cut off the context's beginning."""
        whole, start = self._cutter.cut([(context, True)], text)
        target = len(whole) - start
        ids = [*(self._bos if context else self._start), *whole]
        return Span(tuple(ids[-max(self._max, target + 1) :]), target, len(ids) > self._max)

    @cached_property
    def histories(self) -> str | None:
        """``followed`` where a history in front of a question is laid out, or cut into tokens, otherwise than by itself,
        which is how srtui had it at first: of texts with a history, such scores are another way's. Else None."""
        if self._layout is None:
            return None
        return "followed" if any(map(self._depends_on_what_follows, HISTORIES)) else None

    def _depends_on_what_follows(self, turns: Sequence[Turn]) -> bool:
        assert self._layout is not None  # noqa: S101 - asked for chat templates alone
        by_itself: list[int] | None = None
        followed: list[int] | None = None
        with suppress(UserError):
            by_itself = self._cutter.whole(self._layout.pieces(turns, to_answer=False))
        with suppress(UserError):
            followed = self.history(turns)
        return by_itself != followed

    def alone(self, text: str) -> Span | Invalid:
        """The span of a text by itself, all of it the target: neither template nor end, and cut at its end where it is
        too long."""
        ids = self._cutter.data(text) if text.strip() else []
        kept = ids[: self._max]
        return (
            Span((*self._start, *kept), len(kept), len(kept) < len(ids)) if ids else Invalid("empty_target")
        )

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

    def _opened(self, whole: list[int]) -> list[int]:
        """The ids with the beginning-of-text token, or, where the tokenizer has none and nothing stands in
        front, as they are."""
        return [*self._opening(whole), *whole]

    def _behind_bos(self, whole: list[int]) -> list[int]:
        return [*self._bos, *whole]

    def _beginning(self) -> list[int]:
        bos = self._tokenizer.bos_token_id
        added = list(self._tokenizer("a").input_ids)
        return [int(bos)] if bos is not None and added[:1] == [bos] else []

    def _end_of_turn(self) -> list[int]:
        text = self._template.end_of_turn
        if text is None:
            return [int(self._tokenizer.eos_token_id)]
        return self._cutter.markup(text)


def _common(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next(
        (n for n, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others))
    )
