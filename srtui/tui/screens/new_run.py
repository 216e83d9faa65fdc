"""The form of a new run: a recipe, what to change of it, whether it can work, how long it may take."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Label, Select, Static

from srtui.errors import UserError
from srtui.files import parse_toml, read_text
from srtui.pilot import DEFAULT_SAMPLES
from srtui.recipe import MOST
from srtui.store.views import RunRow
from srtui.tui import checks
from srtui.tui.screens.dialogs import Confirm, Dialog
from srtui.tui.widgets.words import shown

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard

_PICKED = ("dataset", "teacher", "student")
ASKED_FROM = 1000
"""Samples from which a run of unknown length is asked about before it starts."""


class _PickButton(Button, can_focus=False):
    """For the mouse: Tab goes from field to field, and the key of it is ^o."""


class NewRun(Dialog[list[str] | None]):
    """Dismissed with the words for ``srtui`` that start the run, or None."""

    HELP_TEXT = (
        "A new run. Every field but the recipe may be left as the recipe has it; it is checked as you type."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("ctrl+s", "start", "Start"),
        Binding("ctrl+o", "pick", "Pick"),
        Binding("ctrl+g", "keys", "All settings"),
        Binding("ctrl+t", "pilot", f"Try {DEFAULT_SAMPLES} first"),
    ]
    DEFAULT_CSS = """
    NewRun .field { height: 1; }
    NewRun .field Label { width: 10; color: $dim; }
    NewRun .field Input, NewRun .field Select { width: 1fr; }
    NewRun .check { height: auto; max-height: 2; padding: 0 0 0 10; color: $dim; }
    NewRun #verdict { margin-top: 1; height: auto; }
    """

    def __init__(
        self, recipe: str | None = None, like: RunRow | None = None, dataset: str | None = None
    ) -> None:
        """``like`` is a run that the form is filled in as; ``dataset`` stands in its field, whatever the recipe says."""
        super().__init__()
        self._dataset = dataset
        self._like = like
        self._recipe_name = Path(like.recipe_path).name if like else recipe
        self._recipes: dict[str, Path] = {}
        self._extra: list[str] = []
        self._file: dict[str, Any] = {}
        self._changed: dict[str, str] = {}
        self._check: checks.FormCheck | None = None
        self._checked: tuple[Path | None, dict[str, str], list[str]] | None = None
        self._pending_command: str | None = None
        self._checking = self._again = False

    def compose(self) -> ComposeResult:
        """A field for each thing that a run is started with, and what speaks against starting it."""
        app: Dashboard = self.app  # type: ignore[assignment]
        self._recipes = {p.name: p for p in sorted(app.workspace.recipes.glob("*.toml"))}
        if self._like is not None:
            path = Path(self._like.recipe_path)
            if path.is_file():
                self._recipes[path.name] = path
        candidates = (self._recipe_name, "quickstart.toml", *self._recipes)
        initial = next((name for name in candidates if name in self._recipes), None)
        with VerticalScroll(classes="dialog"):
            yield Static(shown(f"A run like {self._like.name}" if self._like else "New run"), classes="title")
            with Horizontal(classes="field"):
                yield Label("recipe")
                yield Select(
                    [(shown(name), name) for name in self._recipes],
                    value=initial if initial is not None else Select.NULL,
                    allow_blank=initial is None,
                    compact=True,
                    id="recipe",
                )
            for name in checks.FIELDS:
                with Horizontal(classes="field"):
                    yield Label(name)
                    if name in _PICKED:
                        yield _PickButton("▾", id=f"pick-{name}", classes="pick", compact=True)
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
                yield Button("All settings", id="keys", compact=True)
                yield Button(f"Try {DEFAULT_SAMPLES} first", id="pilot", compact=True, disabled=True)
                yield Button("Start", id="start", variant="primary", compact=True, disabled=True)

    def on_mount(self) -> None:
        """Fill the fields from the recipe."""
        self._fill()
        self.query_one("#recipe").focus()

    @on(Select.Changed, "#recipe")
    def _recipe_changed(self) -> None:
        self._fill()

    @on(Input.Changed)
    def _field_changed(self) -> None:
        self._request_check()

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
        self._extra, self._changed = [], {}
        try:
            data = parse_toml(read_text(path), str(path))
        except UserError:  # the checks below say what is wrong with it
            data = {}
        self._file = data
        if self._like is not None and Path(self._like.recipe_path).name == path.name:
            snapshot = checks.whole_run_recipe(self._like.recipe)
            self._extra = checks.differences(data, snapshot)
            data = snapshot
        values = {
            "name": checks.free_name(str(data.get("name", path.stem)), {r.name for r in app.runs}),
            "dataset": self._dataset or data.get("dataset", ""),
            "teacher": _model_of(data.get("teacher")),
            "student": _model_of(data.get("student")),
            "limit": data.get("limit") or "",
            "seed": data.get("seed", 0),
        }
        for name, value in values.items():
            self.query_one(f"#{name}", Input).value = str(value)
        self._request_check()
        if self._like is None and self._dataset is None and app.workspace.store_path.exists():
            self.run_worker(self._propose(str(values["dataset"])), exclusive=True, group="propose")

    async def _propose(self, recipe_dataset: str) -> None:
        """Name the dataset that waits to be used, unless a person has typed by now."""
        app: Dashboard = self.app  # type: ignore[assignment]
        try:
            datasets = dict(await app.ask(lambda v: v.datasets()))
        except Exception as error:
            app.report_error(error)
            return
        field = self.query_one("#dataset", Input)
        if field.value == recipe_dataset:
            field.value = checks.proposed_dataset(recipe_dataset, datasets, {r.dataset for r in app.runs})

    # -- checks -----------------------------------------------------------------------------

    def _request_check(self) -> None:
        if self._checking:
            self._again = True
            return
        self._checking = True
        self.run_worker(self._check_now(), group="check")

    async def _check_now(self) -> None:
        app: Dashboard = self.app  # type: ignore[assignment]
        try:
            while True:
                self._again = False
                path = self._path()
                if path is None:
                    return
                values = self._values()
                facts = checks.StoreFacts()
                if app.workspace.store_path.exists():
                    facts = await app.ask(
                        partial(checks.store_facts, teacher=values["teacher"], student=values["student"])
                    )
                check = await asyncio.to_thread(
                    checks.check, app.workspace.root, app.workspace.models, path, values, self._sets(), facts
                )
                if not self._again:
                    self._checked = (path, values, self._sets())
                    self._show(check)
                    if self._pending_command:
                        self._begin(self._pending_command)
                    return
        except Exception as error:
            app.report_error(error)
        finally:
            self._checking = False

    def _show(self, check: checks.FormCheck) -> None:
        self._check = check
        for name in checks.FIELDS:
            problem = check.problems.get(name)
            words = f"✗ {problem}" if problem else check.notes.get(name, "")
            line = self.query_one(f"#{name}-check", Static)
            line.update(shown(words, "$text-error" if problem else ""))
            line.set_class(not words, "hidden")
        general = check.problems.get("recipe")
        lines = [shown(f"✗ {general}", "$text-error")] if general else []
        if self._extra:
            lines.append(shown(f"also as in that run: {', '.join(self._extra)}", "$dim"))
        if self._changed:
            lines.append(
                shown(f"set: {', '.join(f'{k}={v}' for k, v in self._changed.items())}", "$text-accent")
            )
        lines.append(Content(check.estimate))
        self.query_one("#verdict", Static).update(Content("\n").join(lines))
        for button in ("#start", "#pilot"):
            self.query_one(button, Button).disabled = check.words is None

    # -- leaving the form ---------------------------------------------------------------------

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "start":
            self.action_start()
        elif event.button.id == "pilot":
            self.action_pilot()
        elif event.button.id == "keys":
            self.action_keys()
        elif event.button.id and event.button.id.startswith("pick-"):
            self._pick(event.button.id.removeprefix("pick-"))
        else:
            self.dismiss(None)

    def _values(self) -> dict[str, str]:
        return {name: self.query_one(f"#{name}", Input).value.strip() for name in checks.FIELDS}

    def _sets(self) -> list[str]:
        """What is set beside the form's own fields, as ``--set`` takes it; what was changed here comes last."""
        return [*self._extra, *(f"{key}={value}" for key, value in self._changed.items())]

    def action_keys(self) -> None:
        """Every other key of the recipe."""
        from srtui.tui.screens.recipe_keys import RecipeKeys

        def apply(changed: dict[str, str] | None) -> None:
            if changed is not None:
                self._changed = changed
                self._request_check()

        self.app.push_screen(RecipeKeys(self._file, self._changed), apply)

    def action_pick(self) -> None:
        """What there is for the field that has the focus; for the dataset where it is another."""
        focused = self.focused.id if self.focused is not None else None
        self._pick(focused if focused in _PICKED else "dataset")

    def _pick(self, name: str) -> None:
        self.run_worker(self._pick_now(name), group="pick")

    async def _pick_now(self, name: str) -> None:
        from srtui.tui.screens.recipe_keys import Pick

        app: Dashboard = self.app  # type: ignore[assignment]
        try:
            datasets = {}
            if name == "dataset" and app.workspace.store_path.exists():
                datasets = dict(await app.ask(lambda v: v.datasets()))
            choices = await asyncio.to_thread(checks.choices_for, name, app.workspace, datasets)
        except Exception as error:
            app.report_error(error)
            return
        if not choices:
            self.notify(
                "Nothing is imported, and recipes/ has no data file: i on 9 Data imports one."
                if name == "dataset"
                else "models/ is empty: srtui models add NAME_OR_PATH."
            )
            return

        def apply(value: str | None) -> None:
            if value is not None:
                self.query_one(f"#{name}", Input).value = value

        self.app.push_screen(Pick(f"Which {name}?", choices), apply)

    def action_start(self) -> None:
        """Start what stands in the fields now, which may be newer than the last check."""
        self._begin("run")

    def action_pilot(self) -> None:
        """Start a pilot of it."""
        self._begin("pilot")

    def _begin(self, command: str) -> None:
        fresh = self._checked == (self._path(), self._values(), self._sets())
        self._pending_command = None if fresh else command
        if not fresh:
            self._request_check()
            return
        check = self._check
        if check is None or check.words is None:
            self.notify("Fix what is marked above first.", severity="warning")
            return
        words = [command, *check.words[1:]]
        if command == "run" and check.unmeasured > ASKED_FROM:
            self._confirm_start(words, check.unmeasured)
        else:
            self.dismiss(words)

    def _confirm_start(self, words: list[str], samples: int) -> None:
        """A night of work is not started by one key where nobody knows how long it takes."""

        def answered(yes: bool | None) -> None:
            if yes:
                self.dismiss(words)

        question = "Start all samples of this file?" if samples == MOST else f"Start {samples:,} samples?"
        explanation = (
            "How long they take is not known: no run with these models has been measured here. "
            f"Try {DEFAULT_SAMPLES} first (^t) measures it in minutes, and nothing of it is done twice."
        )
        self.app.push_screen(Confirm(question, explanation, "Start all the same"), answered)

    def action_cancel(self) -> None:
        """Close without starting a run."""
        self.dismiss(None)


def _model_of(section: object) -> object:
    return section.get("model", "") if isinstance(section, dict) else ""
