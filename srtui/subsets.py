"""Subsets that stand for the whole: facility location over embeddings, by lazy greedy; and clusters. Pure mathematics."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from srtui.similarity import units

MOST = 50_000
"""Texts that are compared all with all, block by block."""
NEAREST = 256
"""Neighbours that a point can stand for; what is farther counts as not alike."""
_BLOCK = 512
_SEED = 1


def directions(vectors: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, width): unit vectors around the mean of all. Hidden states of a language model have a large part in common,
    so that without this all of them are alike. A vector that is the mean itself stays zero."""
    wide = vectors.astype(np.float32)
    return units(wide, wide.mean(axis=0) if len(wide) else wide.sum(axis=0))


def facility_location(
    units: NDArray[np.float32],
    weights: NDArray[np.float64],
    count: int,
    start: Sequence[int] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """The ``count`` points that together lie nearest to all, each point as much worth as its weight.

    Maximises sum over j of weights[j] * max over chosen i of max(0, cosine(i, j)), where j is one of the 256 points
    nearest to i. That is monotone and submodular, so that greedy choice reaches 1 - 1/e of the best (Nemhauser et al.
    1978); a gain is only computed anew where its old value is the largest (Minoux 1978). Of equal gains the earlier
    point is taken.

    Args:
        units: (n, width), as :func:`directions` makes them.
        weights: (n,), not negative.
        count: how many points to choose, those of ``start`` among them.
        start: points that are chosen whatever they gain.
        should_stop: asked at every point; what was chosen by then is returned.
    """
    points = len(units)
    worth = weights.astype(np.float32)
    neighbours, cosines = _nearest(units)
    coverage = np.zeros(points, dtype=np.float32)

    def gain(point: int) -> float:
        neighbours_of = neighbours[point]
        return float(np.maximum(cosines[point] - coverage[neighbours_of], 0) @ worth[neighbours_of])

    def take(point: int) -> None:
        chosen.append(point)
        neighbours_of = neighbours[point]
        coverage[neighbours_of] = np.maximum(coverage[neighbours_of], cosines[point])

    chosen: list[int] = []
    for point in start:
        take(point)
    chosen_points = set(chosen)
    waiting = [(-gain(point), point, len(chosen)) for point in range(points) if point not in chosen_points]
    heapq.heapify(waiting)
    while waiting and len(chosen) < count and not should_stop():
        _, point, as_of = heapq.heappop(waiting)
        if as_of == len(chosen):
            take(point)
        else:
            heapq.heappush(waiting, (-gain(point), point, len(chosen)))
    return chosen


def _nearest(units: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(n, k) and (n, k): the points with the largest cosines to each, itself among them, and these cosines, 0 where
    they are below."""
    points = len(units)
    width = min(NEAREST, points)
    nearest = np.empty((points, width), dtype=np.int32)
    cosines = np.empty((points, width), dtype=np.float32)
    for first in range(0, points, _BLOCK):
        block = units[first : first + _BLOCK] @ units.T
        best = np.argpartition(-block, width - 1, axis=1)[:, :width]
        nearest[first : first + _BLOCK] = best
        cosines[first : first + _BLOCK] = np.maximum(np.take_along_axis(block, best, axis=1), 0)
    return nearest, cosines


def coverage(units: NDArray[np.float32], weights: NDArray[np.float64], chosen: Sequence[int]) -> float:
    """The sum over all points of weight times cosine to the nearest chosen one, and 0 where none is alike."""
    if not len(chosen):
        return 0.0
    nearest = np.zeros(len(units), dtype=np.float32)
    for point in chosen:
        np.maximum(nearest, units @ units[point], out=nearest)
    return float(nearest @ weights)


def clusters(units: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """(n,): the number of each point's cluster, by k-means from k-means++ starts; the same for the same points."""
    from scipy.cluster.vq import kmeans2

    _, labels = kmeans2(units, min(count, len(units)), minit="++", rng=np.random.default_rng(_SEED), iter=30)
    return np.asarray(labels, dtype=np.int64)
