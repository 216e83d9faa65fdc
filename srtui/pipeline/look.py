"""What is in a dataset, and in what a run keeps of it: lengths, languages, code, topics (``srtui data look``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from srtui import today
from srtui.data_map import DataMap, every_nth, map_of_dataset, map_of_run, original_ids
from srtui.datasets.near_duplicates import BandTable, confirmed
from srtui.gates import language_of
from srtui.pipeline.dedup import THRESHOLD, text_of
from srtui.pipeline.embedding import open_embedder
from srtui.pipeline.recipe_models import CHUNK
from srtui.recipe import Recipe
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.corpus import batched, has_code
from srtui.store.runs import Run
from srtui.subsets import MOST
from srtui.workspace import Workspace


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
    ids = [sample for sample, _ in original_ids(store, dataset_id)]
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
    return _look(store, dataset, run.dataset_id, run.name, before, after, map_of_run(store, run))


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
        sample_ids = every_nth(store.runs.each_sample_id(run.id), store.runs.sample_count(run.id), MOST)
        ids = store.corpus.original_variants(sample_ids)
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
