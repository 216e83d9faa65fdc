"""Facility location against brute force, and against plain greedy choice; large sets against small ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui import subsets
from srtui.subsets import (
    Points,
    cluster_labels,
    clusters,
    coverage,
    directions,
    facility_location,
    subset,
)


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


def grouped(seed: int, groups: int, each: int, width: int = 16, spread: float = 0.5) -> np.ndarray:
    """float16 vectors around ``groups`` centres, mixed, with a part that all have in common."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(groups, width))
    vectors = np.repeat(centres, each, axis=0) + random.normal(size=(groups * each, width)) * spread + 3
    return random.permutation(vectors).astype(np.float16)


def read_from(vectors: np.ndarray, sizes: list[int] | None = None) -> Points:
    """Points that note how many vectors were asked for at once."""

    def at(positions: Sequence[int]) -> np.ndarray:
        if sizes is not None:
            sizes.append(len(positions))
        return vectors[list(positions)]

    return Points(len(vectors), at)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 8), st.integers(20, 60), st.integers(10, 40))
def test_a_large_subset_covers_nearly_what_the_exact_one_does(
    seed: int, groups: int, each: int, count: int
) -> None:
    vectors = grouped(seed, groups, each)
    units = directions(vectors)
    weights = np.random.default_rng(seed).uniform(0, 1, len(units))
    exact = coverage(units, weights, facility_location(units, weights, count))
    chosen = subset(read_from(vectors), weights, count, most=60)
    assert len(set(chosen)) == len(chosen) == min(count, len(units))
    assert coverage(units, weights, chosen) >= 0.9 * exact
    at_random = [
        coverage(units, weights, np.random.default_rng(n).permutation(len(units))[:count].tolist())
        for n in range(5)
    ]
    assert coverage(units, weights, chosen) > np.mean(at_random)


def test_a_large_set_is_never_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "_READ", 32)
    sizes: list[int] = []
    points = read_from(grouped(1, 5, 80), sizes)
    cluster_labels(points, 5, most=30)
    assert len(subset(points, np.ones(400), 50, most=30)) == 50
    assert max(sizes) <= 60  # a part is at most twice as large as it should be
    assert sum(sizes) > 400


def test_a_subset_of_parts_that_have_nothing_in_common_is_the_exact_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Groups at right angles: a point stands for none of another group, so the merged choice has to be the same."""
    random = np.random.default_rng(3)
    vectors = np.zeros((120, 64))
    for group in range(4):
        block = vectors[group::4, group * 16 : group * 16 + 16]
        block += np.abs(random.normal(size=block.shape)) + 1
    vectors = np.concatenate([vectors, -vectors]).astype(np.float16)  # the mean of all is 0
    units = directions(vectors)
    weights = random.uniform(0.1, 1, len(units))
    groups = [np.arange(group, 120, 4) + side for group in range(4) for side in (0, 120)]
    monkeypatch.setattr(subsets, "_parts", lambda points, size: groups)
    points = read_from(vectors)
    exact = facility_location(units, weights, 24, start=[5, 17])
    assert subset(points, weights, 24, start=[5, 17], most=30) == exact
    assert subset(points, weights, 1, start=[5, 17], most=30) == [5, 17]
    assert sorted(subset(points, weights, 500, most=30)) == list(range(240))


def test_a_small_set_is_chosen_from_exactly() -> None:
    vectors = grouped(1, 4, 25)
    units, weights = directions(vectors), np.ones(100)
    assert subset(read_from(vectors), weights, 7) == facility_location(units, weights, 7)
    assert (cluster_labels(read_from(vectors), 4) == clusters(units, 4)).all()


def test_clusters_by_mini_batches_are_nearly_as_tight() -> None:
    """On the mean of some sets: k-means ends in one of many optima, be it exact or not."""
    ratios = []
    for seed in range(12):
        groups = 2 + seed % 5
        vectors = grouped(seed, groups, 90, spread=0.8)
        units = directions(vectors)

        def within(labels: np.ndarray, units: np.ndarray = units) -> float:
            return sum(
                float(((units[labels == n] - units[labels == n].mean(axis=0)) ** 2).sum())
                for n in set(labels)
            )

        points = read_from(vectors)
        labels = cluster_labels(points, groups, most=100)
        assert (cluster_labels(points, groups, most=100) == labels).all()
        ratios.append(within(labels) / within(clusters(units, groups)))
    assert np.mean(ratios) < 1.1


def test_clusters_that_lie_apart_are_found_by_mini_batches_too() -> None:
    vectors = grouped(5, 4, 60, width=24, spread=0.05)
    exact = clusters(directions(vectors), 4)
    labels = cluster_labels(read_from(vectors), 4, most=80)
    assert len({*zip(labels.tolist(), exact.tolist(), strict=True)}) == 4


def test_points_that_are_all_alike_are_cut_in_their_order() -> None:
    vectors = np.ones((100, 4), dtype=np.float16)
    assert len(subset(read_from(vectors), np.ones(100), 9, most=10)) == 9


def test_a_stop_ends_a_large_choice() -> None:
    assert subset(read_from(grouped(1, 3, 30)), np.ones(90), 9, should_stop=lambda: True, most=20) == []
