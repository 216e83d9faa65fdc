"""Can a new run work, and what may it take? Asked while its form is filled in; models are not loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from srtui.errors import UserError
from srtui.store.stages import STAGES, STEPS
from srtui.store.views import RunRow, Views
from srtui.text import bytes_text, duration
from srtui.tui.tabs import numbered
from srtui.wording import server_words, stage_title
from srtui.workspace import dataset_file

if TYPE_CHECKING:
    from srtui.recipe import Recipe
    from srtui.workspace import Workspace

_KEYS = {
    "name": "name",
    "dataset": "dataset",
    "teacher": "teacher.model",
    "student": "student.model",
    "seed": "seed",
}
FIELDS = ("name", "dataset", "teacher", "student", "limit", "seed")
_COUNTED_BYTES = 50_000_000


@dataclass(frozen=True)
class FormCheck:
    """What one look at the form came to."""

    words: list[str] | None
    problems: dict[str, str]
    notes: dict[str, str]
    estimate: str
    unmeasured: int = 0
    """Samples of which nobody knows how long they take; 0 where that was measured here."""


@dataclass(frozen=True)
class StoreFacts:
    """What the store knows that bears on a new run; ``memory`` in bytes, rates in seconds a sample."""

    names: frozenset[str] = frozenset()
    datasets: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0


def store_facts(views: Views, teacher: str, student: str) -> StoreFacts:
    """What the store knows about a run with these models."""
    return StoreFacts(
        frozenset(r.name for r in views.runs()),
        dict(views.datasets()),
        views.seconds_a_sample(teacher, student),
        views.memory_taken(teacher, student),
    )


def free_name(wanted: str, taken: Container[str]) -> str:
    """``wanted``, or with the first number behind it that no run has: what is shown is what is made."""
    if wanted not in taken:
        return wanted
    stem = re.sub(r"-\d+$", "", wanted)
    return next(f"{stem}-{n}" for n in count(2) if f"{stem}-{n}" not in taken)


def check(
    root: Path,
    models_folder: Path,
    path: Path,
    values: dict[str, str],
    extra: list[str],
    facts: StoreFacts,
) -> FormCheck:
    """Can this run work? Off the event loop: it reads model headers.

    Args:
        root: the workspace's folder.
        models_folder: the workspace's models/.
        path: the recipe's file.
        values: what the form's fields hold, by the field's name.
        extra: what else is overridden, as ``--set`` takes it.
        facts: what the store knows.
    """
    from srtui import recipe as recipes

    problems: dict[str, str] = {}
    notes: dict[str, str] = {}
    sets = list(extra)
    for name, key in _KEYS.items():
        if not values[name]:
            problems[name] = f"a run needs a {name}"
        else:
            sets.append(f"{key}={values[name] if name == 'seed' else json.dumps(values[name])}")
    limit: int | None = None
    if values["limit"]:
        limit = int(values["limit"]) if re.fullmatch("[0-9]{1,10}", values["limit"]) else 0
        if not 1 <= limit <= recipes.MOST:
            problems["limit"] = "a whole number from 1, or nothing for every sample"
    if not problems:
        try:
            recipe = recipes.load(path, sets, limit)
        except UserError as error:
            problems["recipe"] = str(error)
        else:
            if values["name"] in facts.names:
                problems["name"] = f"there is a run of this name already; p on {numbered('runs')} resumes it"
            rows = _check_dataset(root, path, recipe, facts.datasets, problems, notes)
            _check_models(models_folder, recipe, problems, notes)
            samples = min(rows, limit) if rows and limit else rows or limit
            words = ["run", str(path), *(w for s in sets for w in ("--set", s))]
            words += ["--limit", str(limit)] if limit else []
            estimate = _estimate(samples, facts.rates, recipe) + _memory(facts.memory)
            measured = any(stage.startswith("reflect-") for stage in facts.rates)
            # A file too large to be counted while a form is filled in has many.
            unmeasured = 0 if measured or recipe.reflection.source == "store" else samples or recipes.MOST
            return FormCheck(None if problems else words, problems, notes, estimate, unmeasured)
    return FormCheck(None, problems, notes, "")


def _check_dataset(
    root: Path,
    path: Path,
    recipe: Recipe,
    datasets: dict[str, int],
    problems: dict[str, str],
    notes: dict[str, str],
) -> int | None:
    """How many samples there are, where that is known before an import."""
    if recipe.dataset in datasets:
        notes["dataset"] = f"✓ imported: {datasets[recipe.dataset]:,} samples"
        return datasets[recipe.dataset]
    file = dataset_file(recipe.dataset, path, root)
    if file is None:
        names = ", ".join(datasets) or "none so far"
        problems["dataset"] = f"neither a file nor an imported dataset ({names})"
        return None
    status = file.stat()
    try:
        form, rows, bad = _contents(file, status.st_size, status.st_mtime_ns)
    except UserError as error:
        problems["dataset"] = str(error)
        return None
    row_count = f", {rows:,} rows" if rows is not None else ""
    unusable = f", {bad:,} more that cannot be used" if bad else ""
    notes["dataset"] = f"✓ {bytes_text(status.st_size)}, {form}{row_count}{unusable}"
    return rows


@lru_cache(8)
def _contents(file: Path, size: int, changed: int) -> tuple[str, int | None, int]:
    """A data file's format, its rows that can be used (None of a large one), and those that cannot."""
    from srtui import datasets

    reader = datasets.read(file)
    if size > _COUNTED_BYTES:
        return reader.format, None, 0
    for _ in reader:
        pass
    return reader.format, reader.good, reader.bad.total()


