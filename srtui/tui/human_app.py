"""``srtui eval human`` in a terminal: the screen of the dashboard, and nothing around it."""

from __future__ import annotations

import os
import sys

from textual.app import App

from srtui.errors import UserError
from srtui.text import safe
from srtui.tui.app import DARK, LIGHT
from srtui.tui.background import StoreReader, StoreWriter
from srtui.tui.screens.judging import HumanScreen
from srtui.workspace import Workspace


class HumanApp(App[None]):
    """Closed when the person leaves."""

    TITLE = "srtui eval human"
    CSS_PATH = "dashboard.tcss"
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, workspace: Workspace, evaluation_id: int, annotator: str) -> None:
        super().__init__()
        self.reader, self.writer = StoreReader(workspace.store_path), StoreWriter(workspace.store_path)
        self._evaluation_id, self._annotator = evaluation_id, annotator
        for theme in (DARK, LIGHT):
            self.register_theme(theme)
        self.theme = DARK.name

    def on_mount(self) -> None:
        """Open the one screen; the app ends with it."""
        screen = HumanScreen(self.reader, self.writer, self._evaluation_id, self._annotator)
        self.push_screen(screen, lambda _: self.exit())

    def report_error(self, error: BaseException) -> None:
        """What went wrong, in a sentence."""
        sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self.notify(safe(sentence), title="Something went wrong", severity="error", timeout=12, markup=False)

    def on_unmount(self) -> None:
        """Close both connections to the store."""
        self.reader.close()
        self.writer.close()


def check_terminal() -> None:
    """Raises UserError where a person cannot be asked."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise UserError(
            "Judging by a person needs a terminal that can be drawn on; --no-ask writes the answers only."
        )


def open_human(workspace: Workspace, evaluation_id: int, annotator: str) -> None:
    """Ask this person on this terminal, until nothing is left or the person leaves."""
    check_terminal()
    HumanApp(workspace, evaluation_id, annotator).run()
