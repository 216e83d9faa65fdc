"""What is in a dataset, and in what a run keeps of it: lengths, languages, code, topics (``srtui data look``)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srtui import today
from srtui.datasets.near_duplicates import BandTable, confirmed
from srtui.gates import COMMON_WORDS, language_of
from srtui.pipeline.ahead import in_pages
from srtui.pipeline.dedup import THRESHOLD, text_of
from srtui.pipeline.embedding import open_embedder
from srtui.pipeline.recipe_models import CHUNK
from srtui.recipe import Recipe
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.corpus import batched, has_code
from srtui.store.runs import Run
from srtui.subsets import MOST, clusters, directions
from srtui.workspace import Workspace

_WORD = re.compile(r"[^\W\d_]{3,}")
_TOPIC_WORDS = 6
_MOST_TOPICS = 12


@dataclass(frozen=True)
class TextSide:
    """Texts in figures. Lengths are quantiles in characters: the 5th, 50th and 95th of a hundred; ``languages`` are
    counts, "" where a text is too short to say; ``near_duplicates`` are those that are much like an earlier one, by
    their words."""

    texts: int
    instruction_length: list[float]
    response_length: list[float]
    with_input: int
    with_code: int
    near_duplicates: int
    languages: dict[str, int]


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
    kept: bool
    sample_id: int


@dataclass(frozen=True)
class DataMap:
    """The topics of those originals of a run, or a dataset, that have an embedding, ``embedded`` in number, and where
    each lies; empty where there are fewer than four."""

    embedded: int
    topics: list[Topic]
    points: list[MapPoint]


@dataclass(frozen=True)
class Look:
    """A dataset, or the samples of a run (``before``) beside what it keeps (``after``)."""

    dataset: str
    run: str | None
    left_out: dict[str, int]
    near_duplicates: int
    before: TextSide
    after: TextSide | None
    map: DataMap


def look_at_dataset(store: Store, dataset: str, dataset_id: int) -> Look:
    """A dataset as it was imported, with the topics of the samples that have an embedding."""
    ids = [sample for sample, _ in _original_ids(store, dataset_id)]
    before = _side(ids, lambda some: _originals(store, some))
    return _look(store, dataset, dataset_id, None, before, None, map_of_dataset(store, dataset_id))


def look_at_run(store: Store, run: Run) -> Look:
    """A run's samples as they were imported, and the texts that it keeps; topics of those originals that have an
    embedding."""
    dataset = store.corpus.dataset_name(run.dataset_id) or ""
    ids = store.runs.sample_ids(run.id)
    kept = [variant for _, variant in store.decisions.selected(run.id)]
    before = _side(ids, lambda some: _originals(store, some))
    after = _side(kept, lambda some: _texts(store, some)) if kept else None
    return _look(store, dataset, run.dataset_id, run.name, before, after, data_map(store, run))


def embed_originals(
    workspace: Workspace,
    store: Store,
    run: Run,
    report_line: Callable[[str], None],
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> None:
    """Store the embeddings of a run's originals by what its recipe embeds with; those that are there are not made again.

    Args:
        workspace: where the student's folder is.
        store: open for writing.
        run: whose samples, student and template they are; of more than 50,000 originals every n-th.
        report_line: gets what there is to say while the student is found.
        on_progress: gets the step (``embed``), texts done, and in all.
    """
    today.freeze(run.date)
    embedder = open_embedder(
        workspace,
        store,
        Recipe.model_validate(run.recipe),
        report_line,
        run.dataset_id,
    )
    try:
        sample_ids = store.runs.sample_ids(run.id)
        ids = store.corpus.original_variants(sample_ids[:: _step(len(sample_ids))])
        for share in embedder.embed(ids.values()):
            on_progress("embed", round(share * len(ids)), len(ids))
    finally:
        embedder.close()


def _look(
    store: Store,
    dataset: str,
    dataset_id: int,
    run: str | None,
    before: TextSide,
    after: TextSide | None,
    shown: DataMap,
) -> Look:
    left_out, marked = store.datasets.left_out(dataset_id), store.datasets.near_duplicates(dataset_id)
    return Look(dataset, run, left_out, marked, before, after, shown)


def _original_ids(store: Store, dataset_id: int) -> Iterator[tuple[int, int]]:
    """(sample, its original variant) of a dataset, in its order."""
    for page in in_pages(
        lambda after, size: store.corpus.original_ids_of(dataset_id, after, size), CHUNK, lambda row: row[0]
    ):
        yield from page


def _originals(store: Store, sample_ids: Sequence[int]) -> list[Pair]:
    pairs = store.corpus.original_pairs_of(sample_ids)
    return [pairs[sample] for sample in sample_ids]


def _texts(store: Store, variant_ids: Sequence[int]) -> list[Pair]:
    variants = store.corpus.variants(variant_ids)
    return [variants[variant].pair for variant in variant_ids]


def _side(ids: Sequence[int], pairs_of: Callable[[Sequence[int]], list[Pair]]) -> TextSide:
    """What texts come to that ``pairs_of`` reads by their ``ids``, some at a time."""
    questions, answers = [], []
    inputs = code = 0
    languages: Counter[str] = Counter()
    bands = BandTable()
    for chunk in batched(ids, CHUNK):
        for pair in pairs_of(chunk):
            questions.append(len(pair.instruction))
            answers.append(len(pair.response))
            inputs += bool(pair.input.strip())
            code += has_code(pair.response)
            languages[language_of(pair.response) or language_of(" ".join(pair.texts))] += 1
            bands.add(text_of(pair, "pair"))
    alike = confirmed(
        bands.candidates(),
        lambda positions: [text_of(pair, "pair") for pair in pairs_of([ids[n] for n in positions])],
        THRESHOLD,
    )
    return TextSide(
        len(questions),
        _quantiles(questions),
        _quantiles(answers),
        inputs,
        code,
        len({pair.second for pair in alike}),
        dict(languages.most_common()),
    )


def _quantiles(lengths: list[int]) -> list[float]:
    return [float(q) for q in np.quantile(lengths, (0.05, 0.5, 0.95))] if lengths else []


def data_map(store: Store, run: Run) -> DataMap:
    """The topics and the map of a run's originals, by the embeddings that are stored; of more than 50,000 of every n-th."""
    if store.embeddings.is_empty():
        return DataMap(0, [], [])
    sample_ids = store.runs.sample_ids(run.id)
    kept = {sample for sample, _ in store.decisions.selected(run.id)}
    variants = store.corpus.original_variants(sample_ids[:: _step(len(sample_ids))])
    setting_id = store.embeddings.setting_of(list(variants.values()), run.embedded_by)
    return _map(store, variants, kept, setting_id)