def _check_models(folder: Path, recipe: Recipe, problems: dict[str, str], notes: dict[str, str]) -> None:
    from srtui import models

    free = psutil.virtual_memory().available
    if recipe.reflection.source == "store":
        notes["teacher"] = "no teacher: the rewrites come from the store"
    elif recipe.teacher.endpoint:
        notes["teacher"] = server_words(recipe.model_dump())
    else:
        try:
            info = models.inspect(models.resolve_teacher(folder, recipe.teacher.model), with_hash=False)
            _fits("teacher", info.size, free, problems, notes)
        except UserError as error:
            problems["teacher"] = str(error)
    try:
        if recipe.student.quantization == "gguf":  # llama.cpp holds the file as it is
            file = models.resolve_teacher(folder, recipe.student.model)
            _fits("student", models.inspect(file, with_hash=False).size, free, problems, notes)
            return
        info = models.inspect(models.find(folder, recipe.student.model), with_hash=False)
        # Weights are held in four bits (NF4) or more; embeddings and activations come on top.
        bits = {"nf4": 4.5, "int8": 8.5, "bf16": 16, "f32": 32}[recipe.student.quantization]
        need = round(info.parameters * bits / 8 * 1.3)
        held_as = f" as {recipe.student.quantization} (its files are {bytes_text(info.size)})"
        _fits("student", need, free, problems, notes, held_as)
    except UserError as error:
        same = str(error) == problems.get("teacher")
        problems["student"] = "it is missing too: the same model as the teacher" if same else str(error)


def _fits(
    role: str, need: int, free: int, problems: dict[str, str], notes: dict[str, str], held_as: str = ""
) -> None:
    if need > free:
        problems[role] = (
            f"its weights take {bytes_text(need)} of memory{held_as}, and {bytes_text(free)} are free"
        )
    else:
        notes[role] = f"✓ {bytes_text(need)} of memory for its weights{held_as}; {bytes_text(free)} are free"


def _estimate(samples: int | None, rates: dict[str, float], recipe: Recipe) -> str:
    stages = [
        s
        for s in STAGES
        if (s != "train" or recipe.training.enabled)
        and not (s.startswith("reflect-") and recipe.reflection.source == "store")
    ]
    measured = [s for s in stages if s in rates]
    if not measured:
        return (
            "No estimate of the time yet: no run with these models has been measured here. A pilot makes one."
        )
    if not samples:
        return "No estimate of the time: so large a file's rows are counted when it is imported; a limit makes one."
    # A training step is of a batch; the others are of a sample.
    steps = {"train": max(1.0, samples * recipe.training.epochs / recipe.training.batch_size)}
    fixed = sum(rates[step] for step in STEPS if step in rates)
    seconds = fixed + sum(rates[stage] * steps.get(stage, samples) for stage in measured)
    if len(measured) < len(stages):
        missing = ", ".join(stage_title(s) for s in stages if s not in rates)
        return f"At least {duration(seconds)} for {samples:,} samples; not measured here yet: {missing}."
    at_least = f", {duration(fixed)} of it for any number" if fixed >= 1 else ""
    return f"About {duration(seconds)} for {samples:,} samples{at_least}, by what runs with these models took here."


