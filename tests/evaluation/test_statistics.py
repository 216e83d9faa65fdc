"""The mathematics against references worked out otherwise, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.evaluation.statistics import (
    bootstrap_mean,
    cohen,
    fleiss,
    preference,
    verdict,
    wilson,
)

signs = st.floats(-9, 9)


def test_wilson_by_its_formula() -> None:
    z, n, p = 1.959963984540054, 40, 15 / 40
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = wilson(15, 40)
    assert found["value"] == p
    assert found["low"] == pytest.approx(centre - half)
    assert found["high"] == pytest.approx(centre + half)
    assert wilson(0, 0) == {"value": None, "low": None, "high": None, "n": 0}
    assert wilson(0, 5)["low"] == 0.0


def test_bootstrap_is_near_the_normal_interval_and_follows_the_seed() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400).tolist()
    found, again, other = bootstrap_mean(values, 3), bootstrap_mean(values, 3), bootstrap_mean(values, 4)
    half = 1.96 * np.std(values, ddof=1) / math.sqrt(400)
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["low"] == pytest.approx(np.mean(values) - half, abs=0.03)
    assert found["high"] == pytest.approx(np.mean(values) + half, abs=0.03)
    assert found == again != other
    assert bootstrap_mean([4.0]) == {"value": 4.0, "low": None, "high": None, "n": 1}
    assert bootstrap_mean([4.0, 4.0])["high"] == 4.0


def test_verdicts_of_the_paper() -> None:
    assert verdict(1, 2) == verdict(1, 0) == verdict(0, 1) == "win"
    assert verdict(1, -1) == verdict(-3, 1) == verdict(0, 0) == "tie"
    assert verdict(-1, -1) == verdict(0, -1) == "lose"


@given(signs, signs)
def test_verdicts_mirror(first: float, second: float) -> None:
    mirror = {"win": "lose", "tie": "tie", "lose": "win"}
    assert verdict(-first, -second) == mirror[verdict(first, second)]
    assert verdict(first, second) == verdict(second, first)


@given(
    st.lists(st.floats(0.01, 1), min_size=10, max_size=10),
    st.lists(st.floats(0.01, 1), min_size=10, max_size=10),
)
def test_preference_by_counting(a: list[float], b: list[float]) -> None:
    total = sum(a) * sum(b)
    above = sum(x * y for i, x in enumerate(a) for j, y in enumerate(b) if i > j)
    equal = sum(x * y for i, x in enumerate(a) for j, y in enumerate(b) if i == j)
    assert preference(a, b) == pytest.approx((above + equal / 2) / total)
    assert preference(a, b) + preference(b, a) == pytest.approx(1.0)
    assert preference(a, a) == pytest.approx(0.5)


def test_cohen_by_its_formula() -> None:
    first = ["win"] * 30 + ["lose"] * 20
    second = ["win"] * 20 + ["lose"] * 10 + ["win"] * 5 + ["lose"] * 15
    observed = 35 / 50
    chance = 30 / 50 * 25 / 50 + 20 / 50 * 25 / 50
    found = cohen(first, second)
    assert found["value"] == pytest.approx((observed - chance) / (1 - chance))  # 0.4
    assert found["low"] is not None and found["high"] is not None
    assert found["low"] < 0.4 < found["high"] and found["low"] > 0.1
    assert cohen(first, first)["value"] == 1.0
    assert cohen(["win"] * 5, ["win"] * 5)["value"] is None
    one_sided = cohen(first, ["win"] * 50)
    assert one_sided["value"] == pytest.approx(0.0)
    assert cohen([], [])["value"] is None


def test_fleiss_of_the_textbook() -> None:
    """Fleiss' table as Wikipedia works it out: 10 items, 14 raters, 5 categories, kappa 0.210."""
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    rows = [[str(k) for k, n in enumerate(line) for _ in range(n)] for line in table]
    found = fleiss(rows)
    assert found["value"] == pytest.approx(0.210, abs=0.0005)
    assert found["low"] is not None and found["low"] < 0.21
    assert fleiss([])["value"] is None
