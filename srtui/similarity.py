"""Which of millions of vectors are nearly the same, exactly, without comparing all with all at full width. Pure
mathematics.

Unit vectors are projected on their largest principal axes. With the projections a and b of two of them and the lengths
r and s of what the projections leave out, Cauchy and Schwarz give cosine <= a·b + r·s. A pair whose bound is below the
threshold cannot be alike; only the few others are compared at full width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float16] | NDArray[np.float32]
_SLACK = 1e-4  # of single precision, so that rounding hides no pair
_ROUNDING = 1e-6  # a copy has a cosine of 1 but for this
_BLOCK = 1024
_COLUMNS = 8192
_TRIED = (32, 64, 128, 256)
_SAMPLE = 8192  # vectors that the axes are found with
# What a comparison takes, in seconds of a processor core: a multiplication of the screen, and a pair at full width, whose
# vectors are read from the store. Only their relation matters: it decides how many axes the screen has.
_MULTIPLICATION, _FULL_PAIR = 2.5e-11, 1e-5


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
    """Every how many of ``size`` vectors one is taken for :func:`screen_axes`."""
    return max(1, size // _SAMPLE)


def screen_axes(sample: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """(width, axes): the principal axes to screen with: as many as make the whole search cheapest, by what the sample's
    own pairs would take. Where no number of them would help, all of them.

    Args:
        sample: (n, width), unit vectors of the whole, at least one.
        threshold: the least cosine that is looked for.
    """
    width = sample.shape[1]
    if not width or not len(sample):
        return np.empty((width, 0), dtype=np.float32)
    _, axes = np.linalg.eigh(sample.T @ sample)
    axes = np.ascontiguousarray(axes[:, ::-1], dtype=np.float32)
    rows = sample[:: max(1, len(sample) // _BLOCK)][:_BLOCK]
    alike = int((rows @ sample.T >= threshold).sum())
    costs: dict[int, float] = {}
    for count in sorted({min(n, width) for n in _TRIED}):
        bound = _coordinates(rows, axes[:, :count]) @ _coordinates(sample, axes[:, :count]).T
        in_vain = max(0, int((bound >= threshold - _SLACK).sum()) - alike) / bound.size
        costs[count] = count * _MULTIPLICATION + in_vain * _FULL_PAIR
    return axes[:, : min(costs, key=lambda count: costs[count])]


def _coordinates(rows: NDArray[np.float32], axes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, axes + 1): what two rows of it give as a product is no less than their cosine."""
    low = rows @ axes
    rest = np.sqrt(np.maximum(0, (rows * rows).sum(axis=1) - (low * low).sum(axis=1)))
    return np.concatenate([low, rest[:, None]], axis=1)


def alike_to_earlier(
    blocks: Iterable[Vectors],
    vectors_at: Callable[[Sequence[int]], Vectors],
    mean: NDArray[np.float32],
    axes: NDArray[np.float32],
    threshold: float,
) -> Iterator[Alike]:
    """Each vector whose cosine with an earlier one that stays is at least ``threshold``, with the most alike of these;
    all others stay. So whatever goes is alike to something that stays.

    Args:
        blocks: the vectors in their order, (n, width) each.
        vectors_at: gives those at these positions again, in that order.
        mean: (width,), taken off before cosines.
        axes: (width, n) of :func:`screen_axes`.
        threshold: the least cosine, above 0.
    """
    kept = np.empty((_COLUMNS, axes.shape[1] + 1), dtype=np.float32)
    positions = np.empty(_COLUMNS, dtype=np.int64)
    stay = first = 0
    least = threshold - _ROUNDING
    for block in (part for whole in blocks for part in _cut(whole)):
        full = units(block, mean)
        low = _coordinates(full, axes)
        best = _best_before(full, low, kept[:stay], positions[:stay], vectors_at, mean, least)
        within = full @ full.T
        staying: list[int] = []
        for row in range(len(full)):
            cosine, of = best.get(row, (0.0, -1))
            beside = within[row, staying]
            nearest = int(beside.argmax()) if staying else 0
            if staying and beside[nearest] >= least and beside[nearest] > cosine:
                cosine, of = float(beside[nearest]), first + staying[nearest]
            if of < 0:
                staying.append(row)
            else:
                yield Alike(first + row, of, min(cosine, 1.0))
        if stay + len(staying) > len(kept):
            kept = np.concatenate([kept, np.empty_like(kept)])
            positions = np.concatenate([positions, np.empty_like(positions)])
        kept[stay : stay + len(staying)] = low[staying]
        positions[stay : stay + len(staying)] = first + np.array(staying, dtype=np.int64)
        stay += len(staying)
        first += len(full)


def _cut(vectors: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), _BLOCK):
        yield vectors[start : start + _BLOCK]


def _best_before(
    full: NDArray[np.float32],
    low: NDArray[np.float32],
    kept: NDArray[np.float32],
    positions: NDArray[np.int64],
    vectors_at: Callable[[Sequence[int]], Vectors],
    mean: NDArray[np.float32],
    threshold: float,
) -> dict[int, tuple[float, int]]:
    """By row, the largest cosine with one that stays, and that one's position; only where it reaches the threshold."""
    best: dict[int, tuple[float, int]] = {}
    for start in range(0, len(kept), _COLUMNS):
        bound = low @ kept[start : start + _COLUMNS].T
        rows = np.flatnonzero(bound.max(axis=1) >= threshold - _SLACK)
        if not len(rows):
            continue
        which, columns = np.nonzero(bound[rows] >= threshold - _SLACK)
        asked = np.unique(columns)
        others = units(vectors_at(positions[start + asked].tolist()), mean)
        cosines = np.einsum("nw,nw->n", full[rows[which]], others[np.searchsorted(asked, columns)])
        for row, column, cosine in zip(rows[which].tolist(), columns.tolist(), cosines.tolist(), strict=True):
            if cosine >= threshold and cosine > best.get(row, (-1.0, 0))[0]:
                best[row] = (cosine, int(positions[start + column]))
    return best
