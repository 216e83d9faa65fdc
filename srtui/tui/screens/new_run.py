"""The form of a new run: a recipe, what to change of it, whether it can work, how long it may take."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from collections.abc import Container
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Label, Select, Static

from srtui.console import bytes_text, duration, title
from srtui.errors import UserError
from srtui.store.runs import STAGES
from srtui.store.views import RunRow, Views
from srtui.tui.screens.dialogs import Dialog
from srtui.tui.widgets.words import shown

if TYPE_CHECKING:
    from srtui.recipe import Recipe
    from srtui.tui.app import Dashboard

_FIELDS = ("name", "dataset", "teacher", "student", "limit", "seed")
_KEYS = {
    "name": "name",
    "dataset": "dataset",
    "teacher": "teacher.model",
    "student": "student.model",
    "seed": "seed",
}
_COUNTED_BYTES = 50_000_000


@dataclass(frozen=True)
class Check:
    """What one look at the form came to."""

    words: list[str] | None
    problems: dict[str, str]
    notes: dict[str, str]
    estimate: str


class NewRun(Dialog[list[str] | None]):
    """Dismissed with the words for ``srtui`` that start the run, or None."""

    HELP_TEXT = (
        "A new run. Every field but the recipe may be left as the recipe has it; it is checked as you type."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("ctrl+s", "start", "Start"),
    ]
    DEFAULT_CSS = """
    NewRun .field { height: 1; }
    NewRun .field Label { width: 10; color: $dim; }
    NewRun .field Input, NewRun .field Select { width: 1fr; }
    NewRun .dialog { width: 96; }
    NewRun .check { height: auto; max-height: 2; padding: 0 0 0 10; color: $dim; }
    NewRun #verdict { margin-top: 1; height: auto; }
    """

    def __init__(self, recipe: str | None = None, like: RunRow | None = None) -> None:
        super().__init__()
        self._like = like
        self._wanted = Path(like.recipe_path).name if like else recipe
        self._recipes: dict[str, Path] = {}
        self._extra: list[str] = []
        self._check: Check | None = None
        self._checking = self._again = False

    def compose(self) -> ComposeResult:
        app: Dashboard = self.app  # type: ignore[assignment]
        self._recipes = {p.name: p for p in sorted(app.workspace.recipes.glob("*.toml"))}
        if self._like is not None:
            path = Path(self._like.recipe_path)
            if path.is_file():
                self._recipes[path.name] = path
        likely = (self._wanted, "quickstart.toml", *self._recipes)
        first = next((name for name in likely if name in self._recipes), None)
        with VerticalScroll(classes="dialog"):
            yield Static(shown(f"A run like {self._like.name}" if self._like else "New run"), classes="title")
            with Horizontal(classes="field"):
                yield Label("recipe")
                yield Select(
                    [(name, name) for name in self._recipes],
                    value=first if first is not None else Select.NULL,
                    allow_blank=first is None,
                    compact=True,
                    id="recipe",
                )
            for name in _FIELDS:
                with Horizontal(classes="field"):
                    yield Label(name)
                    yield Input(
                        id=name,
                        compact=True,
                        type="integer" if name in ("limit", "seed") else "text",
                        placeholder="every sample" if name == "limit" else "",
                    )
                yield Static(id=f"{name}-check", classes="check hidden")
            yield Static(id="verdict")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Start", id="start", variant="primary", compact=True, disabled=True)

    def on_mount(self) -> None:
        self._fill()
        self.query_one("#recipe").focus()

    @on(Select.Changed, "#recipe")
    def _recipe_changed(self) -> None:
        self._fill()

    @on(Input.Changed)
    def _field_changed(self) -> None:
        self._look()

    @on(Input.Submitted)
    def _next(self) -> None:
        self.focus_next()

    def _path(self) -> Path | None:
        value = self.query_one("#recipe", Select).value
        return self._recipes.get(value) if isinstance(value, str) else None

    def _fill(self) -> None:
        """What the recipe (or the run to be like) says stands in the fields, to be changed."""
        app: Dashboard = self.app  # type: ignore[assignment]
        path = self._path()
        if path is None:
            self.query_one("#verdict", Static).update(
                Content(
                    "There is no recipe in recipes/; srtui init . puts the ones that ship with srtui there."
                )
            )
            return
        self._extra = []
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            data = {}
        if self._like is not None and Path(self._like.recipe_path).name == path.name:
            snapshot = self._like.recipe
            self._extra = _differences(data, snapshot)
            data = snapshot
        values = {
            "name": _free_name(str(data.get("name", path.stem)), {r.name for r in app.runs}),
            "dataset": data.get("dataset", ""),
            "teacher": data.get("teacher", {}).get("model", ""),
            "student": data.get("student", {}).get("model", ""),
            "limit": data.get("limit") or "",
            "seed": data.get("seed", 0),
        }
        for name, value in values.items():
            self.query_one(f"#{name}", Input).value = str(value)
        self._look()

    # -- checks -----------------------------------------------------------------------------

    def _look(self) -> None:
        if self._checking:
            self._again = True
            return
        self._checking = True
        self.run_worker(self._look_now(), group="check")

    async def _look_now(self) -> None:
        app: Dashboard = self.app  # type: ignore[assignment]
        try:
            while True:
                self._again = False
                path = self._path()
                if path is None:
                    return
                values = {name: self.query_one(f"#{name}", Input).value.strip() for name in _FIELDS}
                known = Known()
                if app.workspace.store_path.exists():
                    known = await app.ask(
                        partial(_known, teacher=values["teacher"], student=values["student"])
                    )
                check = await asyncio.to_thread(
                    _check, app.workspace.root, app.workspace.models, path, values, self._extra, known
                )
                if not self._again:
                    self._show(check)
                    return
        except Exception as error:
            app.problem(error)
        finally:
            self._checking = False

    def _show(self, check: Check) -> None:
        self._check = check
        for name in _FIELDS:
            problem = check.problems.get(name)
            words = f"✗ {problem}" if problem else check.notes.get(name, "")
            line = self.query_one(f"#{name}-check", Static)
            line.update(shown(words, "$text-error" if problem else ""))
            line.set_class(not words, "hidden")
        general = check.problems.get("recipe")
        lines = [shown(f"✗ {general}", "$text-error")] if general else []
        if self._extra:
            lines.append(shown(f"also as in that run: {', '.join(self._extra)}", "$dim"))
        lines.append(Content(check.estimate))
        self.query_one("#verdict", Static).update(Content("\n").join(lines))
        self.query_one("#start", Button).disabled = check.words is None

    # -- out of here ------------------------------------------------------------------------

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "start":
            self.action_start()
        else:
            self.dismiss(None)

    def action_start(self) -> None:
        if self._check is None or self._check.words is None:
            self.notify("Something above has to be mended first.", severity="warning")
            return
        self.dismiss(self._check.words)

    def action_cancel(self) -> None:
        self.dismiss(None)


@dataclass(frozen=True)
class Known:
    """What the store knows that bears on a new run; ``memory`` in bytes, rates in seconds a sample."""

    names: frozenset[str] = frozenset()
    datasets: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0


def _known(views: Views, teacher: str, student: str) -> Known:
    return Known(
        frozenset(r.name for r in views.runs()),
        dict(views.datasets()),
        views.seconds_a_sample(teacher, student),
        views.memory_taken(teacher, student),
    )


def _free_name(wanted: str, taken: Container[str]) -> str:
    """``wanted``, or with the first number behind it that no run has: what is shown is what is made."""
    if wanted not in taken:
        return wanted
    stem = re.sub(r"-\d+$", "", wanted)
    return next(f"{stem}-{n}" for n in count(2) if f"{stem}-{n}" not in taken)


def _check(
    root: Path,
    models_folder: Path,
    path: Path,
    values: dict[str, str],
    extra: list[str],
    known: Known,
) -> Check:
    """Can this run work? Off the event loop: it reads model headers."""
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
        limit = int(values["limit"]) if values["limit"].lstrip("-").isdigit() else 0
        if limit < 1:
            problems["limit"] = "a whole number from 1, or nothing for every sample"
    if not problems:
        try:
            recipe = recipes.load(path, sets, limit)
        except UserError as error:
            problems["recipe"] = str(error)
        else:
            if values["name"] in known.names:
                problems["name"] = "there is a run of this name already; p on 1 Runs goes on with it"
            rows = _check_dataset(root, path, recipe, known.datasets, problems, notes)
            _check_models(models_folder, recipe, problems, notes)
            samples = min(rows, limit) if rows and limit else rows or limit
            words = ["run", str(path), *(w for s in sets for w in ("--set", s))]
            words += ["--limit", str(limit)] if limit else []
            estimate = _estimate(samples, known.rates, recipe) + _memory(known.memory)
            return Check(None if problems else words, problems, notes, estimate)
    return Check(None, problems, notes, "")


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
    for folder in (path.parent, root, Path.cwd()):
        file = folder / recipe.dataset
        if file.is_file():
            at = file.stat()
            try:
                form, rows, bad = _contents(file, at.st_size, at.st_mtime_ns)
            except UserError as error:
                problems["dataset"] = str(error)
                return None
            counted = f", {rows:,} rows" if rows is not None else ""
            spoilt = f", {bad:,} more that cannot be used" if bad else ""
            notes["dataset"] = f"✓ {bytes_text(at.st_size)}, {form}{counted}{spoilt}"
            return rows
    names = ", ".join(datasets) or "none so far"
    problems["dataset"] = f"neither a file nor an imported dataset ({names})"
    return None


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
    else:
        try:
            info = models.inspect(models.resolve_teacher(folder, recipe.teacher.model), with_hash=False)
            _fits("teacher", info.size, free, problems, notes)
        except UserError as error:
            problems["teacher"] = str(error)
    try:
        info = models.inspect(models.find(folder, recipe.student.model), with_hash=False)
        # Weights are held in four bits (NF4) or more; embeddings and activations come on top.
        bits = {"nf4": 4.5, "int8": 8.5, "bf16": 16, "f32": 32}[recipe.student.quantization]
        _fits("student", round(info.parameters * bits / 8 * 1.3), free, problems, notes)
    except UserError as error:
        problems["student"] = str(error)


def _fits(who: str, need: int, free: int, problems: dict[str, str], notes: dict[str, str]) -> None:
    if need > free:
        problems[who] = f"its weights take {bytes_text(need)} of memory, and {bytes_text(free)} are free"
    else:
        notes[who] = f"✓ {bytes_text(need)} of weights, {bytes_text(free)} of memory free"


def _estimate(samples: int | None, rates: dict[str, float], recipe: Recipe) -> str:
    wanted = [
        s
        for s in STAGES
        if (s != "train" or recipe.training.enabled)
        and not (s.startswith("reflect-") and recipe.reflection.source == "store")
    ]
    known = [s for s in wanted if s in rates]
    if not known:
        return "No estimate of the time yet: no run with these models has been measured here."
    if not samples:
        return "No estimate of the time: so large a file's rows are counted when it is imported; a limit makes one."
    # A training step is of a batch; the others are of a sample.
    steps = {"train": max(1.0, samples * recipe.training.epochs / recipe.training.batch_size)}
    seconds = sum(rates[stage] * steps.get(stage, samples) for stage in known)
    if len(known) < len(wanted):
        missing = ", ".join(title(s) for s in wanted if s not in rates)
        return f"At least {duration(seconds)} for {samples:,} samples; not measured here yet: {missing}."
    return f"About {duration(seconds)} for {samples:,} samples, by what runs with these models took here."


def _memory(taken: float) -> str:
    if not taken:
        return ""
    free = psutil.virtual_memory().available
    short = " Close something first, or it may not fit." if taken > free else ""
    return f"\nTheir engines held at most {bytes_text(taken)} of memory; {bytes_text(free)} are free.{short}"


def _differences(file: dict[str, Any], snapshot: dict[str, Any]) -> list[str]:
    """The --set words that make of a recipe file what a run was, apart from the form's own fields."""
    from srtui.recipe import Recipe

    try:
        as_is = Recipe.model_validate({"name": snapshot["name"], **file}).model_dump(mode="json")
    except ValueError:
        return []
    found = []
    for key, value in snapshot.items():
        if not isinstance(value, dict):
            if (
                key not in ("name", "dataset", "limit", "seed", "description")
                and value != as_is.get(key)
                and value is not None
            ):
                found.append(f"{key}={json.dumps(value)}")
            continue
        for name, inner in value.items():
            if f"{key}.{name}" in _KEYS.values() or inner is None or inner == as_is[key].get(name):
                continue
            found.append(f"{key}.{name}={json.dumps(inner)}")
    return found
