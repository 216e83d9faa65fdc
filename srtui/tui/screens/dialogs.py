"""Small questions, and help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, ClassVar, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from srtui.text import safe
from srtui.tui.widgets.words import shown

_KEYS = {
    "question_mark": "?",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "slash": "/",
    "escape": "Esc",
    "enter": "Enter",
    "space": "Space",
    "less_than_sign": "<",
    "greater_than_sign": ">",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "home": "Home",
    "end": "End",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    "f2": "F2",
}


T = TypeVar("T")


class Dialog(ModalScreen[T]):
    """A box in the middle; its keys stand in its lower edge, for those below are of the screen behind it."""

    def shown_keys(self) -> list[Binding]:
        """Those that stand in the lower edge."""
        # The nearest class that has any: a form that is made of another has that one's keys.
        own = next((c.__dict__["BINDINGS"] for c in type(self).__mro__ if c.__dict__.get("BINDINGS")), ())
        return [b for b in own if isinstance(b, Binding)]

    def on_mount(self) -> None:
        """Write the dialog's keys into its lower border."""
        bindings = self.shown_keys()
        keys = (
            f"{_KEYS.get(b.key.split(',')[0], b.key.split(',')[0])} {b.description.lower()}" for b in bindings
        )
        self.query_one(".dialog").border_subtitle = "  ".join(keys).replace("ctrl+", "^")


class Help(Dialog[None]):
    """What a screen shows, and what its keys do."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "Close"),
    ]

    def __init__(self, subject: Screen[Any]) -> None:
        super().__init__()
        self._subject = subject

    def compose(self) -> ComposeResult:
        """What the screen is for, and its keys."""
        with VerticalScroll(classes="dialog"):
            yield Static(Content("Help"), classes="title")
            yield Static(Content(getattr(self._subject, "HELP_TEXT", "")))
            yield Static(self._keys(), id="keys")

    def _keys(self) -> Content:
        blocks: list[Content] = []
        focused = self._subject.focused
        for name, node in (("Here", self._subject), ("In the list", focused), ("Everywhere", self.app)):
            rows: dict[str, tuple[str, list[str]]] = {}
            for kind in type(node).__mro__ if node is not None else ():
                if kind.__module__.startswith("srtui."):
                    for binding in kind.__dict__.get("BINDINGS", ()):
                        keys = [_KEYS.get(k, k) for k in binding.key.split(",")]
                        rows.setdefault(binding.action, (binding.description, []))[1].extend(keys)
            if rows:
                blocks.append(Content.styled(f"\n{name}", "bold $text-primary"))
                blocks += [
                    Content.assemble((f"  {' '.join(keys):<16}", "bold"), words)
                    for words, keys in rows.values()
                ]
        blocks.append(Content.assemble(("  ctrl+p          ", "bold"), "Every command, by name"))
        return Content("\n").join(blocks)


class Confirm(Dialog[bool]):
    """Yes or no; where ``type_this`` is given, only by typing it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "no", "No"),
        Binding("y", "yes", "Yes", show=False),
    ]

    def __init__(self, question: str, words: str, yes: str, type_this: str | None = None) -> None:
        super().__init__()
        self._question, self._words, self._yes, self._type_this = question, words, yes, type_this

    def shown_keys(self) -> list[Binding]:
        """Where something is typed, y is a letter."""
        return [b for b in super().shown_keys() if self._type_this is None or b.key != "y"]

    def compose(self) -> ComposeResult:
        """The question, what it means, a field where a name must be typed, and the buttons."""
        with Vertical(classes="dialog"):
            yield Static(shown(self._question), classes="title")
            yield Static(shown(self._words))
            if self._type_this is not None:
                yield Input(placeholder=f"type {safe(self._type_this)}", id="typed")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="no", compact=True)
                yield Button(
                    self._yes, id="yes", variant="error", compact=True, disabled=self._type_this is not None
                )

    def on_mount(self) -> None:
        """Begin where nothing is lost: on Cancel, or in the field."""
        self.query_one("#no" if self._type_this is None else "#typed").focus()

    @on(Input.Changed, "#typed")
    def _typed(self, event: Input.Changed) -> None:
        self.query_one("#yes", Button).disabled = event.value != self._type_this

    @on(Input.Submitted, "#typed")
    def _submitted(self, event: Input.Submitted) -> None:
        if event.value == self._type_this:
            self.dismiss(True)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_no(self) -> None:
        """Close without doing it."""
        self.dismiss(False)

    def action_yes(self) -> None:
        """Close and do it; where a name must be typed, only typing it does."""
        if self._type_this is None:
            self.dismiss(True)


class AskText(Dialog[str | None]):
    """One line of text; None where the person cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Cancel")]

    def __init__(self, question: str, words: str, value: str = "", placeholder: str = "") -> None:
        super().__init__()
        self._question, self._words, self._value, self._placeholder = question, words, value, placeholder

    def compose(self) -> ComposeResult:
        """The question, the field and the buttons."""
        with Vertical(classes="dialog"):
            yield Static(Content(self._question), classes="title")
            yield Static(Content(self._words), classes="muted")
            yield Input(self._value, placeholder=self._placeholder)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="no", compact=True)
                yield Button("OK", id="yes", variant="primary", compact=True)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(self.query_one(Input).value if event.button.id == "yes" else None)

    def action_cancel(self) -> None:
        """Close without an answer."""
        self.dismiss(None)


@dataclass(frozen=True)
class NextStep:
    """One thing that a menu offers: ``name`` for the program, a key, and what it does in a sentence."""

    name: str
    key: str
    words: str


class Menu(Dialog[str | None]):
    """Several things to do, each by its key; dismissed with the name of one, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "Take"),
        Binding("escape", "cancel", "Cancel"),
        # Bindings, and no handler of keys: a key that was typed before the menu was there goes to the screen behind it,
        # from where only bindings find the menu.
        *(Binding(letter, f"take_step('{letter}')", show=False) for letter in ascii_lowercase),
    ]

    def __init__(self, title: str, steps: Sequence[NextStep]) -> None:
        super().__init__()
        self._title, self._steps = title, steps

    def compose(self) -> ComposeResult:
        """The steps, one below the other."""
        with Vertical(classes="dialog"):
            yield Static(shown(self._title), classes="title")
            yield OptionList(
                *(
                    Option(Content.assemble((f"{step.key}  ", "bold $text-accent"), step.words), id=step.name)
                    for step in self._steps
                )
            )

    def on_mount(self) -> None:
        """Let the arrows move through the steps."""
        self.query_one(OptionList).focus()

    def shown_keys(self) -> list[Binding]:
        """Those that are no step's."""
        return [b for b in super().shown_keys() if b.description]

    def action_take_step(self, key: str) -> None:
        """The step that has this key."""
        step = next((step for step in self._steps if step.key == key), None)
        if step is not None:
            self.dismiss(step.name)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)

    def action_take(self) -> None:
        """The one under the cursor."""
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            self.dismiss(self._steps[options.highlighted].name)

    def action_cancel(self) -> None:
        """Do nothing."""
        self.dismiss(None)


class Reading(Dialog[None]):
    """A longer text, to scroll through."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "dismiss", "Close")]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """The title and the whole text, scrollable."""
        with VerticalScroll(classes="dialog"):
            yield Static(shown(self._title), classes="title")
            yield Static(shown(self._text))
