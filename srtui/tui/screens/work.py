"""Work: every command that dashboards of this workspace started, how far each is, and its output."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from srtui.text import duration, safe
from srtui.tui.processes import Started, earlier
from srtui.tui.screens.dialogs import Confirm, Dialog, Reading
from srtui.tui.widgets.table import Cell, Column, TableRow, Tone, VirtualTable

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard

_SIGNS: dict[str, tuple[str, Tone]] = {
    "running": ("▶ running", "accent"),
    "stopping": ("▪ stopping", "warn"),
    "done": ("✓ done", "good"),
    "failed": ("✗ failed", "bad"),
    "stopped": ("■ stopped", "warn"),
    "ended": ("· ended", "dim"),
}


class WorkList(Dialog[None]):
    """What runs now first, then what has ended, the newest first."""

    HELP_TEXT = "Commands that were started from a dashboard. They continue when it is closed."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Output"),
        Binding("x", "stop", "Stop"),
        Binding("escape,f3", "close", "Close"),
    ]
    DEFAULT_CSS = """
    WorkList VirtualTable { height: 1fr; background: $surface; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._engines: list[Started] = []

    def compose(self) -> ComposeResult:
        """The table, or a word where nothing was started."""
        with Vertical(classes="dialog"):
            yield Static(Content("Work"), classes="title")
            yield VirtualTable(
                [
                    Column("state", "state", 10, sortable=False),
                    Column("time", "for", 13, right=True, sortable=False),
                    Column("command", "command", sortable=False),
                    Column("line", "says", from_width=70, sortable=False),
                ],
                id="work",
            )
            yield Static(
                "Nothing was started from a dashboard of this workspace yet.",
                classes="muted hidden",
                id="none",
            )

    def on_mount(self) -> None:
        """Show it, and again each second."""
        self.call_later(self._show)
        self.query_one(VirtualTable).focus()
        self.set_interval(1.0, self._show)

    async def _show(self) -> None:
        app: Dashboard = self.app  # type: ignore[assignment]
        own = [*app.started, *app.ended]
        others = await asyncio.to_thread(earlier, app.workspace, own)
        self._engines = sorted([*own, *others], key=lambda e: (e.pid is None, -e.started_at))
        rows = await asyncio.to_thread(lambda: [_row(e) for e in self._engines])
        if self.is_mounted:
            self.query_one("#none").set_class(bool(rows), "hidden")
            self.query_one(VirtualTable).set_class(not rows, "hidden")
            self.query_one(VirtualTable).show_rows(rows)

    @property
    def _chosen(self) -> Started | None:
        row = self.query_one(VirtualTable).row
        return None if row is None else next((e for e in self._engines if str(e.log) == row.key), None)

    def action_open(self) -> None:
        """Show the end of its output."""
        self.query_one(VirtualTable).action_select()

    @on(VirtualTable.Selected)
    def _open(self) -> None:
        if (engine := self._chosen) is not None:
            self.app.push_screen(Reading(engine.command, engine.output() or "It has said nothing yet."))

    def action_stop(self) -> None:
        """Ask it to stop, once confirmed."""
        engine = self._chosen
        if engine is None or engine.pid is None:
            self.notify("It does not run any more.", timeout=3)
            return

        def stop(yes: bool | None) -> None:
            if yes:
                engine.stop()

        words = (
            "It was asked to stop and finishes the step that it is in. Asked again it stops at once: that step is lost, "
            "what it had finished before is stored."
            if engine.stop_asked
            else "It finishes the step that it is in. What it had finished is stored; the same command resumes."
        )
        verb = "Stop at once" if engine.stop_asked else "Stop"
        self.app.push_screen(Confirm(f"{verb}: srtui {safe(engine.words[0])}?", words, verb), stop)

    def action_close(self) -> None:
        """Return to the screen below."""
        self.dismiss(None)


def _row(engine: Started) -> TableRow:
    sign, tone = _SIGNS[engine.state]
    ended_at = time.time()
    if engine.pid is None:
        try:
            ended_at = engine.log.stat().st_mtime
        except OSError:
            ended_at = engine.started_at
    took = duration(max(0.0, ended_at - engine.started_at))
    cells = (
        Cell(sign, tone),
        Cell(took, "dim"),
        Cell(engine.command, "bold"),
        Cell(engine.last_line(), "dim"),
    )
    return TableRow(str(engine.log), cells)
