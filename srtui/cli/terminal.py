"""The command line's terminal: results on ``out``, what is no result on ``err``, and texts of the data by ``plain``.

Rich reads markup in what it prints, and a terminal reads control characters. So a text that this program
did not write itself goes through :func:`plain` on its way into a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from srtui.noise import screen
from srtui.text import safe

# What markup would take for its own, in text that is none. Rich's own escapes lose some backslashes;
# private-use characters cannot be in a text that was made safe, so these two stand for nothing else.
_HIDDEN_FROM_MARKUP = str.maketrans({"[": "\ue05b", "\\": "\ue05c"})
_SHOWN_AGAIN = {0xE05B: "[", 0xE05C: "\\"}


class Terminal(Console):
    """Rich's console for the sentences of this program: styles in markup, and texts by :func:`plain`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    @property
    def file(self) -> IO[str]:
        """Of ``err``, the screen also while the libraries' standard error goes to a log."""
        return screen() if self.stderr and self._file is None else super().file

    @file.setter
    def file(self, new: IO[str]) -> None:
        """Write to another file from now on."""
        self._file = new

    def render_str(self, text: str, **options: Any) -> Text:
        """Markup as styled text, with what the escape filter made of line breaks and tabs shown as what it
        stands for again."""
        rendered = super().render_str(text, **options)
        if not rendered.plain.isascii():
            rendered.plain = rendered.plain.translate(_SHOWN_AGAIN)
        return rendered


out = Terminal()
err = Terminal(stderr=True)


def plain(text: str) -> str:
    """``safe``, for a place in markup where the text is to stand as it is."""
    return safe(text).translate(_HIDDEN_FROM_MARKUP)


def print_facts(rows: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line; values are markup."""
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(f"[dim]{name}[/]", value)
    out.print(grid)
