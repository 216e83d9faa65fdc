"""What is in a dataset, and in what a run keeps of it: lengths, languages, code, topics (``srtui data look``)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srtui import today
from srtui.gates import COMMON_WORDS, language_of
from srtui.pipeline.context import CHUNK, open_judge, student_path
from srtui.recipe import Recipe
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.conversations import has_conversations
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
    counts, "" where a text is too short to say."""

    texts: int
    instruction_length: list[float]
    response_length: list[float]
    with_input: int
    with_code: int
    languages: dict[str, int]


@dataclass(frozen=True)
class Topic:
    """A cluster of embeddings: the words that its instructions have more often than others, and how many texts."""

    words: list[str]
    before: int
    after: int


@dataclass(frozen=True)
class MapPoint:
    """A text in the plane of the two directions in which embeddings differ most; ``topic`` is its number."""

    x: float
    y: float
    topic: int
    kept: bool


@dataclass(frozen=True)
class DataMap:
    """The topics of those originals of a run that have an embedding, ``embedded`` in number, and where each lies;
    empty where there are fewer than four."""

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
    """A dataset as it was imported."""
    before = _side(pair for _, pair in store.corpus.original_pairs(dataset_id))
    return _look(store, dataset, dataset_id, None, before, None, DataMap(0, [], []))


def look_at_run(store: Store, run: Run) -> Look:
    """A run's samples as they were imported, and the texts that it keeps; topics of those originals that the run's
    student has embedded."""
    dataset = store.corpus.dataset_name(run.dataset_id) or ""
    ids = store.runs.sample_ids(run.id)
    kept = store.decisions.selected(run.id)
    before = _side(_originals(store, ids))
    after = _side(_texts(store, [variant for _, variant in kept])) if kept else None
    return _look(store, dataset, run.dataset_id, run.name, before, after, data_map(store, run))


def embed_originals(
    workspace: Workspace,
    store: Store,
    run: Run,
    report_line: Callable[[str], None],
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> None:
    """Store the embeddings of a run's originals by its own student; those that are there are not made again.

    Args:
        workspace: where the student's folder is.
        store: open for writing.
        run: whose samples, student and template they are; of its originals the first 50,000.
        report_line: gets what there is to say while the student is found.
        on_progress: gets the step (``embed``), texts done, and in all.
    """
    today.freeze(run.date)
    recipe = Recipe.model_validate(run.recipe)
    student = recipe.student
    path = student_path(workspace, student.model, student.quantization, report_line)
    judge = open_judge(
        store,
        recipe,
        path,
        student.model,
        student.quantization,
        histories=has_conversations(store.conn, run.id),
    )
    try:
        ids = store.corpus.original_variants(store.runs.sample_ids(run.id)[:MOST])
        for share in judge.embed(ids.values()):
            on_progress("embed", round(share * len(ids)), len(ids))
    finally:
        judge.close()


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


def _originals(store: Store, sample_ids: Sequence[int]) -> Iterator[Pair]:
    for chunk in batched(sample_ids, CHUNK):
        yield from store.corpus.original_pairs_of(chunk).values()


def _texts(store: Store, variant_ids: Sequence[int]) -> Iterator[Pair]:
    for chunk in batched(variant_ids, CHUNK):
        yield from (variant.pair for variant in store.corpus.variants(chunk).values())


def _side(pairs: Iterable[Pair]) -> TextSide:
    questions, answers = [], []
    inputs = code = 0
    languages: Counter[str] = Counter()
    for pair in pairs:
        questions.append(len(pair.instruction))
        answers.append(len(pair.response))
        inputs += bool(pair.input.strip())
        code += has_code(pair.response)
        languages[language_of(pair.response) or language_of(" ".join(pair.texts))] += 1
    return TextSide(
        len(questions),
        _quantiles(questions),
        _quantiles(answers),
        inputs,
        code,
        dict(languages.most_common()),
    )


def _quantiles(lengths: list[int]) -> list[float]:
    return [float(q) for q in np.quantile(lengths, (0.05, 0.5, 0.95))] if lengths else []


def data_map(store: Store, run: Run) -> DataMap:
    """The topics and the map of a run's originals (of the first 50,000), by the embeddings that are stored."""
    if store.embeddings.is_empty():
        return DataMap(0, [], [])
    sample_ids = store.runs.sample_ids(run.id)
    kept = {sample for sample, _ in store.decisions.selected(run.id)}
    variant_of = store.corpus.original_variants(sample_ids[:MOST])
    sample_of = {variant: sample for sample, variant in variant_of.items()}
    setting_id = store.embeddings.setting_of(list(sample_of), run.setting_id)
    if setting_id is None:
        return DataMap(0, [], [])
    embedded, vectors = store.embeddings.load(list(sample_of), setting_id)
    if len(embedded) < 4:
        return DataMap(len(embedded), [], [])
    samples = [sample_of[variant] for variant in embedded]
    units = directions(vectors)
    labels = clusters(units, min(_MOST_TOPICS, max(2, round(math.sqrt(len(embedded) / 2)))))
    plane = principal_plane(units)
    words = _words_of(store, samples, labels)
    sizes, means = (
        Counter(labels.tolist()),
        Counter(int(label) for sample, label in zip(samples, labels, strict=True) if sample in kept),
    )
    order = {label: n for n, (label, _) in enumerate(sizes.most_common())}
    topics = [Topic(words.get(label, []), sizes[label], means[label]) for label in order]
    points = [
        MapPoint(float(x), float(y), order[int(label)], sample in kept)
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
