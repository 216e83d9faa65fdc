"""Before a run: a data file into the store, and a recipe into a run with its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from srtui import datasets
from srtui.errors import UserError
from srtui.evaluation.sources import sha256_of
from srtui.hashing import draw, key, scheme_1
from srtui.pilot.strata import Stratum, stratified
from srtui.pipeline.holdout import alike, hold_out
from srtui.recipe import Recipe
from srtui.store import Store
from srtui.store.imports import Imported, NewRow, RefusedRow
from srtui.store.runs import Run
from srtui.workspace import Workspace, dataset_file


def import_file(
    store: Store,
    path: Path,
    name: str | None = None,
    format: str = "auto",
    columns: dict[str, str] | None = None,
    as_variant: str | None = None,
    match: str = "instruction",
    on_progress: Callable[[int, int, int], None] = lambda rows, done_bytes, total_bytes: None,
) -> Imported:
    """Take a data file into the store; the same bytes a second time add nothing.

    ``on_progress`` gets rows read, bytes read and bytes in all. Raises UserError, and stores
    nothing, where no row is good.

    Args:
        store: where the samples go.
        path: of the data file.
        name: of the dataset; the file's stem if None.
        format: one of srtui.datasets.FORMATS.
        columns: the names that instruction, input and response go by, where they are not the usual ones.
        as_variant: the kind of variant that the rows become; None for samples.
        match: how a rewrite finds its sample: id, instruction or position.
        on_progress: gets rows read, bytes read, bytes in all.
    """
    reader = datasets.read(path, format, columns)
    sha256 = sha256_of(path)
    name = name or _dataset_name(path)
    kind = as_variant or "original"
    already = store.imports.earlier(name, sha256, kind)
    if already is not None:
        return already

    def rows() -> Iterator[NewRow | RefusedRow]:
        for n, row in enumerate(reader):
            if n % 4096 == 0:
                on_progress(n, reader.bytes_read, reader.bytes_total)
            if isinstance(row, datasets.BadRow):
                yield RefusedRow(row.line, row.reason, row.detail)
            else:
                yield NewRow(row.number, row.pair, row.record, row.id)

    if as_variant is None:
        return store.imports.add_samples(name, str(path), sha256, reader.format, rows())
    return store.imports.add_rewrites(name, str(path), sha256, reader.format, as_variant, rows(), match)


def prepare(workspace: Workspace, store: Store, recipe: Recipe, recipe_path: Path) -> tuple[Run, bool]:
    """The run that this recipe describes, and whether it is new.

    A recipe whose settings and samples are those of an earlier run resumes that run.

    Args:
        workspace: that the recipe belongs to.
        store: of the workspace.
        recipe: read and checked.
        recipe_path: its file, beside which a dataset's file may lie.
    """
    dataset_id = _dataset(workspace, store, recipe, recipe_path)
    ids = samples_of(store, dataset_id, recipe)
    fingerprint = f"{recipe.fingerprint}-{key('samples', ids=ids).hex()[2:10]}"
    first = f"{recipe.first_fingerprint}-{scheme_1(repr(ids)).hex()[:8]}"
    earlier = store.runs.with_fingerprint(dataset_id, fingerprint, first)
    if earlier is not None:
        return earlier, False
    path = str(recipe_path)
    share = recipe.training.held_out if recipe.training.enabled else 0.0
    groups = alike(store.corpus.questions(dataset_id, recipe.limit)) if share else {}
    samples = hold_out(ids, share, lambda i: draw(recipe.seed, "held out", i), groups)
    run = store.runs.create(recipe.name, dataset_id, path, recipe.model_dump_json(), fingerprint, samples)
    date = None if recipe.pilot else _pilots_date(store, dataset_id, recipe)
    if date is not None and date != run.date:
        store.runs.update(run.id, date=date)
        run = store.runs.get(run.id)
    return run, True


def samples_of(store: Store, dataset_id: int, recipe: Recipe) -> list[int]:
    """The ids of a recipe's samples in a dataset: the first ``limit`` of them, or a pilot's drawn from these."""
    if recipe.pilot is None:
        return store.corpus.sample_ids(dataset_id, recipe.limit)
    return sorted(i for stratum in pilot_strata(store, dataset_id, recipe) for i in stratum.chosen)


def pilot_strata(store: Store, dataset_id: int, recipe: Recipe) -> list[Stratum]:
    """What a pilot draws its samples from, with the samples; the same for the same seed."""
    samples = store.corpus.kinds_and_lengths(dataset_id, recipe.limit)
    return stratified(samples, recipe.pilot or 0, lambda i: draw(recipe.seed, "pilot", i))


def pilot_recipe(recipe: Recipe, samples: int) -> Recipe:
    """``recipe`` as a pilot over so many samples: all of the loop but the training."""
    training = recipe.training.model_copy(update={"enabled": False})
    return recipe.model_copy(
        update={"name": f"{recipe.name[:74]}.pilot", "pilot": samples, "training": training}
    )


def with_changes(store: Store, run: Run) -> tuple[Run, bool]:
    """A run like ``run`` whose training takes what a person has taken there, and whether it is new: the same samples,
    held-out ones and date, so that all texts, scores and choices are reused and the two trainings compare.

    Raises UserError where nothing was overruled: it would be the same run.
    """
    changes = store.marks.overruled(run.id)
    if not changes:
        raise UserError(
            f"Nothing was overruled in run {run.name}, so training it again would change nothing."
        )
    fingerprint = f"{run.fingerprint}+{key('overruled', changes=sorted(changes.items())).hex()[2:14]}"
    earlier = store.runs.with_fingerprint(run.dataset_id, fingerprint)
    if earlier is not None:
        return earlier, False
    recipe = Recipe.model_validate(run.recipe).model_dump_json()
    held_out = set(store.decisions.held_out(run.id))
    samples = [(i, i in held_out) for i in store.runs.sample_ids(run.id)]
    with store.transaction():
        again = store.runs.create(run.name, run.dataset_id, run.recipe_path, recipe, fingerprint, samples)
        store.runs.update(again.id, date=run.date)
        for sample_id, variant_id in changes.items():
            store.marks.overrule(again.id, sample_id, variant_id, f"as in run {run.name}")
    return store.runs.get(again.id), True


def _pilots_date(store: Store, dataset_id: int, recipe: Recipe) -> str | None:
    """The date of the last pilot of this recipe: chat templates may write it, and under another one nothing that the
    pilot made would be used again."""
    for run in reversed(store.runs.all()):
        if run.dataset_id == dataset_id and run.recipe.get("pilot"):
            pilot = Recipe.model_validate(run.recipe)
            same = {"pilot": None, "name": recipe.name, "training": recipe.training, "limit": recipe.limit}
            if pilot.model_copy(update=same).fingerprint == recipe.fingerprint:
                return run.date
    return None


def _dataset(workspace: Workspace, store: Store, recipe: Recipe, recipe_path: Path) -> int:
    known = store.corpus.dataset_id(recipe.dataset)
    if known is not None:
        return known
    path = dataset_file(recipe.dataset, recipe_path, workspace.root)
    if path is None:
        names = ", ".join(d.name for d in store.corpus.datasets()) or "none so far"
        raise UserError(
            f"{recipe_path}: dataset = {recipe.dataset!r} is neither a file nor an imported dataset ({names})."
        )
    taken = store.imports.dataset_of_file(sha256_of(path))
    if taken is None:
        # An edited file is another dataset: merging it with its older self would train on both.
        stem = taken = _dataset_name(path)
        n = 1
        while store.corpus.dataset_id(taken) is not None:
            n += 1
            taken = f"{stem}-{n}"
        import_file(store, path, taken)
    dataset_id = store.corpus.dataset_id(taken)
    assert dataset_id is not None  # noqa: S101 - imported just above
    return dataset_id


def _dataset_name(path: Path) -> str:
    return path.name.split(".")[0] or path.name
