"""How the next token of one sequence is drawn.

llama.cpp's own chain draws, from as few tokens as can still be drawn: what comes first in the chain and can
only leave tokens out (top-k, the likeliest, min-p) is anticipated here, over the whole vocabulary at once, and
the penalty touches the tokens that were written and no others. Each draw is the one that the whole chain makes of
the whole vocabulary; only of tokens whose logits are equal to the last bit, at the border of top-k, another may
stay.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import llama_cpp
import numpy as np

from srtui.errors import UserError
from srtui.llama import Sampler

# llama.cpp's llama_token_data
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_LEAST_COLUMNS = 512


class TokenSampler:
    """A sampler chain of a sequence's own, so that its draws do not depend on its neighbours, and the grammar
    of its segment. To be closed."""

    def __init__(self, vocabulary: Any, size: int, sampler: Sampler, seed: int) -> None:
        """``vocabulary`` is llama.cpp's, of ``size`` tokens."""
        self._vocabulary, self._size, self._sampler = vocabulary, size, sampler
        self._chain = _chain(sampler, seed)
        self._grammar: Any = None
        # The last tokens that were drawn, in a ring, where a penalty asks for them; how many were drawn so far.
        window = max(0, sampler.repeat_window) if sampler.repeat_penalty != 1.0 else 0
        self._written, self._count = np.zeros(window, dtype=np.int64), 0

    def use_grammar(self, grammar: str | None) -> None:
        """Draw under this GBNF from now on, or under none. Raises UserError where it is not valid."""
        if self._grammar is not None:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None
        if grammar:
            self._grammar = llama_cpp.llama_sampler_init_grammar(self._vocabulary, grammar.encode(), b"root")
            if not self._grammar:
                raise UserError("A segment's grammar is not valid GBNF.")

    def draw(self, context: Any, index: int) -> int:
        """The next token, from the logits at ``index`` of the context's last batch."""
        pointer = llama_cpp.llama_get_logits_ith(context, index)
        logits: Any = (ctypes.c_float * self._size).from_address(ctypes.addressof(pointer.contents))
        return self.draw_from(np.frombuffer(logits, dtype=np.float32))

    def draw_from(self, logits: Any) -> int:
        """The next token, from a float32 array of one logit a token. The array is as it was afterwards."""
        written = self._written[: self._count]
        before = logits[written]
        if len(written):
            penalty = np.float32(self._sampler.repeat_penalty)
            logits[written] = np.where(before <= 0, before * penalty, before / penalty)
        try:
            # Sample first; only a token that the grammar refuses is sampled again, under it.
            token = self._draw(logits, self._candidates(logits))
            if self._grammar is not None and not self._allowed(token):
                token = self._draw(logits, None, constrained=True)
        finally:
            logits[written] = before
        if self._grammar is not None:
            llama_cpp.llama_sampler_accept(self._grammar, token)
        if len(self._written):
            self._written[self._count % len(self._written)] = token
            self._count += 1
        return token

    def close(self) -> None:
        """Give the chain and the grammar back."""
        for part in (self._chain, self._grammar):
            if part is not None:
                llama_cpp.llama_sampler_free(part)
        self._chain = self._grammar = None

    def _candidates(self, logits: Any) -> Any | None:
        """Ids of all tokens that the chain's first part can leave, and few others; None for all."""
        sampler = self._sampler
        if sampler.temperature <= 0:
            return logits.argmax(keepdims=True)  # the first of equals, as llama.cpp takes
        if sampler.top_k > 0:
            return _top(logits, sampler.top_k)
        if sampler.top_p >= 1 and sampler.min_p > 0:
            # A hair below the border: where it lies to the last bit is llama.cpp's to say.
            return np.flatnonzero(logits >= logits.max() + math.log(sampler.min_p) - 1e-3)
        return None

    def _draw(self, logits: Any, candidates: Any | None, *, constrained: bool = False) -> int:
        if candidates is None:
            candidates = np.arange(self._size)
        table = np.empty(len(candidates), dtype=_TOKEN_DATA)
        table["id"], table["logit"] = candidates, logits[candidates]
        data = ctypes.cast(table.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data=data, size=len(table), selected=-1, sorted=False)
        if constrained:
            llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allowed(self, token: int) -> bool:
        candidate = (llama_cpp.llama_token_data * 1)()
        candidate[0].id, candidate[0].logit = token, 1.0
        array = llama_cpp.llama_token_data_array(data=candidate, size=1, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(array.data[0].logit > float("-inf"))


def _top(logits: Any, count: int) -> Any | None:
    """Ids of the ``count`` largest of a float32 array and of whatever equals the last of them, and few others;
    None where that saves nothing, or where a logit is no number.

    The array is cut into columns. The ``count``-th largest of the columns' maxima is at most the ``count``-th
    largest of all, so what is below it is none of those, and only columns whose maximum reaches it are looked at.
    """
    columns = max(_LEAST_COLUMNS, 4 * count, len(logits) // 32)
    rows = len(logits) // columns
    if rows < 2:
        return None
    grid = logits[: rows * columns].reshape(rows, columns)
    highest = grid.max(axis=0)
    border = np.partition(highest, columns - count)[columns - count]
    if not border > -np.inf:  # not a number, or too few tokens can be drawn at all
        return None
    reached = np.flatnonzero(highest >= border)
    row, column = np.nonzero(grid[:, reached] >= border)
    tail = np.flatnonzero(logits[rows * columns :] >= border) + rows * columns
    return np.concatenate((row * columns + reached[column], tail))


def _chain(sampler: Sampler, seed: int) -> Any:
    """llama.cpp's chain but for the penalty."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

    def add(part: Any) -> None:
        llama_cpp.llama_sampler_chain_add(chain, part)

    if sampler.temperature <= 0:
        add(llama_cpp.llama_sampler_init_greedy())
        return chain
    if sampler.top_k > 0:
        add(llama_cpp.llama_sampler_init_top_k(sampler.top_k))
    if sampler.top_p < 1:
        add(llama_cpp.llama_sampler_init_top_p(sampler.top_p, 1))
    if sampler.min_p > 0:
        add(llama_cpp.llama_sampler_init_min_p(sampler.min_p, 1))
    add(llama_cpp.llama_sampler_init_temp(sampler.temperature))
    add(llama_cpp.llama_sampler_init_dist(seed & 0xFFFFFFFF))
    return chain
