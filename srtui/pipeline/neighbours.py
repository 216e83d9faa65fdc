"""Samples that mean much the same, by the student's embeddings: near-duplicates by meaning, and neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srtui.datasets.near_duplicates import DuplicatePair, groups
from srtui.errors import UserError
from srtui.pipeline.dedup import DuplicateGroup, Duplicates
from srtui.store import Store
from srtui.store.whole_datasets import NearDuplicate
from srtui.subsets import MOST, directions

MEANING_THRESHOLD = 0.95
_BLOCK = 1024


@dataclass(frozen=True)
class Neighbour:
    """A sample beside another, with the cosine of the two around the mean of the dataset, -1 to 1."""

    sample_id: int
    cosine: float
    instruction: str


def _units(store: Store, dataset: str, dataset_id: int) -> tuple[list[int], NDArray[np.float32]]:
    """Sample ids and unit vectors of a dataset's embedded originals. Raises UserError where there are none, or more
    than are compared exactly."""
    size = store.corpus.size(dataset_id)
    if size > MOST:
        raise UserError(
            f"{dataset} has {size:,} samples, and embeddings of more than {MOST:,} are not compared; "
            "--by pair compares words and has no such limit."
        )
    variant_of = store.corpus.original_variants(
        sample for sample, _ in store.corpus.original_pairs(dataset_id)
    )
    sample_of = {variant: sample for sample, variant in variant_of.items()}
    setting_id = store.embeddings.setting_of(list(sample_of), None)
    if setting_id is None:
        raise UserError(
            f"The samples of {dataset} have no embeddings; a run's student makes them: srtui data look --run RUN --embed"
        )
    embedded, vectors = store.embeddings.load(list(sample_of), setting_id)
    return [sample_of[variant] for variant in embedded], directions(vectors)


def duplicates_by_meaning(
    store: Store, dataset: str, dataset_id: int, threshold: float = MEANING_THRESHOLD
) -> Duplicates:
    """As :func:`srtui.pipeline.dedup.find_duplicates`, with the cosine of embeddings in place of shared words. Only
    embedded samples are compared, all with all. Raises UserError where there are none.

    Args:
        store: is only read.
        dataset: the dataset's name.
        dataset_id: its id.
        threshold: the least cosine around the mean of the dataset, at most 1.
    """
    samples, units = _units(store, dataset, dataset_id)
    pairs: list[DuplicatePair] = []
    for start in range(0, len(units), _BLOCK):
        cosines = units[start : start + _BLOCK] @ units[start:].T
        for row, column in np.argwhere(cosines >= threshold).tolist():
            if column > row:
                pairs.append(DuplicatePair(start + row, start + column, float(cosines[row, column])))
    duplicate_groups = []
    for members in groups(len(samples), pairs):
        kept: list[int] = []
        duplicates: list[NearDuplicate] = []
        for member in members:
            cosines_to_kept = units[kept] @ units[member] if kept else np.empty(0)
            if len(cosines_to_kept) and cosines_to_kept.max() >= threshold:
                nearest = kept[int(cosines_to_kept.argmax())]
                duplicates.append(
                    NearDuplicate(samples[member], samples[nearest], float(cosines_to_kept.max()))
                )
            else:
                kept.append(member)
        duplicate_groups.append(DuplicateGroup([samples[member] for member in kept], duplicates))
    duplicate_groups.sort(key=lambda group: (-len(group.others), group.kept))
    return Duplicates(
        dataset,
        len(samples),
        "meaning",
        threshold,
        sum(len(g.others) for g in duplicate_groups),
        duplicate_groups,
    )


def neighbours(store: Store, sample_id: int, count: int) -> list[Neighbour]:
    """The samples of the same dataset that mean most nearly the same, the nearest first. Raises UserError where the
    sample or its embedding is not there."""
    origin = store.corpus.origin(sample_id)
    if origin is None:
        raise UserError(f"There is no sample {sample_id}.")
    samples, units = _units(store, origin.dataset, store.corpus.dataset_id(origin.dataset) or 0)
    if sample_id not in samples:
        raise UserError(
            f"Sample {sample_id} has no embedding; srtui data look --run RUN --embed makes those of a run."
        )
    position = samples.index(sample_id)
    cosines = units @ units[position]
    cosines[position] = -np.inf
    nearest = np.argsort(-cosines, kind="stable")[: min(count, len(samples) - 1)].tolist()
    pairs = store.corpus.original_pairs_of(samples[n] for n in nearest)
    return [Neighbour(samples[n], float(cosines[n]), pairs[samples[n]].instruction) for n in nearest]
