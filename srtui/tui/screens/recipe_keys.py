"""Two dialogs of the form of a new run: pick one of what there is, and every key of a recipe to be changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from srtui.recipe.reference import RecipeKey, recipe_keys
from srtui.tui.screens.dialogs import AskText, Dialog
from srtui.tui.widgets.table import Cell, Column, TableRow, VirtualTable
from srtui.tui.widgets.words import Words, shown

_OF_THE_FORM = (
    "name",
    "description",
    "dataset",
    "limit",
    "seed",
    "pilot",
    "prompts",
    "teacher.model",
    "student.model",
)


class Pick(Dialog[str | None]):
    """One of several; dismissed with it, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Cancel")]

    def __init__(self, question: str, choices: Sequence[tuple[str, str]]) -> None:
        """``choices``: each value, and a few words about it."""
        super().__init__()
        self._question, self._choices = question, choices

    def compose(self) -> ComposeResult:
        """What there is, one below the other."""
        with Vertical(classes="dialog"):
            yield Static(shown(self._question), classes="title")
            yield OptionList(
                *(
                    Option(Content.assemble(shown(name, "bold"), "  ", shown(words, "$dim")), id=str(n))
                    for n, (name, words) in enumerate(self._choices)
                )
            )

    def on_mount(self) -> None:
        """Let the arrows move through it."""
        self.query_one(OptionList).focus()

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[event.option_index][0])

    def action_cancel(self) -> None:
        """Pick nothing."""
        self.dismiss(None)


class RecipeKeys(Dialog[dict[str, str] | None]):
    """Every key of a recipe that the form has no field for, with its value; dismissed with those that were changed,
    as ``--set`` takes them, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "edit", "Change"),
        Binding("backspace", "reset", "As the recipe has it"),
        Binding("ctrl+s", "done", "Done"),
        Binding("escape", "cancel", "Cancel"),
    ]
    DEFAULT_CSS = """
    RecipeKeys VirtualTable { height: 1fr; }
    RecipeKeys #about { height: auto; max-height: 5; }
    """

    def __init__(self, file: Mapping[str, Any], changed: Mapping[str, str]) -> None:
        """``file`` is the recipe as its file has it."""
        super().__init__()
        self._file, self._changed = file, dict(changed)
        self._keys = [k for k in recipe_keys() if k.name not in _OF_THE_FORM]

    def compose(self) -> ComposeResult:
        """All settings in a table, and what the one under the cursor does."""
        with Vertical(classes="dialog"):
            yield Static(Content("All settings of this run"), classes="title")
            yield VirtualTable(
                [Column("key", "key", 30), Column("value", "value", 16), Column("what", "what it does")],
                id="keys",
            )
            yield Words(id="about")

    def on_mount(self) -> None:
        """Show the table."""
        self._show()
        self.query_one(VirtualTable).focus()

    def _show(self) -> None:
        self.query_one(VirtualTable).show_rows([self._row(n, k) for n, k in enumerate(self._keys)])
        self._about()

    def _row(self, n: int, key: RecipeKey) -> TableRow:
        changed = key.name in self._changed
        return TableRow(
            n,
            (
                Cell(f"{'» ' if changed else ''}{key.name}", "accent" if changed else ""),
                Cell(
                    self._value(key), "accent" if changed else "" if self._in_file(key) is not None else "dim"
                ),
                Cell(key.first_sentence, "dim"),
            ),
        )

    def _in_file(self, key: RecipeKey) -> str | None:
        section, _, name = key.name.rpartition(".")
        values = self._file.get(section, {}) if section else self._file
        value = values.get(name) if isinstance(values, Mapping) else None
        return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    def _value(self, key: RecipeKey) -> str:
        value = self._changed.get(key.name, self._in_file(key))
        return value if value is not None else _bare(key.default)

    @property
    def _key(self) -> RecipeKey | None:
        row = self.query_one(VirtualTable).row
        return None if row is None else self._keys[row.key]

    @on(VirtualTable.Highlighted)
    def _about(self) -> None:
        key = self._key
        if key is not None:
            unit = f" ({key.unit})" if key.unit else ""
            self.query_one("#about", Words).show(
                shown(f"{key.what}{unit} Values: {key.values or 'text'}. {key.change}".strip(), "$dim")
            )

    @on(VirtualTable.Selected)
    def _selected(self) -> None:
        self.action_edit()

    def action_edit(self) -> None:
        """Give the key under the cursor another value."""
        key = self._key
        if key is None:
            return

        def apply(value: str | None) -> None:
            if value is None:
                return
            if value.strip() == (self._in_file(key) or _bare(key.default)):
                self._changed.pop(key.name, None)
            else:
                self._changed[key.name] = value.strip()
            self._show()

        self.app.push_screen(AskText(key.name, key.what, self._value(key), key.values), apply)

    def action_reset(self) -> None:
        """The key under the cursor as the recipe's file has it."""
        if self._key is not None:
            self._changed.pop(self._key.name, None)
            self._show()

    def action_done(self) -> None:
        """Take what was changed."""
        self.dismiss(self._changed)

    def action_cancel(self) -> None:
        """Change nothing."""
        self.dismiss(None)


def _bare(default: str) -> str:
    """A default as a person types it: a text without the quotes that TOML puts around it."""
    return default[1:-1] if len(default) > 1 and default[0] == default[-1] == '"' else default