def _memory(peak_bytes: float) -> str:
    if not peak_bytes:
        return ""
    free = psutil.virtual_memory().available
    warning = " Close something first, or it may not fit." if peak_bytes > free else ""
    return f"\nTheir engines held at most {bytes_text(peak_bytes)} of memory; {bytes_text(free)} are free.{warning}"


_DATA = ("*.json", "*.jsonl", "*.csv", "*.tsv", "*.parquet")


def choices_for(field: str, workspace: Workspace, datasets: Mapping[str, int]) -> list[tuple[str, str]]:
    """What can stand in a field of the form (dataset, teacher or student), each with a few words: imported datasets, the
    newest first, and data files beside the recipes; GGUF files; safetensors folders."""
    if field == "dataset":
        imported = [
            (name, f"imported, {count:,} samples") for name, count in reversed(list(datasets.items()))
        ]
        files = sorted(p for pattern in _DATA for p in workspace.recipes.glob(pattern))
        return imported + [(p.name, f"a file, {bytes_text(p.stat().st_size)}") for p in files]
    from srtui import models

    return [
        (
            entry.name,
            f"{entry.info.parameters / 1e9:.2g} B parameters, {entry.info.quantization}, {bytes_text(entry.size)}",
        )
        for entry in models.list_models(workspace.models)
        if entry.info is not None
        and (
            entry.kind == "gguf" and entry.info.role == "model"
            if field == "teacher"
            else entry.kind == "safetensors"
        )
    ]


def proposed_dataset(recipe_dataset: str, datasets: Mapping[str, int], used: Container[str]) -> str:
    """The dataset that a new form names: the recipe's own where it is imported or nothing else waits; else the dataset
    that was imported last and no run has used: a person who imports one means to use it."""
    waiting = [name for name in datasets if name not in used]
    return recipe_dataset if recipe_dataset in datasets or not waiting else waiting[-1]


def same_again(run: RunRow, advice: Sequence[str] = ()) -> list[str]:
    """The words for ``srtui run`` (and what takes a recipe like it) that make of its recipe file what a run was; of a
    pilot the whole run, with the words of its ``advice`` over it. Raises UserError where the file cannot be read."""
    from srtui.files import parse_toml, read_text

    path = Path(run.recipe_path)
    data = parse_toml(read_text(path), str(path))
    snapshot = whole_run_recipe(run.recipe)
    sets = differences(data, snapshot)
    for key in _KEYS.values():
        section, _, inner = key.rpartition(".")
        value = snapshot[section][inner] if section else snapshot[inner]
        sets.append(f"{key}={json.dumps(value)}")
    limit = snapshot.get("limit")
    words = [str(path), *(w for s in (*sets, *advice) for w in ("--set", s))]
    return words + (["--limit", str(limit)] if limit else [])


def whole_run_recipe(snapshot: dict[str, Any]) -> dict[str, Any]:
    """The recipe of the run that a pilot is for; any other is returned as it is."""
    if not snapshot.get("pilot"):
        return snapshot
    name = str(snapshot["name"]).removesuffix(".pilot")
    trains = snapshot["student"]["quantization"] != "gguf"
    training = {**snapshot.get("training", {}), "enabled": trains}
    return {**snapshot, "pilot": None, "name": name, "training": training}


def differences(file: dict[str, Any], snapshot: dict[str, Any]) -> list[str]:
    """The --set words that make of a recipe file what a run was, apart from the form's own fields."""
    from srtui.recipe import Recipe

    try:
        # A prompts file is named in the recipe file; the snapshot has its contents.
        file_recipe = {"name": snapshot["name"], **file, "prompts": snapshot.get("prompts")}
        from_file = Recipe.model_validate(file_recipe).model_dump(mode="json")
    except ValueError:
        return []
    changes = []
    for key, value in snapshot.items():
        if key == "prompts":
            continue
        if not isinstance(value, dict):
            if (
                key not in ("name", "dataset", "limit", "seed", "description")
                and value != from_file.get(key)
                and value is not None
            ):
                changes.append(f"{key}={json.dumps(value)}")
            continue
        for name, inner in value.items():
            if f"{key}.{name}" in _KEYS.values() or inner is None or inner == from_file[key].get(name):
                continue
            changes.append(f"{key}.{name}={json.dumps(inner)}")
    return changes
