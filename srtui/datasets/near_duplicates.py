"""Near-duplicates among millions of short texts: MinHash finds candidates, an exact comparison decides.

A text is a set of shingles: every run of eight bytes of its letters and digits, without case (so some eight letters
of English, three signs of Chinese). Two texts are near-duplicates where the Jaccard similarity of their sets is at
least a threshold. MinHash (Broder 1997) with bands (Leskovec et al., Mining of Massive Datasets, section 3.4) finds
pairs to compare: 20 bands of 6 rows miss 2 of 1,000 pairs at 0.8, and 1 of 100,000 at 0.87.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BANDS, ROWS = 20, 6
_PLACES = BANDS * ROWS
_SHINGLE = 8  # bytes: one 64-bit integer
_NOT_LETTERS = re.compile(r"[\W_]+")
_DRAWN = np.random.default_rng(20)
_DONORS = _DRAWN.integers(0, _PLACES, (64, _PLACES))
_MIX = _DRAWN.integers(1, 2**63, ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_NOTHING = np.uint32(2**32 - 1)


class DuplicatePair(NamedTuple):
    """Two texts by their positions, the earlier one first, and their Jaccard similarity."""

    first: int
    second: int
    similarity: float


def shingles(text: str) -> NDArray[np.uint64]:
    """The distinct shingles of a text, sorted. A text of fewer than eight bytes is one shingle; one without letters
    and digits is taken as it stands; an empty one has none."""
    return np.unique(_windows(text))


def _windows(text: str) -> NDArray[np.uint64]:
    letters = _letters(text)
    if not letters:
        return np.empty(0, dtype=np.uint64)
    signs = np.frombuffer(letters.ljust(_SHINGLE, b"\0"), dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(signs, _SHINGLE)
    return np.asarray(np.ascontiguousarray(windows).view(np.uint64)[:, 0])


def _letters(text: str) -> bytes:
    """Letters and digits without case, runs of all else as one space; without any, the text as it stands."""
    if text.isascii():  # ten times as fast, and the same
        return b" ".join(text.encode().translate(_ASCII).split()) or text.strip().encode()
    letters = _NOT_LETTERS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return (letters or text.strip()).encode("utf-8", "surrogatepass")


_ASCII = bytes(ord(chr(n).lower()) if chr(n).isalnum() and n < 128 else 32 for n in range(256))


def similarity(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Jaccard similarity of two sets of shingles: 0 to 1, and 0 where one is empty."""
    if not len(a) or not len(b):
        return 0.0
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def signature(of: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The MinHash signature of a set of shingles, (BANDS * ROWS,): two texts agree in a place with the probability
    of their similarity. A shingle that is there twice counts once.

    One permutation (Li, Owen and Zhang 2012): a hash says in which place a shingle counts and with which value. A
    place that has none borrows that of another, drawn for it (Shrivastava 2017), the same in every text.
    """
    mixed = of * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    mixed ^= mixed >> np.uint64(32)
    places = ((mixed >> np.uint64(32)) * np.uint64(_PLACES)) >> np.uint64(32)
    values = mixed.astype(np.uint32)
    least = np.full(_PLACES, _NOTHING, dtype=np.uint32)
    np.minimum.at(least, places.astype(np.intp), values)
    empty = least == _NOTHING
    if not len(of) or not empty.any():
        return least
    bins, filled = least.copy(), ~empty
    for donors in _DONORS:
        borrowing = empty & filled[donors]
        least[borrowing] = bins[donors[borrowing]]
        empty &= ~borrowing
        if not empty.any():
            return least
    filled_bins = np.flatnonzero(filled)
    least[empty] = bins[filled_bins[np.searchsorted(filled_bins, np.flatnonzero(empty)) % len(filled_bins)]]
    return least


def band_hashes(text: str) -> NDArray[np.uint64]:
    """(BANDS,): texts that share one of them are compared. Texts without a shingle have none but their own."""
    rows = signature(_windows(text)).reshape(BANDS, ROWS).astype(np.uint64)
    mixed = (rows * _MIX).sum(axis=1, dtype=np.uint64)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


class BandTable:
    """The band hashes of texts as they come, 160 bytes a text."""

    def __init__(self) -> None:
        self._chunks: list[NDArray[np.uint64]] = []
        self._open: list[NDArray[np.uint64]] = []
        self._empty: list[int] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, text: str) -> None:
        """The next text."""
        if not text.strip():
            self._empty.append(self._size)
        self._open.append(band_hashes(text))
        self._size += 1
        if len(self._open) == 4096:
            self._chunks.append(np.stack(self._open))
            self._open = []

    def candidates(self) -> NDArray[np.int64]:
        """(pairs, 2): positions of texts that share a band, each pair once and the earlier text first. In a band
        that many share, each is paired with the first of them and with the one before it, so that a thousand copies
        give two thousand pairs and not half a million."""
        table = np.concatenate(
            [*self._chunks, np.stack(self._open)] if self._open else self._chunks or [_NONE]
        )
        texts = len(table)
        pairs: list[NDArray[np.int64]] = []
        for band in range(BANDS):
            column = table[:, band]
            order = np.argsort(column, kind="stable")
            ordered = column[order]
            same = ordered[1:] == ordered[:-1]
            starts = np.concatenate([[True], ~same]) if texts else np.empty(0, bool)
            first = order[np.maximum.accumulate(np.where(starts, np.arange(texts), 0))] if texts else order
            inside = np.flatnonzero(same) + 1
            for other in (first[inside], order[inside - 1]):
                pairs.append(other.astype(np.int64) * texts + order[inside])
        coded = np.unique(np.concatenate(pairs))
        candidates = np.stack(np.divmod(coded, max(texts, 1)), axis=1)
        return np.asarray(candidates[~np.isin(candidates, self._empty).any(axis=1)])


_NONE = np.empty((0, BANDS), dtype=np.uint64)


def groups(texts: int, pairs: Sequence[DuplicatePair]) -> list[list[int]]:
    """Texts that pairs hold together, each group in order, the groups by their first text; only those of two or
    more. Two texts of a group need not be alike themselves: a third may be like both."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not pairs:
        return []
    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (first, second)), shape=(texts, texts))
    _, label = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for position in sorted({*first, *second}):
        members.setdefault(int(label[position]), []).append(position)
    return list(members.values())


def confirmed(
    candidates: NDArray[np.int64],
    texts: Callable[[Sequence[int]], Iterable[str]],
    threshold: float,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[DuplicatePair]:
    """Of the candidates, the pairs at or above ``threshold``, compared exactly.

    Args:
        candidates: (pairs, 2), as :meth:`BandTable.candidates` gives them.
        texts: gives the texts at these positions, in their order.
        threshold: the least Jaccard similarity, 0 to 1.
        on_progress: gets pairs compared and in all.
    """
    duplicates: list[DuplicatePair] = []
    for start in range(0, len(candidates), _COMPARED):
        block = candidates[start : start + _COMPARED]
        on_progress(start, len(candidates))
        positions = np.unique(block).tolist()
        sets = {position: shingles(text) for position, text in zip(positions, texts(positions), strict=True)}
        for first, second in block.tolist():
            likeness = similarity(sets[first], sets[second])
            if likeness >= threshold:
                duplicates.append(DuplicatePair(first, second, likeness))
    return duplicates


_COMPARED = 1024  # pairs whose texts are read together
