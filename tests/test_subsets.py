"""Facility location against brute force, and against plain greedy choice."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.subsets import coverage, directions, facility_location


def drawn(seed: int, points: int, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return directions(random.normal(size=(points, width)).astype(np.float32)), random.uniform(0, 1, points)


def plain_greedy(units: np.ndarray, weights: np.ndarray, count: int, start: list[int]) -> list[int]:
    chosen = list(start)
    while len(chosen) < count:
        gains = {n: coverage(units, weights, [*chosen, n]) for n in range(len(units)) if n not in chosen}
        chosen.append(max(gains, key=lambda n: (round(gains[n], 5), -n)))
    return chosen


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 30), st.integers(1, 6))
def test_lazy_greedy_covers_as_much_as_plain_greedy(seed: int, points: int, count: int) -> None:
    units, weights = drawn(seed, points)
    lazy = facility_location(units, weights, count)
    assert len(lazy) == len(set(lazy)) == min(count, points)
    plain = plain_greedy(units, weights, min(count, points), [])
    assert coverage(units, weights, lazy) == pytest.approx(coverage(units, weights, plain), rel=1e-3)


def test_it_is_within_its_bound_of_the_best_subset() -> None:
    for seed in range(5):
        units, weights = drawn(seed, 10)
        best = max(coverage(units, weights, subset) for subset in combinations(range(10), 3))
        assert coverage(units, weights, facility_location(units, weights, 3)) >= (1 - 1 / np.e) * best


def test_one_of_each_cluster_is_taken_and_copies_are_not() -> None:
    random = np.random.default_rng(3)
    centres = random.normal(size=(5, 16)) * 3
    vectors = np.concatenate([centre + random.normal(size=(20, 16)) * 0.05 for centre in centres])
    chosen = facility_location(directions(vectors.astype(np.float32)), np.ones(100), 5)
    assert sorted(n // 20 for n in chosen) == [0, 1, 2, 3, 4]


def test_weight_decides_which_cluster_comes_first_and_a_start_stays() -> None:
    vectors = np.eye(4, dtype=np.float32).repeat(3, axis=0)
    units = directions(vectors)
    weights = np.ones(12)
    weights[6:9] = 5
    assert facility_location(units, weights, 1)[0] in (6, 7, 8)
    chosen = facility_location(units, weights, 3, start=[0])
    assert chosen[0] == 0
    assert not {1, 2} & set(chosen)


def test_directions_have_length_one_around_the_mean() -> None:
    random = np.random.default_rng(4)
    vectors = (random.normal(size=(50, 8)) + 40).astype(np.float16)
    units = directions(vectors)
    assert np.allclose(np.linalg.norm(units, axis=1), 1, atol=1e-5)
    assert abs(float((units @ units.T).mean())) < 0.1  # the common part is gone
    assert not directions(np.ones((3, 4), dtype=np.float32)).any()
    assert directions(np.empty((0, 4), dtype=np.float32)).shape == (0, 4)
