"""Draws from few candidates are the draws of llama.cpp's whole chain over the whole vocabulary."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.llama import Sampler
from srtui.llama.sampling import TokenSampler, _top


class WholeChain:
    """The reference: llama.cpp's penalties and samplers over every token, nothing left out before."""

    def __init__(self, size: int, sampler: Sampler, seed: int) -> None:
        self.size = size
        self.chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        parts = [
            llama_cpp.llama_sampler_init_penalties(
                size, sampler.repeat_window, sampler.repeat_penalty, 0.0, 0.0
            )
        ]
        if sampler.temperature <= 0:
            parts.append(llama_cpp.llama_sampler_init_greedy())
        else:
            if sampler.top_k > 0:
                parts.append(llama_cpp.llama_sampler_init_top_k(sampler.top_k))
            if sampler.top_p < 1:
                parts.append(llama_cpp.llama_sampler_init_top_p(sampler.top_p, 1))
            if sampler.min_p > 0:
                parts.append(llama_cpp.llama_sampler_init_min_p(sampler.min_p, 1))
            parts.append(llama_cpp.llama_sampler_init_temp(sampler.temperature))
            parts.append(llama_cpp.llama_sampler_init_dist(seed))
        for part in parts:
            llama_cpp.llama_sampler_chain_add(self.chain, part)

    def draw_from(self, logits: Any) -> int:
        data = (llama_cpp.llama_token_data * self.size)()
        for i, logit in enumerate(logits.tolist()):
            data[i].id, data[i].logit = i, logit
        array = llama_cpp.llama_token_data_array(data=data, size=self.size, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        llama_cpp.llama_sampler_accept(self.chain, token)
        return token

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self.chain)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([40, 1000, 1537, 5000]),
    st.sampled_from([0.0, 0.7, 1.3]),
    st.sampled_from([0, 1, 40, 300, 10_000]),
    st.sampled_from([0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sampled_from([0.8, 1.0, 1.1]),
    st.sampled_from([0, 3, 256]),
    st.integers(0, 2**31 - 2),
)
def test_each_draw_is_the_whole_chains(
    size: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    penalty: float,
    window: int,
    seed: int,
) -> None:
    sampler = Sampler(temperature, top_p, top_k, min_p, penalty, window)
    ours, whole = TokenSampler(None, size, sampler, seed), WholeChain(size, sampler, seed)
    random = np.random.default_rng(seed)
    # Few likely tokens, so that what was drawn comes up again and its penalty shows.
    logits = (random.standard_normal(size) * 2).astype(np.float32)
    logits[random.integers(0, size, 8)] += 6
    for _ in range(12):
        logits += (random.standard_normal(size) * 0.1).astype(np.float32)
        before = logits.copy()
        assert ours.draw_from(logits) == whole.draw_from(logits)
        np.testing.assert_array_equal(logits, before)
    ours.close()
    whole.close()


@given(
    st.lists(st.sampled_from([-5.0, 0.0, 1.0, 2.5, 7.0, -np.inf]), min_size=4, max_size=40),
    st.integers(1, 60),
    st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_the_candidates_hold_the_largest_and_their_equals(values: list[float], count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.choice(np.array(values, dtype=np.float32), 2600)
    found = _top(logits, count)
    if found is None:
        assert (
            len(logits) < 2 * max(512, 4 * count)
            or np.sort(logits)[-count] == -np.inf
            or np.isneginf(logits).any()
        )
        return
    assert len(set(found.tolist())) == len(found)
    border = np.sort(logits)[-count]
    assert set(np.flatnonzero(logits >= border).tolist()) <= set(found.tolist())


def test_what_is_no_number_is_left_to_llama() -> None:
    logits = np.zeros(5000, dtype=np.float32)
    logits[17] = np.nan
    assert _top(logits, 40) is None or 17 not in _top(logits, 40)
    assert _top(np.full(5000, -np.inf, dtype=np.float32), 40) is None


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_greedy_and_drawn_take_the_first_of_equals(temperature: float) -> None:
    sampler = Sampler(temperature, top_k=1)
    logits = np.zeros(3000, dtype=np.float32)
    logits[[700, 2900]] = 5
    ours = TokenSampler(None, 3000, sampler, 1)
    assert ours.draw_from(logits) in (700, 2900)
    ours.close()
