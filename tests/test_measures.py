"""The mathematics, by properties and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.student import SpanLoss, ifd, perplexity, rifd, share_at_or_over_one

losses = st.builds(SpanLoss, st.floats(0.001, 1e4), st.integers(1, 4000))


def test_by_hand() -> None:
    # 4 tokens at 0.5 nats each against 4 at 1.0: e^0.5 / e^1.0
    value, reason = ifd(SpanLoss(2.0, 4), SpanLoss(4.0, 4))
    assert value == pytest.approx(math.sqrt(math.e) / math.e)
    assert reason is None
    assert perplexity(SpanLoss(math.log(8) * 3, 3)) == pytest.approx(8)


@given(losses, losses)
def test_it_is_the_ratio_of_perplexities(a: SpanLoss, b: SpanLoss) -> None:
    value, reason = rifd(a, b)
    if a.mean < 500 and b.mean < 500:
        assert value == pytest.approx(perplexity(a) / perplexity(b), rel=1e-6)
    assert (value is None) == (reason is not None)
    assert value is None or value > 0


@given(losses)
def test_a_context_that_changes_nothing_gives_one(a: SpanLoss) -> None:
    assert ifd(a, a) == (1.0, None)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (SpanLoss(math.nan, 3), "non_finite"),
        (SpanLoss(math.inf, 3), "non_finite"),
        (SpanLoss(0.0, 0), "empty_target"),
        (SpanLoss(None, 3, reason="out_of_memory"), "out_of_memory"),
        (SpanLoss(1e9, 1), "non_finite"),
    ],
)
def test_a_failure_is_no_score_and_never_zero(bad: SpanLoss, reason: str) -> None:
    good = SpanLoss(3.0, 3)
    for pair in ((bad, good), (good, bad)):
        assert ifd(*pair) == (None, reason)


def test_share() -> None:
    assert share_at_or_over_one([0.5, 1.0, 2.0, 0.9]) == 0.5
    assert share_at_or_over_one([]) == 0.0