def map_of_dataset(store: Store, dataset_id: int) -> DataMap:
    """As :func:`data_map`, of a whole dataset; nothing of it is kept, for no run has chosen."""
    setting_id = store.embeddings.setting_of_dataset(dataset_id)
    if setting_id is None:
        return DataMap(0, [], [])
    step = _step(store.corpus.size(dataset_id))
    variants = dict(row for n, row in enumerate(_original_ids(store, dataset_id)) if n % step == 0)
    return _map(store, variants, set(), setting_id)


def _step(samples: int) -> int:
    return -(-samples // MOST) or 1


def _map(store: Store, variants: dict[int, int], kept: set[int], setting_id: int | None) -> DataMap:
    if setting_id is None:
        return DataMap(0, [], [])
    sample_of = {variant: sample for sample, variant in variants.items()}
    embedded, vectors = store.embeddings.load(list(sample_of), setting_id)
    if len(embedded) < 4:
        return DataMap(len(embedded), [], [])
    samples = [sample_of[variant] for variant in embedded]
    units = directions(vectors)
    labels = clusters(units, min(_MOST_TOPICS, max(2, round(math.sqrt(len(embedded) / 2)))))
    plane = principal_plane(units)
    words = _words_of(store, samples, labels)
    sizes, taken = (
        Counter(labels.tolist()),
        Counter(int(label) for sample, label in zip(samples, labels, strict=True) if sample in kept),
    )
    order = {label: n for n, (label, _) in enumerate(sizes.most_common())}
    topics = [Topic(words.get(label, []), sizes[label], taken[label]) for label in order]
    points = [
        MapPoint(float(x), float(y), order[int(label)], sample in kept, sample)
        for sample, label, (x, y) in zip(samples, labels, plane, strict=True)
    ]
    return DataMap(len(embedded), topics, points)


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
    everywhere: Counter[str] = Counter()
    within: dict[int, Counter[str]] = {}
    for chunk in batched(samples, CHUNK):
        for sample, pair in store.corpus.original_pairs_of(chunk).items():
            words = {word.casefold() for word in _WORD.findall(pair.instruction)} - COMMON_WORDS
            everywhere.update(words)
            within.setdefault(label_of[sample], Counter()).update(words)
    words_by_label = {}
    for label, counts in within.items():
        size = sum(1 for member_label in label_of.values() if member_label == label)
        worth = {
            word: count / size * math.log(1e-9 + count * len(samples) / (size * everywhere[word]))
            for word, count in counts.items()
            if count > 1
        }
        words_by_label[label] = [
            word for word in sorted(worth, key=lambda w: (-worth[w], w))[:_TOPIC_WORDS] if worth[word] > 0
        ]
    return words_by_label
