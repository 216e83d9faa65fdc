"""Which of millions of vectors are nearly the same, exactly, without comparing all with all at full width. Pure
mathematics.

Unit vectors are projected on their largest principal axes. With the projections a and b of two of them and the lengths
r and s of what the projections leave out, Cauchy and Schwarz give cosine <= a·b + r·s. A pair whose bound is below the
threshold cannot be alike. Pairs are screened by a few axes, the others once more by four times as many, and what is
left is compared at full width.

(a, r) is itself a unit vector, so a bound of at least t means that two of them are no farther apart than
sqrt(2 - 2t). The vectors that stay are kept in the leaves of a k-d tree over these coordinates, each with the box around
what it holds, and a vector is screened against the leaves alone whose box is that near.
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
_BOXED = 16  # axes that the boxes of leaves have
_LEVELS, _IN_A_LEAF = 9, 16  # of the tree at most, and vectors of the sample that make a leaf
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


class Cuts(NamedTuple):
    """A k-d tree without its points: node n divides at ``values[n]`` of axis ``axes[n]``, its children are 2n + 1 and
    2n + 2, and what lies behind the last of its ``levels`` are the leaves."""

    levels: int = 0
    axes: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    values: NDArray[np.float32] = np.empty(0, dtype=np.float32)

    def leaves_of(self, low: NDArray[np.float32]) -> NDArray[np.int64]:
        """(n,): the leaf of each row, from 0."""
        node = np.zeros(len(low), dtype=np.int64)
        for _ in range(self.levels):
            node = 2 * node + 1 + (low[np.arange(len(low)), self.axes[node]] > self.values[node])
        return np.asarray(node - (2**self.levels - 1))


def cuts_for(low: NDArray[np.float32]) -> Cuts:
    """The tree for points of which ``low`` (n, axes) are some: each node divides at the median of the axis on which its
    points differ most."""
    levels = min(_LEVELS, max(0, int(np.log2(max(1, len(low) / _IN_A_LEAF)))))
    axes, values = np.zeros(2**levels - 1, dtype=np.int64), np.zeros(2**levels - 1, dtype=np.float32)
    members = {0: np.arange(len(low))}
    for node in range(2**levels - 1):
        own = members.pop(node)
        if len(own):
            axis = int(low[own].var(axis=0).argmax())
            axes[node], values[node] = axis, np.median(low[own, axis])
        above = low[own, axes[node]] > values[node]
        members[2 * node + 1], members[2 * node + 2] = own[~above], own[above]
    return Cuts(levels, axes, values)


class Screen(NamedTuple):
    """What vectors are screened with: ``mean`` (width,), ``axes`` (width, n), the largest first, how many of them
    ``few`` are: the first screen has these alone; and how those that stay are divided."""

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    few: int
    cuts: Cuts = Cuts()


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
    return Screen(mean, axes[:, : few * _FINER], few, cuts_for(some @ axes[:, : min(few, _BOXED)]))


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
    first, at_the_mean = 0, -1
    for block in (part for whole in blocks for part in _cut(whole)):
        full = units(block, screen.mean)
        best = stay.best(full)
        within = full @ full.T
        rows, earlier = np.nonzero(np.tril(within >= threshold - _ROUNDING, -1))
        stays = np.ones(len(full), dtype=bool)
        # Vectors that are the mean itself have no direction, and are the same vector all the same.
        without = set(np.flatnonzero(~full.any(axis=1)).tolist())
        for row in sorted({*best, *rows.tolist(), *without}):
            cosine, of = best.get(row, (0.0, -1))
            if row in without:
                cosine, of = 1.0, at_the_mean
                at_the_mean = max(at_the_mean, first + row) if of < 0 else of
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


class _Leaf:
    """The vectors of a leaf that stay: what the screens keep of each, and where each stands."""

    def __init__(self, few: int, finer: int) -> None:
        self.size = 0
        self.first = np.empty((0, few + 1), dtype=np.float32)
        self.second = np.empty((0, finer + 1), dtype=np.float16)
        self.positions = np.empty(0, dtype=np.int64)

    def add(self, low: NDArray[np.float32], finer: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
        """These stay, too."""
        end = self.size + len(low)
        if end > len(self.positions):
            more = max(64, end - self.size, self.size // 2)
            self.first, self.second, self.positions = (
                np.concatenate([a[: self.size], np.empty((more, *a.shape[1:]), dtype=a.dtype)])
                for a in (self.first, self.second, self.positions)
            )
        self.first[self.size : end], self.second[self.size : end] = low, finer
        self.positions[self.size : end] = positions
        self.size = end


class _Staying:
    """The vectors that stay, in leaves, each with the box around its own."""

    def __init__(self, screen: Screen, vectors_at: Callable[[Sequence[int]], Vectors], least: float) -> None:
        self._screen, self._vectors_at, self._least = screen, vectors_at, least
        finer = screen.axes.shape[1] - screen.few
        leaves = 2**screen.cuts.levels
        self._leaves = [_Leaf(screen.few, finer) for _ in range(leaves)]
        self._boxed = min(screen.few, _BOXED)
        self._box_low = np.full((self._boxed, leaves), np.inf, dtype=np.float32)
        self._box_high = np.full((self._boxed, leaves), -np.inf, dtype=np.float32)
        self._bound = np.empty(_BLOCK * _COLUMNS, dtype=np.float32)

    def add(self, full: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
        """These stay, too."""
        low, finer = self._coordinates(full)
        leaf_of = self._screen.cuts.leaves_of(low)
        for number in np.unique(leaf_of).tolist():
            own = leaf_of == number
            self._leaves[number].add(low[own], finer[own], positions[own])
            boxed = low[own, : self._boxed]
            self._box_low[:, number] = np.minimum(self._box_low[:, number], boxed.min(axis=0))
            self._box_high[:, number] = np.maximum(self._box_high[:, number], boxed.max(axis=0))

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

    def _near(self, low: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(n, leaves): whether a box is near enough to hold one that is alike. An empty one is infinitely far."""
        far = np.zeros((len(low), len(self._leaves)), dtype=np.float32)
        for axis in range(self._boxed):
            own = low[:, axis : axis + 1]
            outside = np.maximum(self._box_low[axis] - own, own - self._box_high[axis])
            np.maximum(outside, 0, out=outside)
            far += outside * outside
        return np.asarray(far <= 2 - 2 * (self._least - _SLACK))

    def best(self, full: NDArray[np.float32]) -> dict[int, tuple[float, int]]:
        """By row, the largest cosine with one that stays, and that one's position; only where it is large enough."""
        low, finer = self._coordinates(full)
        near = self._near(low)
        rows: list[NDArray[np.int64]] = []
        positions: list[NDArray[np.int64]] = []
        for number in np.flatnonzero(near.any(axis=0)).tolist():
            leaf, asking = self._leaves[number], np.flatnonzero(near[:, number])
            for start in range(0, leaf.size, _COLUMNS):
                part = slice(start, min(start + _COLUMNS, leaf.size))
                some, others = self._passing(low[asking], finer[asking], leaf, part)
                rows.append(asking[some])
                positions.append(others)
        if not rows:
            return {}
        return self._most_alike(full, np.concatenate(rows), np.concatenate(positions))

    def _passing(
        self, low: NDArray[np.float32], finer: NDArray[np.float32], leaf: _Leaf, part: slice
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(pairs,) rows and (pairs,) positions in a leaf that no screen keeps apart."""
        columns_here = part.stop - part.start
        bound = np.matmul(low, leaf.first[part].T, out=self._room(len(low), columns_here))
        hits = np.flatnonzero(bound.ravel() >= self._least - _SLACK)  # far faster than in two dimensions
        rows, columns = np.divmod(hits, columns_here)
        in_leaf = part.start + columns
        left_out = low[rows, -1] * leaf.first[in_leaf, -1]
        finer_bound = bound[rows, columns] - left_out + _dots(finer[rows], leaf.second[in_leaf])
        passing = finer_bound >= self._least - _HALF_SLACK
        return rows[passing], leaf.positions[in_leaf[passing]]

    def _most_alike(
        self, full: NDArray[np.float32], rows: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> dict[int, tuple[float, int]]:
        """:meth:`best` of these pairs, at full width; of two that are equally alike the earlier one."""
        best: dict[int, tuple[float, int]] = {}
        order = np.argsort(positions, kind="stable")
        for start in range(0, len(order), _COLUMNS):
            pairs = order[start : start + _COLUMNS]
            asked, which = np.unique(positions[pairs], return_inverse=True)
            others = units(self._vectors_at(asked.tolist()), self._screen.mean)
            cosines = _dots(full[rows[pairs]], others[which])
            for row, position, cosine in zip(
                rows[pairs].tolist(), positions[pairs].tolist(), cosines.tolist(), strict=True
            ):
                if cosine >= self._least and cosine > best.get(row, (-1.0, 0))[0]:
                    best[row] = (cosine, position)
        return best


def _dots(a: NDArray[np.float32], b: Vectors) -> NDArray[np.float32]:
    """(n,): the products of the rows of both, (n, width) each."""
    return np.asarray(np.einsum("nw,nw->n", a, b.astype(np.float32)))


def _cut(vectors: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), _BLOCK):
        yield vectors[start : start + _BLOCK]
