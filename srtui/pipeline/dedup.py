"""Near-duplicates of a dataset: found, shown, and then marked or left out (``srtui data dedup``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from srtui.datasets.near_duplicates import BandTable, confirmed, groups, shingles, similarity
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.whole_datasets import NearDuplicate

Side = Literal["pair", "instruction", "response"]
SIDES: tuple[Side, ...] = ("pair", "instruction", "response")
THRESHOLD = 0.8


@dataclass(frozen=True)
class DuplicateGroup:
    """Samples that are alike: the ones that stay, and the others, each with the one that stays for it."""

    kept: list[int]
    others: list[NearDuplicate]


@dataclass(frozen=True)
class Duplicates:
    """The near-duplicates among the ``samples`` of a dataset at a similarity of ``threshold`` (Jaccard, or the cosine
    of embeddings by meaning), the largest groups first; ``duplicates`` is how many samples would go."""

    dataset: str
    samples: int
    side: Side | Literal["meaning"]
    threshold: float
    duplicates: int
    groups: list[DuplicateGroup]

    def found(self) -> Iterable[NearDuplicate]:
        """All samples that would go."""
        return (duplicate for group in self.groups for duplicate in group.others)


def text_of(pair: Pair, side: Side) -> str:
    """What is compared of a sample. In a conversation the turn before it belongs to what is asked: "go on" asks for
    something else each time. What is earlier does not, for exchanges of one conversation have most of it in common."""
    if side == "response":
        return pair.response
    text = "\n".join([*(turn.text for turn in pair.history[-1:]), pair.instruction, pair.input])
    return text if side == "instruction" else f"{text}\n{pair.response}"


def find_duplicates(
    store: Store,
    dataset: str,
    dataset_id: int,
    side: Side = "pair",
    threshold: float = THRESHOLD,
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Duplicates:
    """The near-duplicates of a dataset's originals. Of a group the first sample stays, and each later one that is
    not like one that stays: whatever goes is at least ``threshold`` like a sample that is kept.

    Args:
        store: is only read.
        dataset: the dataset's name.
        dataset_id: its id.
        side: which texts are compared.
        threshold: the least Jaccard similarity of their shingles, above 0 and at most 1.
        on_progress: gets the step (``read``, ``compare``), how much of it is done, and in all.
    """
    total = store.corpus.size(dataset_id)
    table, ids = BandTable(), np.empty(total, dtype=np.int64)
    for n, (sample_id, pair) in enumerate(store.corpus.original_pairs(dataset_id)):
        if n % 2048 == 0:
            on_progress("read", n, total)
        ids[n] = sample_id
        table.add(text_of(pair, side))

    def texts(positions: Sequence[int]) -> list[str]:
        pairs = store.corpus.original_pairs_of(ids[list(positions)].tolist())
        return [text_of(pairs[int(ids[position])], side) for position in positions]

    pairs = confirmed(
        table.candidates(), texts, threshold, lambda done, whole: on_progress("compare", done, whole)
    )
    duplicate_groups = [_settle(members, texts, ids, threshold) for members in groups(total, pairs)]
    duplicate_groups.sort(key=lambda group: (-len(group.others), group.kept))
    return Duplicates(
        dataset, total, side, threshold, sum(len(g.others) for g in duplicate_groups), duplicate_groups
    )


def _settle(
    members: Sequence[int],
    texts: Callable[[Sequence[int]], list[str]],
    ids: NDArray[np.int64],
    threshold: float,
) -> DuplicateGroup:
    kept: list[tuple[int, NDArray[np.uint64]]] = []
    duplicates: list[NearDuplicate] = []
    for start in range(0, len(members), _TOGETHER):
        block = members[start : start + _TOGETHER]
        for position, text in zip(block, texts(block), strict=True):
            signs = shingles(text)
            likeness = [(similarity(signs, of), -n) for n, (_, of) in enumerate(kept)]
            most, n = max(likeness, default=(0.0, 0))
            if most >= threshold:
                duplicates.append(NearDuplicate(int(ids[position]), int(ids[kept[-n][0]]), most))
            else:
                kept.append((position, signs))
    return DuplicateGroup([int(ids[position]) for position, _ in kept], duplicates)


_TOGETHER = 1024  # samples of a group whose texts are read at once
