"""A map of a dataset: where its originals lie by their stored embeddings, and which topics they make.

Beyond a number of samples every n-th is taken, so that memory does not grow with them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from srtui.gates import COMMON_WORDS
from srtui.store import Store
from srtui.store.corpus import batched
from srtui.store.runs import Run
from srtui.subsets import MOST, clusters, directions

_Row = TypeVar("_Row")
Fate = Literal["kept", "not kept", "left out", "in the data"]
"""Of a run's samples the first two; of a dataset without a run the others: whether new runs leave it out."""
FATES: tuple[Fate, ...] = ("kept", "not kept", "left out", "in the data")
_WORD = re.compile(r"[^\W\d_]{3,}")
_TOPIC_WORDS = 6
_MOST_TOPICS = 12
_LEAST = 4  # embeddings that make a map
_PAGE = 1024


@dataclass(frozen=True)
class Topic:
    """A cluster of embeddings: the words that its instructions have more often than others, and how many texts."""

    words: list[str]
    before: int
    after: int


@dataclass(frozen=True)
class MapPoint:
    """A sample in the plane of the two directions in which embeddings differ most; ``topic`` is its number."""

    x: float
    y: float
    topic: int
    fate: Fate
    sample_id: int

    @property
    def kept(self) -> bool:
        """Whether a run keeps it."""
        return self.fate == "kept"


@dataclass(frozen=True)
class DataMap:
    """The topics of those originals of a run, or a dataset, that have an embedding, ``embedded`` in number, and where
    each lies; empty where there are fewer than four. Every ``step``-th of ``samples`` was looked at."""

    embedded: int
    topics: list[Topic]
    points: list[MapPoint]
    samples: int = 0
    step: int = 1


def map_of_run(store: Store, run: Run, most: int = MOST) -> DataMap:
    """The topics and the map of a run's originals, by the embeddings that are stored; of more than ``most`` of every
    n-th."""
    samples = store.runs.sample_count(run.id)
    if store.embeddings.is_empty():
        return DataMap(0, [], [], samples)
    some = every_nth(store.runs.each_sample_id(run.id), samples, most)
    kept = store.decisions.kept_among(run.id, some)
    variants = store.corpus.original_variants(some)
    setting_id = store.embeddings.setting_of(list(variants.values()), run.embedded_by)
    fates: dict[int, Fate] = {sample: "kept" if sample in kept else "not kept" for sample in variants}
    return _map(store, variants, fates, setting_id, samples, _step(samples, most))


def map_of_dataset(store: Store, dataset_id: int, most: int = MOST) -> DataMap:
    """As :func:`map_of_run`, of a whole dataset; nothing of it is kept, for no run has chosen."""
    samples = store.corpus.size(dataset_id)
    setting_id = store.embeddings.setting_of_dataset(dataset_id)
    if setting_id is None:
        return DataMap(0, [], [], samples)
    variants = dict(every_nth(original_ids(store, dataset_id), samples, most))
    left_out = store.datasets.left_out_among(variants)
    fates: dict[int, Fate] = {s: "left out" if s in left_out else "in the data" for s in variants}
    return _map(store, variants, fates, setting_id, samples, _step(samples, most))


def original_ids(store: Store, dataset_id: int) -> Iterator[tuple[int, int]]:
    """(sample, its original variant) of a dataset, in its order."""
    after = 0
    while page := store.corpus.original_ids_of(dataset_id, after, _PAGE):
        yield from page
        after = page[-1][0]


def every_nth(rows: Iterable[_Row], count: int, most: int) -> list[_Row]:
    """At most ``most`` of ``count`` rows, from the first on at equal steps."""
    step = _step(count, most)
    return [row for n, row in enumerate(rows) if n % step == 0]


def _step(samples: int, most: int) -> int:
    return -(-samples // most) or 1


def _map(
    store: Store,
    variants: dict[int, int],
    fates: dict[int, Fate],
    setting_id: int | None,
    samples: int,
    step: int,
) -> DataMap:
    if setting_id is None:
        return DataMap(0, [], [], samples, step)
    sample_of = {variant: sample for sample, variant in variants.items()}
    embedded, vectors = store.embeddings.load(list(sample_of), setting_id)
    if len(embedded) < _LEAST:
        return DataMap(len(embedded), [], [], samples, step)
    mapped = [sample_of[variant] for variant in embedded]
    units = directions(vectors)
    labels = clusters(units, min(_MOST_TOPICS, max(2, round(math.sqrt(len(embedded) / 2)))))
    words = _words_of(store, mapped, labels)
    sizes = Counter(labels.tolist())
    taken = Counter(
        int(label) for sample, label in zip(mapped, labels, strict=True) if fates[sample] == "kept"
    )
    order = {label: n for n, (label, _) in enumerate(sizes.most_common())}
    topics = [Topic(words.get(label, []), sizes[label], taken[label]) for label in order]
    points = [
        MapPoint(float(x), float(y), order[int(label)], fates[sample], sample)
        for sample, label, (x, y) in zip(mapped, labels, principal_plane(units), strict=True)
    ]
    return DataMap(len(embedded), topics, points, samples, step)


def principal_plane(units: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 2): coordinates by the two largest principal components; each axis points to where its largest entry is
    positive, so that the map does not turn over from one machine to another."""
    centred = units.astype(np.float64) - units.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    two = axes[:, ::-1][:, :2]
    two *= np.sign(two[np.abs(two).argmax(axis=0), range(two.shape[1])])
    return np.asarray(centred @ two)


def _words_of(store: Store, samples: list[int], labels: NDArray[np.int64]) -> dict[int, list[str]]:
    """By cluster, the words whose share of its instructions is largest beside that of all, seen twice at least."""
    label_of = dict(zip(samples, labels.tolist(), strict=True))
    sizes = Counter(label_of.values())
    everywhere: Counter[str] = Counter()
    within: dict[int, Counter[str]] = {}
    for chunk in batched(samples, _PAGE):
        for sample, pair in store.corpus.original_pairs_of(chunk).items():
            words = {word.casefold() for word in _WORD.findall(pair.instruction)} - COMMON_WORDS
            everywhere.update(words)
            within.setdefault(label_of[sample], Counter()).update(words)
    words_by_label = {}
    for label, counts in within.items():
        worth = {
            word: count
            / sizes[label]
            * math.log(1e-9 + count * len(samples) / (sizes[label] * everywhere[word]))
            for word, count in counts.items()
            if count > 1
        }
        words_by_label[label] = [
            word for word in sorted(worth, key=lambda w: (-worth[w], w))[:_TOPIC_WORDS] if worth[word] > 0
        ]
    return words_by_label
