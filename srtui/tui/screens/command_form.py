"""A form for one command: its fields, what speaks against it, and the command line that it comes to."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Label, Select, Static

from srtui.errors import UserError
from srtui.tui.screens.dialogs import Dialog
from srtui.tui.widgets.words import shown

Values = Mapping[str, str]


@dataclass(frozen=True)
class FormField:
    """One line of a form. ``options`` are all that it may be; ``choices`` what ^o offers, each with a few words."""

    name: str
    label: str
    value: str = ""
    placeholder: str = ""
    options: Sequence[str] = ()
    choices: Sequence[tuple[str, str]] = ()


class CommandForm(Dialog[list[str] | None]):
    """Dismissed with the words for ``srtui``, or None. ``build`` makes the words of what stands in the fields, and
    raises UserError where they cannot work."""

    HELP_TEXT = "Every field has a proposal; the command that they come to stands below, and is what a shell would take too."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("ctrl+o", "pick", "Pick"),
        Binding("ctrl+s", "start", "Start"),
    ]
    DEFAULT_CSS = """
    CommandForm .field { height: 1; }
    CommandForm .field Label { width: 18; color: $dim; }
    CommandForm .field Input, CommandForm .field Select { width: 1fr; }
    CommandForm #explanation { height: auto; margin-bottom: 1; color: $dim; }
    CommandForm #command { height: auto; margin-top: 1; }
    """

    def __init__(
        self, title: str, explanation: str, fields: Sequence[FormField], build: Callable[[Values], list[str]]
    ) -> None:
        """Fields are shown in their order.

        Args:
            title: what is done.
            explanation: in a sentence or two.
            fields: the lines.
            build: the words of ``srtui`` for the fields' values by name.
        """
        super().__init__()
        self._title, self._explanation, self._fields, self._build = title, explanation, fields, build

    def compose(self) -> ComposeResult:
        """The fields and the command."""
        with VerticalScroll(classes="dialog", can_focus=False):
            yield Static(shown(self._title), classes="title")
            yield Static(shown(self._explanation), id="explanation")
            for line in self._fields:
                with Horizontal(classes="field"):
                    yield Label(line.label)
                    if line.options:
                        yield Select(
                            [(option, option) for option in line.options],
                            value=line.value or line.options[0],
                            allow_blank=False,
                            compact=True,
                            id=line.name,
                        )
                    else:
                        yield Input(line.value, placeholder=line.placeholder, compact=True, id=line.name)
            yield from self.extra()
            yield Static(id="command")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Start", id="start", variant="primary", compact=True)

    def extra(self) -> ComposeResult:
        """What a form shows between its fields and its command."""
        return iter(())

    def checked(self, values: Values) -> None:
        """The fields hold something else now; for a form that looks at what they name."""

    def on_mount(self) -> None:
        """Begin in the first field that is empty."""
        empty = next((f.name for f in self._fields if not f.value and not f.options), self._fields[0].name)
        self.query_one(f"#{empty}").focus()
        self.check()

    @on(Input.Changed)
    @on(Select.Changed)
    def _changed(self) -> None:
        self.check()

    def check(self) -> None:
        """Show what the fields come to."""
        self.checked(self._values())
        words, problem = self._words()
        line = (
            shown(f"✗ {problem}", "$text-error") if problem else shown(shlex.join(["srtui", *words]), "$dim")
        )
        self.query_one("#command", Static).update(line)
        self.query_one("#start", Button).disabled = bool(problem)

    def _values(self) -> dict[str, str]:
        values = {}
        for line in self._fields:
            widget = self.query_one(f"#{line.name}")
            value = widget.value if isinstance(widget, Input | Select) else ""
            values[line.name] = value.strip() if isinstance(value, str) else ""
        return values

    def _words(self) -> tuple[list[str], str]:
        """The command, or what speaks against it."""
        try:
            return self._build(self._values()), ""
        except UserError as error:
            return [], str(error)

    @on(Input.Submitted)
    def _next(self) -> None:
        self.focus_next()

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "start":
            self.action_start()
        else:
            self.dismiss(None)

    def action_pick(self) -> None:
        """What there is for the field that has the focus, else for the first that has choices."""
        from srtui.tui.screens.recipe_keys import Pick

        focused = self.focused.id if self.focused is not None else None
        with_choices = {line.name: line for line in self._fields if line.choices}
        line = with_choices.get(focused or "") or next(iter(with_choices.values()), None)
        if line is None:
            self.notify("Nothing here is picked from a list.", timeout=3)
            return
        name = line.name

        def apply(value: str | None) -> None:
            if value is not None:
                self.query_one(f"#{name}", Input).value = value

        self.app.push_screen(Pick(f"{line.label}?", list(line.choices)), apply)

    def action_start(self) -> None:
        """Leave with the command, where nothing speaks against it."""
        words, problem = self._words()
        if problem:
            self.notify(problem, severity="warning", markup=False)
        else:
            self.dismiss(words)

    def action_cancel(self) -> None:
        """Start nothing."""
        self.dismiss(None)


def filled(words: Sequence[str], values: Values, **options: str) -> list[str]:
    """``words`` with each option, by the name of its field, that is not left empty: ``limit="--limit"``."""
    return [*words, *(w for name, option in options.items() if values[name] for w in (option, values[name]))]


def existing_path(root: Path, name: str) -> Path:
    """The file or folder of this name, in ``root`` where it is no path from elsewhere. Raises UserError where it is not
    there, or cannot be: half a name is looked at, too, and a form is no place to die of one."""
    try:
        path = root / Path(name).expanduser()
        exists = path.exists()
    except RuntimeError:
        raise UserError(f"{name}: there is no such home folder; write the path in full.") from None
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}; name another file.") from None
    if not exists:
        raise UserError(f"{name}: there is no such file; check the path.")
    return path


def whole_number(values: Values, name: str, label: str, least: int = 1) -> None:
    """Raises UserError where a field holds something that is no whole number; empty is fine.

    Args:
        values: of all fields.
        name: of the field.
        label: what the form calls it.
        least: the smallest that it may be.
    """
    value = values[name]
    if value and not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) >= least):
        raise UserError(f"{label}: give a whole number from {least}, or nothing.")
