"""Before a run: a data file into the store, and a recipe into a run with its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from srtui import datasets
from srtui.errors import UserError
from srtui.evaluation.sources import sha256_of
from srtui.hashing import draw, first_of_ids, key_of_ids
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

    def ids() -> Iterator[int]:
        return store.corpus.each_sample_id(dataset_id, recipe.limit)

    fingerprint = f"{recipe.fingerprint}-{key_of_ids('samples', 'ids', ids()).hex()[2:10]}"
    if store.runs.any_over(dataset_id):
        first = f"{recipe.first_fingerprint}-{first_of_ids(ids).hex()[:8]}"
        earlier = store.runs.with_fingerprint(dataset_id, fingerprint, first)
        if earlier is not None:
            return earlier, False
    share = recipe.training.held_out if recipe.training.enabled else 0.0
    held_out: set[int] = set()
    if share:
        groups = alike(store.corpus.questions(dataset_id, recipe.limit))
        held_out = hold_out(ids, share, lambda i: draw(recipe.seed, "held out", i), groups)
    made = store.runs.create_over(
        recipe.name,
        dataset_id,
        str(recipe_path),
        recipe.model_dump_json(),
        fingerprint,
        recipe.limit,
        held_out,
    )
    return made, True


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
