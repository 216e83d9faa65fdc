"""A sample that has of every kind and length its share."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

BANDS = 4
"""Bands of length: quarters of the data set by characters."""


@dataclass(frozen=True)
class Stratum:
    """Samples of one kind and one band of length. ``shortest`` and ``longest`` are in characters of instruction,
    input and response together; ``of`` is how many there are, ``chosen`` the ids drawn from them."""

    kind: str
    shortest: int
    longest: int
    of: int
    chosen: tuple[int, ...]


def stratified(
    samples: Iterable[tuple[int, str, int]], count: int, order: Callable[[int], bytes]
) -> list[Stratum]:
    """Draw ``count`` samples, from each stratum in proportion to its size (largest remainders; Cochran 1977, 5.4).

    Args:
        samples: (id, kind, characters), read once: two numbers of each are kept.
        count: how many to draw; all of them where there are no more.
        order: a sample's place in the draw, a hash of its id under the recipe's seed.

    Returns:
        the strata that there are, the shortest of each kind first; together they hold min(count, samples) ids.
    """
    names: dict[str, int] = {}
    ids, kinds, lengths = [], [], []
    for sample_id, kind, characters in samples:
        ids.append(sample_id)
        kinds.append(names.setdefault(kind, len(names)))
        lengths.append(characters)
    if not ids:
        return []
    of_id, of_kind, length = (
        np.array(ids, dtype=np.int64),
        np.array(kinds, dtype=np.int16),
        np.array(lengths, dtype=np.int64),
    )
    del ids, kinds, lengths
    edges = np.quantile(length, [n / BANDS for n in range(1, BANDS)], method="lower")
    stratum_of = of_kind.astype(np.int64) * BANDS + np.searchsorted(edges, length, side="left")
    occupied, sizes = np.unique(stratum_of, return_counts=True)
    shares = _shares([int(n) for n in sizes], min(count, len(of_id)))
    kind_names = list(names)
    strata = []
    for stratum, size, share in zip(occupied.tolist(), sizes.tolist(), shares, strict=True):
        members = np.flatnonzero(stratum_of == stratum)
        chosen = heapq.nsmallest(share, (int(i) for i in of_id[members]), key=order)
        strata.append(
            Stratum(
                kind_names[stratum // BANDS],
                int(length[members].min()),
                int(length[members].max()),
                size,
                tuple(sorted(chosen)),
            )
        )
    return strata


def _shares(sizes: list[int], count: int) -> list[int]:
    """``count`` split in proportion to ``sizes``: whole parts, then one more for the largest remainders."""
    total = sum(sizes)
    whole = [count * size // total for size in sizes]
    rest = sorted(range(len(sizes)), key=lambda n: (-(count * sizes[n] % total), n))
    for n in rest[: count - sum(whole)]:
        whole[n] += 1
    return whole
