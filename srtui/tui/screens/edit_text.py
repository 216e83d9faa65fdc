"""Edit a text here, where no editor is set: three fields, one a part."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static, TextArea

from srtui.sample import Pair
from srtui.tui.screens.dialogs import Dialog
from srtui.tui.widgets.panes import PART_NAMES, PARTS


class EditText(Dialog[Pair | None]):
    """Dismissed with the pair as it was written, or None where nothing was changed."""

    HELP_TEXT = "Tab goes to the next part. With EDITOR set, e opens that editor instead."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "store", "Store", priority=True),
        Binding("escape", "cancel", "Cancel", priority=True),
    ]
    DEFAULT_CSS = """
    EditText TextArea { height: 1fr; min-height: 4; }
    EditText #input { height: 4; }
    """

    def __init__(self, before: Pair) -> None:
        super().__init__()
        self._before = before

    def compose(self) -> ComposeResult:
        """A heading and a field for each part."""
        with VerticalScroll(classes="dialog", can_focus=False):
            yield Static(Content("A text of your own"), classes="title")
            for part in PARTS:
                yield Static(Content(PART_NAMES[part]), classes="muted")
                yield TextArea(getattr(self._before, part), id=part, soft_wrap=True, tab_behavior="focus")

    def on_mount(self) -> None:
        """Begin with the answer, which is what is changed most."""
        self.query_one("#response").focus()

    def action_store(self) -> None:
        """Take what stands in the fields."""
        instruction, input_text, response = (self.query_one(f"#{part}", TextArea).text for part in PARTS)
        pair = Pair(instruction, input_text, response)
        self.dismiss(None if pair == self._before else pair)

    def action_cancel(self) -> None:
        """Leave the text as it was."""
        self.dismiss(None)
