"""An empty place that says what to do next."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Center, Middle
from textual.content import Content
from textual.widgets import Static


class Empty(Middle):
    """A sentence or three, in the middle of an empty screen."""

    DEFAULT_CSS = """
    Empty { height: 1fr; }
    Empty .empty--title { text-style: bold; width: auto; }
    Empty .empty--words { width: auto; max-width: 72; color: $dim; margin: 1 0 0 0; }
    """

    def __init__(self, title: str, words: str, id: str | None = None) -> None:
        super().__init__(id=id)
        self._title, self._words = title, words

    def compose(self) -> ComposeResult:
        """The title, and what to do."""
        with Center():
            yield Static(Content(self._title), classes="empty--title")
        with Center():
            yield Static(Content(self._words), classes="empty--words")

    def show(self, title: str, words: str) -> None:
        """Another title and other words."""
        self.query_one(".empty--title", Static).update(Content(title))
        self.query_one(".empty--words", Static).update(Content(words))
