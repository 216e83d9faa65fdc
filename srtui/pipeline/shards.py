"""The shards of one run, brought together: ``srtui db merge``.

A run that is too large for one store is made in several, each with the same recipe over a part of the data. What
belongs together is checked here; the rows are srtui.store.merging's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from srtui.errors import UserError
from srtui.hashing import key, key_of_ids
from srtui.pipeline.prepare import samples_of
from srtui.progress import Stopped
from srtui.recipe import Recipe
from srtui.store import Store, merging
from srtui.store.runs import Run

_OF_A_TEACHER = ("sha256", "adapter_sha256", "date")  # what its texts depend on


class Merged(NamedTuple):
    """A run that shards were taken into, and how many samples it has; ``settled`` have an outcome."""

    run: str
    shards: int
    samples: int
    settled: int


def merge(
    store: Store,
    paths: Sequence[Path],
    run_name: str | None,
    as_name: str | None,
    report_line: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Merged:
    """Take a run of each of these stores into one run of ``store``. Doing it twice adds nothing, a kill loses a page,
    and a shard that has got further is taken again.

    Args:
        store: where to.
        paths: the shards' workspaces, or the files of their stores.
        run_name: of the run in each; None for the only one that it has.
        as_name: of the run and of its dataset here; None for the run's name there.
        report_line: hears of each shard that is done.
        should_stop: asked after each shard.

    Returns:
        What there is now.

    Raises UserError where shards are not of one run, or contradict each other, with what was taken until then kept;
    Stopped when asked to stop.
    """
    into: Run | None = None
    for path in paths:
        file = path / "store" / "srtui.sqlite" if path.is_dir() else path
        if file.exists() and store.path.samefile(file):
            raise UserError(f"{path} is the store that shards are merged into; give the others.")
        with Store(file, read_only=True) as shard:
            shard_run = _run_of(shard, run_name, path)
            recipe = _recipe(shard_run, as_name or shard_run.name)
            into = into or _run_here(store, recipe, shard_run)
            _check(store, into, recipe, shard, shard_run, path)
        shard_key = key("shard", run=shard_run.fingerprint, name=shard_run.name, created=shard_run.created_at)
        merging.take_files(store, file, shard_run.dataset_id, into.dataset_id)
        with merging.attached(store, file, shard_run.id) as attached:
            taken = attached.take(into.id, into.dataset_id, shard_key)
        into = _up_to_date(store, into, recipe, shard_run)
        line = f"{path}: {taken.samples:,} samples, {taken.new:,} new here, {taken.settled:,} settled."
        store.runs.event(into.id, "info", f"Merged {line}")
        report_line(line)
        if should_stop():
            raise Stopped
    assert into is not None  # noqa: S101 - the command has one path at least
    runs = store.runs
    return Merged(into.name, len(paths), runs.sample_count(into.id), store.decisions.settled(into.id))


def _run_of(shard: Store, name: str | None, path: Path) -> Run:
    if name is not None:
        run = shard.runs.named(name)
    else:
        runs = [run for run in shard.runs.all() if not run.recipe.get("pilot")]
        if len(runs) != 1:
            names = ", ".join(run.name for run in runs) or "none"
            raise UserError(f"{path}: its runs are {names}; say which one with --run NAME.")
        (run,) = runs
    if run.recipe.get("pilot"):
        raise UserError(f"{path}: run {run.name} is a pilot, which is no part of a run.")
    holder = shard.runs.holder(run.id)
    if holder is not None:
        raise UserError(
            f"{path}: process {holder.pid} on {holder.host} works on run {run.name}; merge it when that has stopped."
        )
    return run


def _recipe(run: Run, name: str) -> Recipe:
    """A shard's recipe as that of the whole: which data it was over, and how much of it, is the shard's own."""
    recipe = Recipe.model_validate(run.recipe)
    return recipe.model_copy(update={"name": name, "dataset": name, "limit": None})


def _run_here(store: Store, recipe: Recipe, shard_run: Run) -> Run:
    """The run that shards are taken into, made with its dataset where there is none yet."""
    run = next((run for run in store.runs.all() if run.name == recipe.name), None)
    if run is not None and not merging.has_merged(store, run.id):
        raise UserError(
            f"There is a run {recipe.name} here that is not made of shards; give the merged one another name with --as."
        )
    if run is not None:
        return run
    if store.corpus.dataset_id(recipe.dataset) is not None:
        raise UserError(
            f"There is a dataset {recipe.dataset} here already; give the merged one another name with --as."
        )
    with store.transaction():
        dataset_id = merging.new_dataset(store, recipe.dataset)
        merged = store.runs.create(
            recipe.name, dataset_id, shard_run.recipe_path, recipe.model_dump_json(), recipe.fingerprint, []
        )
        store.runs.update(merged.id, date=shard_run.date, status="stopped")
    return store.runs.get(merged.id)


def _check(store: Store, into: Run, recipe: Recipe, shard: Store, shard_run: Run, path: Path) -> None:
    """Raises UserError where a shard's run is not a part of the run that it is to be taken into."""
    holder = store.runs.holder(into.id)
    if holder is not None:
        raise UserError(
            f"Process {holder.pid} on {holder.host} works on run {into.name}; merge when that has stopped."
        )
    if Recipe.model_validate(into.recipe).fingerprint != recipe.fingerprint:
        raise UserError(
            f"{path}: the recipe of run {shard_run.name} is not that of run {into.name}, but for the data that it is over; "
            "give shards of one run."
        )
    if into.teacher and shard_run.teacher:
        for name in _OF_A_TEACHER:
            if into.teacher.get(name) != shard_run.teacher.get(name):
                raise UserError(
                    f"{path}: run {shard_run.name} was written by another teacher than run {into.name} (its {name} is "
                    "another); give shards of one run."
                )
    own_setting, shard_setting = (
        merging.setting_of(store, into.setting_id),
        merging.setting_of(shard, shard_run.setting_id),
    )
    if None not in (own_setting, shard_setting) and own_setting != shard_setting:
        raise UserError(
            f"{path}: run {shard_run.name} was scored by another student, or in another way, than run {into.name}: their "
            "scores do not compare."
        )


def _up_to_date(store: Store, into: Run, recipe: Recipe, shard_run: Run) -> Run:
    """The merged run with what follows from its samples: what it is found by, and whether there is more to do."""
    ids = iter(samples_of(store, into.dataset_id, recipe))
    fingerprint = f"{recipe.fingerprint}-{key_of_ids('samples', 'ids', ids).hex()[2:10]}"
    whole = store.decisions.settled(into.id) >= store.runs.sample_count(into.id)
    store.runs.update(
        into.id,
        fingerprint=fingerprint,
        status="done" if whole and not recipe.training.enabled else "stopped",
        started_at=into.started_at or shard_run.started_at,
    )
    if into.teacher is None and shard_run.teacher is not None:
        store.runs.update(into.id, teacher=json.dumps(shard_run.teacher))
    return store.runs.get(into.id)
