"""Which of millions of vectors are nearly the same, exactly, without comparing all with all at full width. Pure
mathematics.

Unit vectors are projected on their largest principal axes. With the projections a and b of two of them and the lengths
r and s of what the projections leave out, Cauchy and Schwarz give cosine <= a·b + r·s. A pair whose bound is below the
threshold cannot be alike. All pairs are screened by a few axes, the others once more by four times as many, and what is
left is compared at full width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float16] | NDArray[np.float32]
_SLACK = 1e-4  # of single precision, so that rounding hides no pair
_HALF_SLACK = 4e-3  # of half precision
_ROUNDING = 1e-6  # a copy has a cosine of 1 but for this
_BLOCK = 1024
_COLUMNS = 8192
_TRIED = (16, 32, 64, 128)
_FINER = 4
_SAMPLE = 8192  # vectors that the axes are found with
# What a comparison takes, in seconds of a processor core: a number of the first screen, a pair of the second, a pair at full
# width, whose vector is read from the store. Their relation decides how many axes the screens have.
_NUMBER, _SECOND, _FULL = 3e-11, 5e-7, 1e-5


class Alike(NamedTuple):
    """A vector that is alike to an earlier one, which stays for it; both by their positions."""

    position: int
    of: int
    cosine: float


def units(vectors: Vectors, mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, width): unit vectors of (n, width) around ``mean`` (width,). A vector that is the mean itself stays zero."""
    centred = vectors.astype(np.float32) - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 1e-6))


def mean_of(blocks: Iterable[Vectors]) -> NDArray[np.float32]:
    """(width,): the mean over all rows of the blocks, (0,) where there is none."""
    total: NDArray[np.float64] | None = None
    count = 0
    for block in blocks:
        summed = block.sum(axis=0, dtype=np.float64)
        total = summed if total is None else total + summed
        count += len(block)
    return np.asarray(np.empty(0) if total is None or not count else total / count, dtype=np.float32)


