"""Subsets that stand for the whole: facility location over embeddings, by lazy greedy; and clusters. Pure mathematics.

Both are exact up to :data:`MOST` points, which are compared all with all. More are read block by block: clusters are
made by mini-batches, and facility location is maximised within parts of the points, which docs/method.md describes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from srtui.similarity import Vectors, mean_of, units

MOST = 50_000
"""Points that are compared all with all, block by block."""
NEAREST = 256
"""Neighbours that a point can stand for; what is farther counts as not alike."""
_BLOCK = 512
_SEED = 1
_READ = 4096  # vectors of a large set that are read at once
_FITTED = 20_000  # of a large set, the points that centres start from
_PASSES = 2
_PART = 10_000  # points of a part, about; none has more than twice as many


def directions(vectors: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, width): unit vectors around the mean of all. Hidden states of a language model have a large part in common,
    so that without this all of them are alike. A vector that is the mean itself stays zero."""
    wide = vectors.astype(np.float32)
    return units(wide, wide.mean(axis=0) if len(wide) else wide.sum(axis=0))


class Points:
    """The :func:`directions` of vectors that are read as they are asked for."""

    def __init__(self, size: int, vectors_at: Callable[[Sequence[int]], Vectors]) -> None:
        """``vectors_at`` gives those at these positions, 0 to ``size`` - 1, in their order."""
        self.size, self._vectors_at = size, vectors_at
        self._mean = mean_of(vectors_at(block) for block in _cut(range(size), _READ))

    def at(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """(n, width): the directions of these."""
        return units(self._vectors_at(positions), self._mean)


def _cut(positions: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


# -- facility location --------------------------------------------------------------------------


def subset(
    points: Points,
    weights: NDArray[np.float64],
    count: int,
    start: Sequence[int] = (),
    should_stop: Callable[[], bool] = lambda: False,
    most: int = MOST,
) -> list[int]:
    """:func:`facility_location`, of more than ``most`` points within parts of them: clusters of some 10,000.

    A point then stands for points of its own part alone, so that the sum falls into one for each part, and the greedy
    choice over all is that of each part merged by gain. One part at a time is in memory, and is left where its next
    gain is below what is chosen already.

    Args:
        points: read as they are needed.
        weights: (n,), not negative.
        count: how many points to choose, those of ``start`` among them.
        start: points that are chosen whatever they gain.
        should_stop: asked at every point; what was chosen by then is returned.
        most: points that are compared all with all.
    """
    if points.size <= most:
        return facility_location(points.at(range(points.size)), weights, count, start, should_stop)
    first, open_places = set(start), count - len(start)
    best: list[tuple[float, int]] = []  # a heap of (gain, -position), the least of what is chosen at its head
    for part in _parts(points, min(_PART, most)):
        if should_stop():
            break
        kept = [n for n, position in enumerate(part.tolist()) if position in first]
        greedy = _greedy(points.at(part.tolist()), weights[part], kept)
        for n, gain in islice(greedy, len(kept), None):
            if should_stop() or open_places <= 0:
                break
            candidate = (gain, -int(part[n]))
            if len(best) < open_places:
                heapq.heappush(best, candidate)
            elif candidate > best[0]:
                heapq.heapreplace(best, candidate)
            elif gain < best[0][0]:
                break
    return [*start, *(-position for _, position in sorted(best, reverse=True))]


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
    chosen: list[int] = []
    for point, _ in islice(_greedy(units, weights, start), max(count, len(start))):
        if len(chosen) >= len(start) and should_stop():
            break
        chosen.append(point)
    return chosen


def _greedy(
    units: NDArray[np.float32], weights: NDArray[np.float64], start: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """All points in the order of the greedy choice, each with what it gains; those of ``start`` come first."""
    points = len(units)
    worth = weights.astype(np.float32)
    neighbours, cosines = _nearest(units)
    covered = np.zeros(points, dtype=np.float32)

    def gain(point: int) -> float:
        neighbours_of = neighbours[point]
        return float(np.maximum(cosines[point] - covered[neighbours_of], 0) @ worth[neighbours_of])

    def take(point: int) -> None:
        neighbours_of = neighbours[point]
        covered[neighbours_of] = np.maximum(covered[neighbours_of], cosines[point])

    for point in start:
        gained = gain(point)
        take(point)
        yield point, gained
    taken = len(start)
    chosen_points = set(start)
    waiting = [(-gain(point), point, taken) for point in range(points) if point not in chosen_points]
    heapq.heapify(waiting)
    while waiting:
        negative, point, as_of = heapq.heappop(waiting)
        if as_of == taken:
            take(point)
            taken += 1
            yield point, -negative
        else:
            heapq.heappush(waiting, (-gain(point), point, taken))


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


# -- clusters -----------------------------------------------------------------------------------


def cluster_labels(points: Points, count: int, most: int = MOST) -> NDArray[np.int64]:
    """(n,): the number of each point's cluster, as :func:`clusters` gives it; of more than ``most`` points by
    mini-batches, the same for the same points.

    Centres start from k-means over every n-th point and move with each block towards its points, by the share of what
    they have seen (Sculley 2010), twice over all points; then each point belongs to the nearest.
    """
    if points.size <= most:
        return clusters(points.at(range(points.size)), count)
    some = points.at(range(0, points.size, math.ceil(points.size / min(_FITTED, most))))
    labels = clusters(some, count)
    present, labels = np.unique(labels, return_inverse=True)
    centres = np.zeros((len(present), some.shape[1]), dtype=np.float32)
    seen = np.zeros(len(present), dtype=np.int64)
    _move(centres, seen, some, labels)
    for _ in range(_PASSES):
        for block in _cut(range(points.size), _READ):
            directions_read = points.at(block)
            _move(centres, seen, directions_read, _nearest_centre(directions_read, centres))
    return np.concatenate(
        [_nearest_centre(points.at(block), centres) for block in _cut(range(points.size), _READ)]
    )


def _move(
    centres: NDArray[np.float32],
    seen: NDArray[np.int64],
    some: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> None:
    """Let each centre be the mean of what it has ``seen``, these points too."""
    for label in np.unique(labels).tolist():
        own = some[labels == label]
        seen[label] += len(own)
        centres[label] += (own.sum(axis=0) - len(own) * centres[label]) / seen[label]


def _nearest_centre(some: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray((some @ centres.T - (centres * centres).sum(axis=1) / 2).argmax(axis=1), dtype=np.int64)


def clusters(units: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """(n,): the number of each point's cluster, by k-means from k-means++ starts; the same for the same points."""
    from scipy.cluster.vq import kmeans2

    _, labels = kmeans2(units, min(count, len(units)), minit="++", rng=np.random.default_rng(_SEED), iter=30)
    return np.asarray(labels, dtype=np.int64)


def _parts(points: Points, size: int) -> Iterable[NDArray[np.int64]]:
    """All positions in clusters of some ``size``; one that is more than twice as large, as where points are all alike,
    is cut in their order."""
    labels = cluster_labels(points, math.ceil(points.size / size), most=size)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        pieces = math.ceil(len(members) / (2 * size))
        yield from np.array_split(members, pieces)
