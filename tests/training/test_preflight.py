"""A forecast learns from those before it, and says how far they were off."""

from __future__ import annotations

import pytest

from srtui.training import Preflight
from srtui.training.preflight import PastForecast

GB = 10**9
FIRST = Preflight(50, 0, 4000, 900, 12, 60.0, GB, 8 * GB, False, False, loaded=GB, fixed=12.0)


def _after(*pasts: PastForecast) -> Preflight:
    return Preflight(50, 0, 4000, 900, 12, 60.0, GB, 8 * GB, False, False, loaded=GB, fixed=12.0, past=pasts)


def test_the_first_says_that_nothing_is_known_of_its_error() -> None:
    words = FIRST.sentence(512)
    assert "about 1.2 minutes, with 0.2 minutes for held-out losses, and 2.0 GB of memory" in words
    assert "not known" in words


def test_a_later_one_is_corrected_by_the_median_and_shows_the_errors() -> None:
    slow = PastForecast(2.0, 1.5, 1.0, 0.5)
    fast = PastForecast(0.5, 1.0, -0.75, -0.3)
    once_beside_a_compiler = PastForecast(9.0, 1.25, 4.5, 0.0)
    later = _after(fast, slow, once_beside_a_compiler)
    assert later.likely_seconds == pytest.approx(120)
    assert later.likely_memory == pytest.approx(2.5 * GB)
    words = later.sentence(512)
    assert "-75%, +100%, +450% time, -30%, +50%, +0% memory" in words
    assert "2.2 minutes" in words and "2.5 GB" in words


def test_what_is_stored_of_a_plan_is_what_was_computed() -> None:
    facts = _after(PastForecast(2.0, 1.5, 1.0, 0.5)).facts()
    assert facts["seconds"] == 60.0 and "past" not in facts
