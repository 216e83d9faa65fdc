"""What is left to do, in time: an interval that holds, and no guess from too little."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from srtui.progress import SURE_FROM, left_words, time_left


@settings(deadline=None)
@given(st.integers(1, 10_000), st.floats(0.1, 1e6), st.integers(0, 1_000_000))
def test_the_interval_holds_the_plain_estimate(finished: int, seconds: float, left: int) -> None:
    low, high = time_left(finished, seconds, left)
    assert low <= left * seconds / finished <= high
    more, later = time_left(4 * finished, 4 * seconds, left)  # the same rate, known better
    assert more - low >= -1e-9 * low
    assert later <= high


@settings(deadline=None)
@given(st.integers(4, 2000))
def test_it_is_the_exact_poisson_interval_to_a_tenth(finished: int) -> None:
    low, high = time_left(finished, 1.0, 1)
    slow, fast = chi2.ppf(0.025, 2 * finished) / 2, chi2.ppf(0.975, 2 * finished + 2) / 2  # Garwood 1936
    assert low == pytest.approx(1 / fast, rel=0.2)
    assert high == pytest.approx(1 / slow, rel=0.2)


def test_it_covers_what_comes_19_times_in_20() -> None:
    draw = random.Random(7)
    held = 0
    for _ in range(800):
        times, now = [], 0.0
        for _ in range(16):
            now += draw.expovariate(0.5)
            times.append(now)
        low, high = time_left(16, now, 4000)
        held += low <= 4000 / 0.5 <= high
    assert 0.92 <= held / 800 <= 0.98


def test_too_few_say_nothing() -> None:
    assert left_words(SURE_FROM - 1, 10.0, 100) == ""
    assert left_words(SURE_FROM, 10.0, 0) == ""
    assert left_words(100, 600.0, 1000) == "83 min to 2 h left"
    with pytest.raises(ValueError, match="no rate"):
        time_left(0, 1.0, 1)
