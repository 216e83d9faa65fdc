"""Text into token ids, with a border that no token crosses and no special token out of data.

A tokenizer's table of added tokens holds more than its ``all_special_tokens``: SmolLM2 has 14 more, and
Llama 3's header tokens are among them. What is flagged special there is special here. Some families
(DeepSeek) do not flag their turn markers; so what the student's own chat template writes around a
conversation is special too. Other added tokens, such as Gemma's runs of line breaks, are ordinary text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

from tokenizers import Tokenizer

from srtui.chat_template import ChatTemplate
from srtui.prompts.answer_place import Piece, markup

# Texts to stand before one whose tokens inside a longer text are wanted; the first that does not join it counts.
_ANCHORS = ("\n", "0", "a", ".", "|")
_TOGETHER = 128  # texts that are cut at a time: some megabytes


class Cutter:
    """Cuts prompts and targets for one Hugging Face fast ``tokenizer``; ``chat`` is its chat template
    where that is in use."""

    def __init__(self, tokenizer: Any, chat: ChatTemplate | None = None) -> None:
        # Copies: what others set on the shared tokenizer (special tokens, truncation) changes nothing here.
        self._backend = tokenizer.backend_tokenizer
        self.special = special_ids(tokenizer, chat)
        self._text = _copy(self._backend, self.special)

    def data(self, text: str, *, inside: bool = False) -> list[int]:
        """Ids of ``text`` in which nothing is special; ``inside`` a longer text, where some tokenizers
        put no space in front."""
        return self._inside(text, special=False) if inside else list(self._text_only(text).ids)

    def markup(self, text: str) -> list[int]:
        """Ids of a template's own text, in which names of special tokens are those tokens."""
        return list(self._with_special(text).ids)

    def whole(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of the pieces as one text; from data there is no special token among them."""
        encoded = self._encoded(pieces)
        return self._one_by_one(pieces) if encoded is None else list(encoded.ids)

    def opening(self, pieces: Sequence[Piece], length: int) -> list[int] | None:
        """Those of the ids of the pieces that lie within the first ``length`` characters, as they are in front of the
        rest: up to a token that reaches beyond. None where pieces had to be cut one by one."""
        encoded = self._encoded(pieces)
        if encoded is None:
            return None
        ids, offsets = encoded.ids, encoded.offsets
        return list(ids[: next((n for n, (_, end) in enumerate(offsets) if end > length), len(ids))])

    def cut(
        self, prompt: Sequence[Piece], target: str, *, inside: bool = False, encoded: Any = None
    ) -> tuple[list[int], int]:
        """Ids of prompt and target, and how many of them are the prompt's.

        They are those of the whole text, unless a token would reach over the border; then prompt and
        target are cut apart.

        Args:
            prompt: what stands in front of the target, in pieces.
            target: data.
            inside: whether they stand within a longer text; then all of it is data.
            encoded: what ``encode_all`` made of both, where it has.
        """
        if inside:
            context = "".join(text for text, _ in prompt)
            whole, start = self._inside(context + target, special=False), self._inside(context, special=False)
            if whole[: len(start)] == start:
                return whole, len(start)
            return [*start, *self.data(target, inside=True)], len(start)
        pieces = [*prompt, (target, True)]
        encoded = self._encoded(pieces, encoded)
        border = sum(len(text) for text, _ in prompt)
        start_at = None if encoded is None else tokens_before(encoded, border)
        if encoded is None or start_at is None:
            before = self.whole(prompt)
            return [*before, *self.data(target, inside=bool(before))], len(before)
        return encoded.ids, start_at

    def encode_all(self, texts: Sequence[Sequence[Piece]]) -> list[Any]:
        """Each of these texts, in pieces, as the tokenizer cuts it: many at a time, by all processors and without
        Python's lock."""
        encodings: list[Any] = [None] * len(texts)
        for is_data in (True, False):
            which = [n for n, pieces in enumerate(texts) if all(d for _, d in pieces) == is_data]
            backend = self._text if is_data else self._marked
            for some in (which[n : n + _TOGETHER] for n in range(0, len(which), _TOGETHER)):
                joined = ["".join(text for text, _ in texts[n]) for n in some]
                for n, encoded in zip(
                    some, backend.encode_batch(joined, add_special_tokens=False), strict=True
                ):
                    encodings[n] = encoded
        return encodings

    def _encoded(self, pieces: Sequence[Piece], encoded: Any = None) -> Any | None:
        """The joined pieces as one text, which may be ``encoded`` already; None where that would make a special token
        of data."""
        if encoded is None:
            (encoded,) = self.encode_all([pieces])
        if not all(is_data for _, is_data in pieces) and self._special_in_data(encoded, pieces):
            return None
        return encoded

    def _one_by_one(self, pieces: Sequence[Piece]) -> list[int]:
        ids: list[int] = []
        for part, is_data in pieces:
            if ids:
                ids += self._inside(part, special=not is_data)
            else:
                ids += (self._text_only if is_data else self._with_special)(part).ids
        return ids

    def _special_in_data(self, encoded: Any, pieces: Sequence[Piece]) -> bool:
        """Whether a special token of ``encoded`` reaches into a piece of data."""
        if self.special.isdisjoint(encoded.ids):
            return False
        ends = list(accumulate(len(text) for text, _ in pieces))
        regions = [
            (end - len(text), end)
            for (text, is_data), end in zip(pieces, ends, strict=True)
            if is_data and text
        ]
        return any(
            begin < last and end > first
            for token, (begin, end) in zip(encoded.ids, encoded.offsets, strict=True)
            if token in self.special
            for first, last in regions
        )

    def _inside(self, text: str, *, special: bool) -> list[int]:
        """Ids of ``text`` as they are within a longer text: behind an anchor that joins nothing of it."""
        encode = self._with_special if special else self._text_only
        for anchor in _ANCHORS:
            encoded = encode(anchor + text)
            if not any(begin < len(anchor) < end for begin, end in encoded.offsets):
                return [
                    token
                    for token, (begin, _) in zip(encoded.ids, encoded.offsets, strict=True)
                    if begin >= len(anchor)
                ]
        return list(encode(text).ids)

    def _text_only(self, text: str) -> Any:
        return self._text.encode_batch([text], add_special_tokens=False)[
            0
        ]  # as ``encode``, but lets threads work

    def _with_special(self, text: str) -> Any:
        return self._marked.encode_batch([text], add_special_tokens=False)[0]

    @cached_property
    def _marked(self) -> Any:
        return _copy(self._backend)


def tokens_before(encoded: Any, border: int) -> int | None:
    """How many tokens begin before character ``border``; None where one reaches over it. ``encoded`` is an encoding of
    the tokenizers library, whose list of all offsets takes as long as a tenth of the encoding itself."""
    token = encoded.char_to_token(border)
    if token:
        begin, _ = encoded.token_to_chars(token)
        last, end = encoded.token_to_chars(token - 1)
        # Where the token in front is none without width, which would begin at the border too.
        if begin == border and last < end <= border:
            return int(token)
    offsets = encoded.offsets
    if any(begin < border < end for begin, end in offsets):
        return None
    return sum(1 for begin, _ in offsets if begin < border)


def special_ids(tokenizer: Any, chat: ChatTemplate | None = None) -> frozenset[int]:
    """Ids that data may never become: flagged special in the table of added tokens, or written by the
    tokenizer's chat template around a conversation."""
    table = tokenizer.added_tokens_decoder
    ids = {i for i, token in table.items() if token.special} | set(tokenizer.all_special_ids)
    if chat is not None:
        marks = markup(chat)
        ids |= {i for i, token in table.items() if token.content.strip() and token.content in marks}
    return frozenset(ids)


def _copy(backend: Any, as_text: frozenset[int] = frozenset()) -> Any:
    """A tokenizer like ``backend`` that takes the names of the tokens ``as_text`` for text."""
    state = json.loads(backend.to_str())
    added = [token | {"special": token["id"] in as_text} for token in state["added_tokens"]]
    copy = Tokenizer.from_str(
        json.dumps(state | {"added_tokens": added, "truncation": None, "padding": None})
    )
    copy.encode_special_tokens = True
    return copy
