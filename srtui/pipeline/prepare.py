"""Before a run: a data file into the store, and a recipe into a run with its samples."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from srtui import datasets
from srtui.atomic import sha256_of
from srtui.errors import UserError
from srtui.hashing import draw_of_each, first_of_ids, key, key_of_ids
from srtui.pilot.strata import Stratum, stratified
from srtui.pipeline.holdout import alike, hold_out
from srtui.pipeline.preference_data import adapter_mark, first_adapter
from srtui.recipe import Recipe
from srtui.store import Store
from srtui.store.conversations import NewConversation, conversation_ids
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
    turns: datasets.Turns = "last",
) -> Imported:
    """Take a data file into the store; the same bytes a second time add nothing.

    Args:
        store: where to.
        path: the file.
        name: of the dataset; the file's name where it is not given.
        format: one of :data:`srtui.datasets.FORMATS`.
        columns: by text the file's name for it, where that is not a usual one.
        as_variant: the kind of rewrites that the rows are, of samples that are stored.
        match: how a rewrite finds its sample.
        on_progress: gets rows read, bytes read and bytes in all.
        turns: what is taken of conversations; of rewrites, always the first exchange.

    Returns:
        What came of it.

    Raises UserError, and stores nothing, where no row is good, or the same bytes are in this dataset with
    something else taken of their conversations.
    """
    reader = datasets.read(path, format, columns, "first" if as_variant else turns)
    sha256 = sha256_of(path)
    name = name or _dataset_name(path)
    kind = as_variant or "original"
    already = store.imports.earlier(name, sha256, kind)
    if already is not None:
        before = store.imports.turns_taken(name, sha256)
        if None not in (before, reader.turns) and kind == "original" and before != reader.turns:
            raise UserError(
                f"{path} is in {name} already, with --turns {before}; import it with --turns {turns} under another --name."
            )
        return already
    left_out: Counter[str] = Counter()

    def rows() -> Iterator[NewRow | NewConversation | RefusedRow]:
        whole = reader.turns not in (None, "first")
        for n, row in enumerate(reader.conversations() if whole else reader):
            if n % 4096 == 0:
                on_progress(n, reader.bytes_read, reader.bytes_total)
            if isinstance(row, datasets.BadRow):
                yield RefusedRow(row.line, row.reason, row.detail)
            elif isinstance(row, datasets.ConversationRow):
                conversation = row.conversation
                left_out.update(conversation.left_out)
                exchanges = [(e.answer, e.pair.texts, e.followed) for e in conversation.exchanges]
                yield NewConversation(
                    row.number,
                    conversation.turns,
                    conversation.places,
                    exchanges,
                    row.layout,
                    row.record,
                    row.id,
                )
            else:
                yield NewRow(row.number, row.pair, row.record, row.id)

    if as_variant is None:
        return store.imports.add_samples(
            name, str(path), sha256, reader.format, rows(), reader.turns, left_out
        )
    rewrites = (row for row in rows() if not isinstance(row, NewConversation))
    return store.imports.add_rewrites(name, str(path), sha256, reader.format, as_variant, rewrites, match)


def prepare(workspace: Workspace, store: Store, recipe: Recipe, recipe_path: Path) -> tuple[Run, bool]:
    """The run that this recipe describes, and whether it is new.

    A recipe whose settings and samples are those of an earlier run resumes that run; so has its
    ``training.from_run`` to have the adapter that it had, for another run may have come by that name. Where it does
    not say what is taken of conversations, that is also one that was begun when something else was by default.

    Args:
        workspace: that the recipe belongs to.
        store: of the workspace.
        recipe: read and checked.
        recipe_path: its file, beside which a dataset's file may lie.
    """
    adapter = first_adapter(workspace, store, recipe)  # hours before it is needed
    for begun_over in _datasets_begun_over(workspace, store, recipe, recipe_path):
        if (earlier := _earlier(store, recipe, begun_over, adapter)) is not None:
            return earlier, False
    dataset_id = _dataset(workspace, store, recipe, recipe_path)

    share = recipe.training.held_out if recipe.training.enabled else 0.0
    # What is held out is drawn from all of them, and asks for them over and over; eight bytes each.
    all_of_them = array("q", samples_of(store, dataset_id, recipe)) if share else None

    def ids() -> Iterator[int]:
        return iter(samples_of(store, dataset_id, recipe) if all_of_them is None else all_of_them)

    fingerprint = _fingerprint(recipe, ids(), adapter)
    held_out: set[int] = set()
    if share:
        # What one exchange of a conversation asks and answers, the next one's history says again.
        of = conversation_ids(store.conn, dataset_id)
        groups = alike(store.corpus.questions(dataset_id, recipe.limit), of)
        held_out = hold_out(ids, share, draw_of_each(recipe.seed, "held out"), groups)
    if recipe.pilot:
        chosen = [(i, False) for i in ids()]
        described = recipe.model_dump_json()
        run = store.runs.create(recipe.name, dataset_id, str(recipe_path), described, fingerprint, chosen)
        return run, True
    created = store.runs.create_over(
        recipe.name,
        dataset_id,
        str(recipe_path),
        recipe.model_dump_json(),
        fingerprint,
        recipe.limit,
        held_out,
    )
    date = _pilots_date(store, dataset_id, recipe)
    if date is not None and date != created.date:
        store.runs.update(created.id, date=date)
        created = store.runs.get(created.id)
    return created, True


def turns_begun_with(store: Store, run: Run, recipe: Recipe) -> str | None:
    """What a run takes of the conversations of its recipe's file, where the recipe does not say it and something else
    is taken by default now; else None."""
    taken = store.imports.turns_of_dataset(run.dataset_id)
    named = store.corpus.dataset_id(recipe.dataset) is not None
    if named or "turns" in recipe.model_fields_set or recipe.turns in taken:
        return None
    return " and ".join(taken) or None


def samples_of(store: Store, dataset_id: int, recipe: Recipe) -> Iterable[int]:
    """The ids of a recipe's samples in a dataset: the first ``limit`` of them, or a pilot's drawn from these."""
    if recipe.pilot is None:
        return store.corpus.each_sample_id(dataset_id, recipe.limit)
    return sorted(i for stratum in pilot_strata(store, dataset_id, recipe) for i in stratum.chosen)


def pilot_strata(store: Store, dataset_id: int, recipe: Recipe) -> list[Stratum]:
    """What a pilot draws its samples from, with the samples; the same for the same seed."""
    samples = store.corpus.kinds_and_lengths(dataset_id, recipe.limit)
    return stratified(samples, recipe.pilot or 0, draw_of_each(recipe.seed, "pilot"))


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
            f"Nothing was overruled in run {run.name}, so training it again would change nothing; "
            "take other texts first: srtui, then 3 Samples."
        )
    fingerprint = f"{run.fingerprint}+{key('overruled', changes=sorted(changes.items())).hex()[2:14]}"
    earlier = store.runs.with_fingerprint(run.dataset_id, fingerprint)
    if earlier is not None:
        return earlier, False
    recipe = Recipe.model_validate(run.recipe).model_dump_json()
    held_out = set(store.decisions.held_out(run.id))
    samples = [(i, i in held_out) for i in store.runs.sample_ids(run.id)]
    with store.transaction():
        run_again = store.runs.create(run.name, run.dataset_id, run.recipe_path, recipe, fingerprint, samples)
        store.runs.update(run_again.id, date=run.date)
        for sample_id, variant_id in changes.items():
            store.marks.overrule(run_again.id, sample_id, variant_id, f"as in run {run.name}")
    return store.runs.get(run_again.id), True


def _pilots_date(store: Store, dataset_id: int, recipe: Recipe) -> str | None:
    """The date of the last pilot of this recipe: chat templates may write it, and under another one nothing that the
    pilot made would be used again."""
    for run in reversed(store.runs.all()):
        if run.dataset_id == dataset_id and run.recipe.get("pilot"):
            pilot = Recipe.model_validate(run.recipe)
            ignored = {"pilot": None, "name": recipe.name, "training": recipe.training, "limit": recipe.limit}
            if pilot.model_copy(update=ignored).fingerprint == recipe.fingerprint:
                return run.date
    return None


def _fingerprint(recipe: Recipe, ids: Iterator[int], adapter: Path | None) -> str:
    of_samples = key_of_ids("samples", "ids", ids)
    return f"{recipe.fingerprint}-{of_samples.hex()[2:10]}{adapter_mark(adapter)}"


def _earlier(store: Store, recipe: Recipe, dataset_id: int, adapter: Path | None) -> Run | None:
    """The run of this recipe over these samples, where there is one."""
    if not store.runs.any_over(dataset_id):
        return None

    def ids() -> Iterator[int]:
        return iter(samples_of(store, dataset_id, recipe))

    fingerprints = [_fingerprint(recipe, ids(), adapter)]
    if store.runs.any_over(
        dataset_id, recipe.first_fingerprint
    ):  # an earlier srtui's, of perhaps these samples
        fingerprints.append(f"{recipe.first_fingerprint}-{first_of_ids(ids).hex()[:8]}")
    return store.runs.with_fingerprint(dataset_id, *fingerprints)


def _datasets_begun_over(workspace: Workspace, store: Store, recipe: Recipe, recipe_path: Path) -> list[int]:
    """The datasets that an earlier run of this recipe may be over: the one that it names or its file is now, first."""
    known = store.corpus.dataset_id(recipe.dataset)
    path = dataset_file(recipe.dataset, recipe_path, workspace.root) if known is None else None
    if path is None:
        return [] if known is None else [_dataset(workspace, store, recipe, recipe_path)]
    sha256 = sha256_of(path)
    name = store.imports.dataset_of_file(sha256, datasets.read(path, turns=recipe.turns).turns)
    now = [] if name is None else [i for i in [store.corpus.dataset_id(name)] if i is not None]
    others = [] if "turns" in recipe.model_fields_set else store.imports.datasets_of_file(sha256)
    return [*now, *(i for i in others if i not in now)]


def _dataset(workspace: Workspace, store: Store, recipe: Recipe, recipe_path: Path) -> int:
    stored_id = store.corpus.dataset_id(recipe.dataset)
    if stored_id is not None:
        taken_of_it = store.imports.turns_of_dataset(stored_id)
        if "turns" in recipe.model_fields_set and taken_of_it and recipe.turns not in taken_of_it:
            raise UserError(
                f"{recipe_path}: turns = {recipe.turns!r}, but dataset {recipe.dataset!r} was imported with --turns "
                f"{' and '.join(taken_of_it)}; leave turns out, or import the file again with --turns {recipe.turns} "
                "under another --name."
            )
        return stored_id
    path = dataset_file(recipe.dataset, recipe_path, workspace.root)
    if path is None:
        names = ", ".join(d.name for d in store.corpus.datasets()) or "none so far"
        raise UserError(
            f"{recipe_path}: dataset = {recipe.dataset!r} is neither a file nor an imported dataset ({names}); "
            f"bring it in with: srtui import FILE --name {recipe.dataset.partition('.')[0]}"
        )
    # What was taken of a file's conversations makes its samples; of rows there is nothing to choose.
    turns = datasets.read(path, turns=recipe.turns).turns
    imported_as = store.imports.dataset_of_file(sha256_of(path), turns)
    if imported_as is None:
        # An edited file is another dataset: merging it with its older self would train on both; so is a file of
        # which something else is taken.
        stem = imported_as = _dataset_name(path)
        n = 1
        while store.corpus.dataset_id(imported_as) is not None:
            n += 1
            imported_as = f"{stem}-{n}"
        import_file(store, path, imported_as, turns=recipe.turns)
    dataset_id = store.corpus.dataset_id(imported_as)
    assert dataset_id is not None  # noqa: S101 - imported just above
    return dataset_id


def _dataset_name(path: Path) -> str:
    return path.name.split(".")[0] or path.name
