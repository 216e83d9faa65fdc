"""Which of the selected texts are trained on: all of them, the best by a score, the same share of each group, or
those that together lie nearest to all (the recipe's ``top_by``, ``top_percent``, ``top_count`` and ``group``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from srtui.measures import FILTERS
from srtui.pipeline.context import Context
from srtui.recipe import Recipe, SelectionSettings
from srtui.selection import Ranked, best, quotas, seeded_random
from srtui.similarity import Vectors
from srtui.store import Store
from srtui.store.runs import Run
from srtui.subsets import Points, cluster_labels, subset


def score_what_is_ranked(context: Context) -> None:
    """Where the best are trained on, all of them have a score of the run's own student: a proxy's, or one
    of another way of scoring, says nothing about their order. Raises Stopped when asked to stop."""
    selection = context.recipe.selection
    chosen = context.store.decisions.selected(context.run.id, held_out=False)
    embedded = selection.embeds
    measured = selection.top_by in ("ifd", "both", "facility")
    if not (embedded or measured) or _count(selection, len(chosen)) >= len(chosen):
        return
    variants = [variant for _, variant in chosen]
    if embedded:
        for share in context.embedder().embed(variants, context.watch.should_stop):
            context.watch.show(embedding=round(share, 3))
        context.watch.raise_if_stopped()
    if not measured:
        return
    scorer = context.variant_scorer()
    for metric in FILTERS if selection.top_by == "both" else ("ifd",):
        missing = len(variants) - len(scorer.scores(variants, metric))
        if missing:
            context.watch.event(
                "info",
                f"The student scores {missing} texts that are ranked and that only a proxy has scored.",
            )
        for _ in scorer.score(variants, metric, context.watch.should_stop):
            pass
        context.watch.raise_if_stopped()


def _count(selection: SelectionSettings, chosen: int) -> int:
    return selection.top_count or round(chosen * selection.top_percent / 100)


def trained_on(
    store: Store, run: Run, should_stop: Callable[[], bool] = lambda: False
) -> list[tuple[int, int]]:
    """(sample id, variant id) of what is trained on: what was selected, or the best of it. Asked to stop, it may leave
    some out."""
    recipe = Recipe.model_validate(run.recipe)
    selection = recipe.selection
    chosen = store.decisions.selected(run.id, held_out=False)
    count = _count(selection, len(chosen))
    if count >= len(chosen):
        return chosen
    ranked = [
        Ranked(sample, ifd, rifd, person, length, seeded_random(recipe.seed, "top", text))
        for sample, ifd, rifd, person, length, text in store.decisions.selected_scores(run.id)
    ]
    kept = set()
    for members, quota in _groups(store, run, chosen, ranked, selection.group, count):
        if selection.top_by == "facility":
            kept |= _facility(store, run, chosen, members, quota, should_stop)
        elif quota or any(member.by_person for member in members):
            kept |= best(members, quota, selection.top_by)
    return [(sample, variant) for sample, variant in chosen if sample in kept]


def _groups(
    store: Store,
    run: Run,
    chosen: list[tuple[int, int]],
    ranked: list[Ranked],
    group: str,
    count: int,
) -> list[tuple[list[Ranked], int]]:
    """The samples by the recipe's groups, each with how many of it are taken; in one group without any. Samples
    whose rows lack the field, or that have no embedding, are a group of their own."""
    kind, _, name = group.partition(":")
    if not kind:
        return [(ranked, max(1, count))]
    if kind == "field":
        named = store.corpus.field([sample for sample, _ in chosen], name)
    else:
        sample_of = {variant: sample for sample, variant in chosen}
        embedded, points = _points(store, run, list(sample_of))
        labels: list[int] = cluster_labels(points, int(name)).tolist() if embedded else []
        named = {sample_of[variant]: str(label) for variant, label in zip(embedded, labels, strict=True)}
    group_of = {ranked_sample.sample_id: named.get(ranked_sample.sample_id, "") for ranked_sample in ranked}
    quota_of = quotas(group_of, max(1, count))
    members: dict[str, list[Ranked]] = {}
    for ranked_sample in ranked:
        members.setdefault(group_of[ranked_sample.sample_id], []).append(ranked_sample)
    return [(group_members, quota_of[name]) for name, group_members in sorted(members.items())]


def _points(store: Store, run: Run, variant_ids: list[int]) -> tuple[list[int], Points]:
    """Those of the texts that have an embedding of the run's, and their directions, which are read as they are needed."""
    setting_id = run.embedded_by or 0
    missing = set(store.embeddings.missing(variant_ids, setting_id))
    embedded = [variant for variant in variant_ids if variant not in missing]

    def vectors_at(positions: Sequence[int]) -> Vectors:
        return store.embeddings.load([embedded[n] for n in positions], setting_id)[1]

    return embedded, Points(len(embedded), vectors_at)


def _facility(
    store: Store,
    run: Run,
    chosen: list[tuple[int, int]],
    ranked: list[Ranked],
    count: int,
    should_stop: Callable[[], bool],
) -> set[int]:
    """The samples of a subset by facility location of ``ranked``; a text weighs as much as the share of these whose
    IFD is not higher than its own, and what a person chose is always in. A text without an embedding is not.

    Args:
        store: is only read.
        run: whose embeddings are taken.
        chosen: (sample, variant) of all that was selected.
        ranked: of which the subset is.
        count: how many.
        should_stop: asked at every text.
    """
    by_sample = {ranked_sample.sample_id: ranked_sample for ranked_sample in ranked}
    sample_of = {variant: sample for sample, variant in chosen if sample in by_sample}
    embedded, points = _points(store, run, list(sample_of))
    texts = [by_sample[sample_of[variant]] for variant in embedded]
    values = np.array([-np.inf if text.ifd is None else text.ifd for text in texts])
    weights = np.searchsorted(np.sort(values), values, side="right") / max(1, len(values))
    start = [n for n, text in enumerate(texts) if text.by_person]
    picked = subset(points, weights, count, start, should_stop)
    return {texts[n].sample_id for n in picked} | {text.sample_id for text in ranked if text.by_person}
