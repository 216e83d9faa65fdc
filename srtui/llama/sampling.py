"""How llama.cpp draws the next token of one sequence."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np

from srtui.errors import UserError
from srtui.llama import Sampler

# llama.cpp's llama_token_data
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class TokenSampler:
    """A sampler chain of a sequence's own, so that its draws do not depend on its neighbours, and the grammar
    of its segment. To be closed."""

    def __init__(self, vocabulary: Any, size: int, sampler: Sampler, seed: int) -> None:
        """``vocabulary`` is llama.cpp's, of ``size`` tokens."""
        self._vocabulary, self._size = vocabulary, size
        self._chain = _chain(sampler, seed, size)
        self._grammar: Any = None

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
        if self._grammar is None:
            return int(llama_cpp.llama_sampler_sample(self._chain, context, index))
        # Sample first; only a token that the grammar refuses is sampled again, under it.
        token = self._draw(context, index, constrained=False)
        if not self._allowed(token):
            token = self._draw(context, index, constrained=True)
        llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Give the chain and the grammar back."""
        for part in (self._chain, self._grammar):
            if part is not None:
                llama_cpp.llama_sampler_free(part)
        self._chain = self._grammar = None

    def _draw(self, context: Any, index: int, *, constrained: bool) -> int:
        logits = llama_cpp.llama_get_logits_ith(context, index)
        data = (llama_cpp.llama_token_data * self._size)()
        table = np.frombuffer(data, dtype=_TOKEN_DATA)
        table["id"] = np.arange(self._size, dtype=np.int32)
        table["logit"] = np.ctypeslib.as_array(logits, shape=(self._size,))
        array = llama_cpp.llama_token_data_array(data=data, size=self._size, selected=-1, sorted=False)
        if constrained:
            llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allowed(self, token: int) -> bool:
        one = (llama_cpp.llama_token_data * 1)()
        one[0].id, one[0].logit = token, 1.0
        array = llama_cpp.llama_token_data_array(data=one, size=1, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(array.data[0].logit > float("-inf"))


def _chain(sampler: Sampler, seed: int, vocabulary_size: int) -> Any:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

    def add(part: Any) -> None:
        llama_cpp.llama_sampler_chain_add(chain, part)

    if sampler.repeat_penalty != 1.0:
        add(
            llama_cpp.llama_sampler_init_penalties(
                vocabulary_size, sampler.repeat_window, sampler.repeat_penalty, 0.0, 0.0
            )
        )
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
