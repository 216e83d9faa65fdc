"""Samples that mean much the same, by stored embeddings: near-duplicates by meaning, and neighbours.

Both are exact at any size. In memory are, of near-duplicates, the few numbers of each that :mod:`srtui.similarity`
screens by, while the vectors themselves lie in a file beside the store until all are compared; and of neighbours one block.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srtui.errors import UserError
from srtui.pipeline.dedup import SIDES, THRESHOLD, DuplicateGroup, Duplicates, find_duplicates
from srtui.similarity import Vectors, alike_to_earlier, mean_of, sample_step, screen_for, units
from srtui.store import Store
from srtui.store.whole_datasets import NearDuplicate

MEANING_THRESHOLD = 0.95


@dataclass(frozen=True)
class Neighbour:
    """A sample beside another, with the cosine of the two around the mean of the dataset, -1 to 1."""

    sample_id: int
    cosine: float
    instruction: str


def embeddings_of(store: Store, dataset: str, dataset_id: int) -> int:
    """The setting under which a dataset's originals have embeddings. Raises UserError where none has."""
    setting_id = store.embeddings.setting_of_dataset(dataset_id)
    if setting_id is None:
        raise UserError(
            f"The samples of {dataset} have no embeddings; a student makes them: srtui data embed {dataset} --student NAME"
        )
    return setting_id


def duplicates_by_meaning(
    store: Store,
    dataset: str,
    dataset_id: int,
    threshold: float = MEANING_THRESHOLD,
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Duplicates:
    """As :func:`srtui.pipeline.dedup.find_duplicates`, with the cosine of embeddings in place of shared words; only
    embedded samples are compared, and a group is a sample that stays with those that are like it. Raises UserError
    where none has an embedding.

    Args:
        store: is only read.
        dataset: the dataset's name.
        dataset_id: its id.
        threshold: the least cosine around the mean of the dataset, above 0 and at most 1.
        on_progress: gets the step (``read``, ``compare``), how much of it is done, and in all.
    """
    setting_id = embeddings_of(store, dataset, dataset_id)
    size = store.corpus.size(dataset_id)
    samples: list[NDArray[np.int64]] = []
    # Vectors are asked for again in any order: a file that is mapped gives them ten times as fast as the store.
    folder = store.path.parent
    with tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None) as file:

        def copied() -> Iterator[Vectors]:
            for block in store.embeddings.of_dataset(dataset_id, setting_id):
                on_progress("read", sum(map(len, samples)), size)
                samples.append(block.samples)
                file.write(block.vectors.tobytes())
                yield block.vectors

        mean = mean_of(copied())
        file.flush()
        sample_at = np.concatenate(samples)
        vectors = np.memmap(file, dtype="<f2", mode="r", shape=(len(sample_at), len(mean)))
        screen = screen_for(vectors[:: sample_step(len(vectors))], mean, threshold)

        def blocks() -> Iterator[Vectors]:
            for first in range(0, len(vectors), _BLOCK):
                on_progress("compare", first, len(vectors))
                yield vectors[first : first + _BLOCK]

        groups: dict[int, DuplicateGroup] = {}
        for alike in alike_to_earlier(blocks(), lambda at: vectors[at], screen, threshold):
            duplicate, kept = int(sample_at[alike.position]), int(sample_at[alike.of])
            groups.setdefault(kept, DuplicateGroup([kept], [])).others.append(
                NearDuplicate(duplicate, kept, alike.cosine)
            )
    by_size = sorted(groups.values(), key=lambda group: (-len(group.others), group.kept))
    return Duplicates(
        dataset, len(sample_at), "meaning", threshold, sum(len(g.others) for g in by_size), by_size
    )


_BLOCK = 4096  # vectors that are compared together


def duplicates_by(
    store: Store,
    dataset: str,
    dataset_id: int,
    by: str,
    threshold: float | None = None,
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Duplicates:
    """The near-duplicates of a dataset by the words of its texts, or by their meaning. Raises UserError where ``by`` is
    neither, and where no sample has an embedding to compare meanings by.

    Args:
        store: is only read.
        dataset: the dataset's name.
        dataset_id: its id.
        by: pair, instruction or response, whose words are compared; or meaning.
        threshold: the least similarity; None for the usual one.
        on_progress: gets the step, how much of it is done, and in all.
    """
    if by == "meaning":
        return duplicates_by_meaning(store, dataset, dataset_id, threshold or MEANING_THRESHOLD, on_progress)
    side = next((name for name in SIDES if name == by), None)
    if side is None:
        raise UserError(f"--by {by}: it can be {', '.join(SIDES)}, meaning.")
    return find_duplicates(store, dataset, dataset_id, side, threshold or THRESHOLD, on_progress)


def neighbours(store: Store, sample_id: int, count: int) -> list[Neighbour]:
    """The samples of the same dataset that mean most nearly the same, the nearest first. Raises UserError where the
    sample or its embedding is not there."""
    origin = store.corpus.origin(sample_id)
    if origin is None:
        raise UserError(f"There is no sample {sample_id}.")
    dataset_id = store.corpus.dataset_id(origin.dataset) or 0
    setting_id = embeddings_of(store, origin.dataset, dataset_id)
    own = store.corpus.original_variants([sample_id])[sample_id]
    embedded_ids, vector = store.embeddings.load([own], setting_id)
    if not embedded_ids:
        raise UserError(
            f"Sample {sample_id} has no embedding; srtui data embed {origin.dataset} makes what is missing."
        )
    mean = mean_of(block.vectors for block in store.embeddings.of_dataset(dataset_id, setting_id))
    direction = units(vector, mean)[0]
    best: list[tuple[float, int]] = []
    for block in store.embeddings.of_dataset(dataset_id, setting_id):
        cosines = units(block.vectors, mean) @ direction
        nearest = np.argsort(-cosines, kind="stable")[: count + 1]
        best += [
            (-float(cosines[n]), int(block.samples[n])) for n in nearest if block.samples[n] != sample_id
        ]
        best = sorted(best)[:count]
    pairs = store.corpus.original_pairs_of(sample for _, sample in best)
    return [Neighbour(sample, -cosine, pairs[sample].instruction) for cosine, sample in best]