def sample_step(size: int) -> int:
    """Every how many of ``size`` vectors one is taken for :func:`screen_for`."""
    return max(1, size // _SAMPLE)


class Screen(NamedTuple):
    """What vectors are screened with: ``mean`` (width,), ``axes`` (width, n), the largest first, and how many of them
    ``few`` are: the first screen has these alone."""

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    few: int


def screen_for(sample: Vectors, mean: NDArray[np.float32], threshold: float) -> Screen:
    """The screen for vectors of which ``sample`` (n, width) are some: with as many axes as make the search cheapest, by
    what the sample's own pairs would take.

    Args:
        sample: vectors as they come, every n-th of the whole.
        mean: (width,), of the whole.
        threshold: the least cosine that is looked for.
    """
    some = units(sample, mean)
    width = some.shape[1]
    _, axes = np.linalg.eigh(some.T @ some)
    axes = np.ascontiguousarray(axes[:, ::-1], dtype=np.float32)
    rows = some[:: max(1, len(some) // _BLOCK)][:_BLOCK]
    costs: dict[int, float] = {}
    for count in sorted({min(n, width) for n in _TRIED}):
        second, full = (
            float((_first(rows, some_axes) @ _first(some, some_axes).T >= threshold - _SLACK).mean())
            for some_axes in (axes[:, :count], axes[:, : count * _FINER])
        )
        costs[count] = count * _NUMBER + second * _SECOND + full * _FULL
    few = min(costs, key=lambda count: costs[count])
    return Screen(mean, axes[:, : few * _FINER], few)


def _first(rows: NDArray[np.float32], axes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, axes + 1): what two rows of it give as a product is no less than their cosine."""
    low = rows @ axes
    left_out = np.sqrt(np.maximum(0, (rows * rows).sum(axis=1) - (low * low).sum(axis=1)))
    return np.concatenate([low, left_out[:, None]], axis=1)


def alike_to_earlier(
    blocks: Iterable[Vectors],
    vectors_at: Callable[[Sequence[int]], Vectors],
    screen: Screen,
    threshold: float,
) -> Iterator[Alike]:
    """Each vector whose cosine with an earlier one that stays is at least ``threshold``, with the most alike of these;
    all others stay. So whatever goes is alike to something that stays.

    Args:
        blocks: the vectors in their order, (n, width) each.
        vectors_at: gives those at these positions again, in that order.
        screen: of :func:`screen_for`.
        threshold: the least cosine, above 0.
    """
    stay = _Staying(screen, vectors_at, threshold - _ROUNDING)
    first = 0
    for block in (part for whole in blocks for part in _cut(whole)):
        full = units(block, screen.mean)
        best = stay.best(full)
        within = full @ full.T
        rows, earlier = np.nonzero(np.tril(within >= threshold - _ROUNDING, -1))
        stays = np.ones(len(full), dtype=bool)
        for row in sorted({*best, *rows.tolist()}):
            cosine, of = best.get(row, (0.0, -1))
            beside = earlier[np.searchsorted(rows, row) : np.searchsorted(rows, row, side="right")]
            beside = beside[stays[beside]]
            if len(beside):
                nearest = int(beside[within[row, beside].argmax()])
                if within[row, nearest] > cosine:
                    cosine, of = float(within[row, nearest]), first + nearest
            if of >= 0:
                stays[row] = False
                yield Alike(first + row, of, min(cosine, 1.0))
        stay.add(full[stays], first + np.flatnonzero(stays))
        first += len(full)


class _Staying:
    """The vectors that stay, by what the screen keeps of each, and where each stands."""

    def __init__(self, screen: Screen, vectors_at: Callable[[Sequence[int]], Vectors], least: float) -> None:
        self._screen, self._vectors_at, self._least = screen, vectors_at, least
        finer = screen.axes.shape[1] - screen.few
        self._first = np.empty((_COLUMNS, screen.few + 1), dtype=np.float32)
        self._second = np.empty((_COLUMNS, finer + 1), dtype=np.float16)
        self._positions = np.empty(_COLUMNS, dtype=np.int64)
        self._bound = np.empty(_BLOCK * _COLUMNS, dtype=np.float32)
        self._size = 0

    def add(self, full: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
        """These stay, too."""
        end = self._size + len(full)
        if end > len(self._positions):
            more = max(_COLUMNS, len(self._positions) // 2)
            self._first, self._second, self._positions = (
                np.concatenate([a, np.empty((more, *a.shape[1:]), dtype=a.dtype)])
                for a in (self._first, self._second, self._positions)
            )
        low, finer = self._coordinates(full)
        self._first[self._size : end], self._second[self._size : end] = low, finer
        self._positions[self._size : end] = positions
        self._size = end

    def _room(self, rows: int, columns: int) -> NDArray[np.float32]:
        """(rows, columns) to write into; memory that is asked for anew each time costs more than what fills it."""
        return self._bound[: rows * columns].reshape(rows, columns)

    def _coordinates(self, full: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(n, few + 1) and (n, finer + 1): the coordinates of both screens, the first's of which the second continues;
        each ends with the length of what it leaves out."""
        few = self._screen.few
        whole = _first(full, self._screen.axes)
        low = whole[:, :few]
        left_out = np.sqrt(np.maximum(0, (full * full).sum(axis=1) - (low * low).sum(axis=1)))
        return np.concatenate([low, left_out[:, None]], axis=1), whole[:, few:]

    def best(self, full: NDArray[np.float32]) -> dict[int, tuple[float, int]]:
        """By row, the largest cosine with one that stays, and that one's position; only where it is large enough."""
        best: dict[int, tuple[float, int]] = {}
        low, finer = self._coordinates(full)
        for start in range(0, self._size, _COLUMNS):
            end = min(start + _COLUMNS, self._size)
            bound = np.matmul(low, self._first[start:end].T, out=self._room(len(low), end - start))
            hits = np.flatnonzero(bound.ravel() >= self._least - _SLACK)  # far faster than in two dimensions
            if not len(hits):
                continue
            rows, columns = np.divmod(hits, end - start)
            left_out = low[rows, -1] * self._first[start + columns, -1]
            finer_bound = bound[rows, columns] - left_out + _dots(finer[rows], self._second[start + columns])
            passing = finer_bound >= self._least - _HALF_SLACK
            rows, columns = rows[passing], columns[passing]
            if not len(rows):
                continue
            candidates = np.unique(columns)
            others = units(self._vectors_at(self._positions[start + candidates].tolist()), self._screen.mean)
            cosines = _dots(full[rows], others[np.searchsorted(candidates, columns)])
            for row, column, cosine in zip(rows.tolist(), columns.tolist(), cosines.tolist(), strict=True):
                if cosine >= self._least and cosine > best.get(row, (-1.0, 0))[0]:
                    best[row] = (cosine, int(self._positions[start + column]))
        return best


def _dots(a: NDArray[np.float32], b: Vectors) -> NDArray[np.float32]:
    """(n,): the products of the rows of both, (n, width) each."""
    return np.asarray(np.einsum("nw,nw->n", a, b.astype(np.float32)))


def _cut(vectors: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), _BLOCK):
        yield vectors[start : start + _BLOCK]
