"""Log: what the engines reported, and what went wrong here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from srtui.tui.screens.dashboard_screen import DashboardScreen
from srtui.tui.screens.dialogs import Reading
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.table import Cell, Column, TableRow, Tone, VirtualTable

_SIGNS: dict[str, tuple[str, Tone]] = {
    "info": ("· info", ""),
    "warning": ("! warning", "warn"),
    "error": ("✗ error", "bad"),
}
_ONLY = (None, "warning", "error")


class LogScreen(DashboardScreen):
    """Events of all runs, the newest first; this dashboard's own problems stand above them."""

    MODE = "log"
    HELP_TEXT = "What the engines reported, the newest first, and above it what went wrong in this dashboard. Enter shows the whole of a line."
    BINDINGS: ClassVar[list[BindingType]] = [Binding("w", "worse", "All/warnings/errors")]

    def __init__(self) -> None:
        super().__init__()
        self._only: str | None = None

    def body(self) -> ComposeResult:
        """The table of events."""
        yield VirtualTable(
            [
                Column("at", "time", 14, sortable=False),
                Column("level", "level", 9, sortable=False),
                Column("run", "run", 16, from_width=70, sortable=False),
                Column("message", "message", sortable=False),
            ],
            self._rows,
            id="log",
        )
        yield Empty(
            "Nothing has been logged",
            "What engines report comes here, with everything that goes wrong.",
            id="none",
        )

    def _problems(self) -> list[TableRow]:
        if self._only == "warning":
            return []
        return [
            TableRow(
                ("here", p.occurred_at, p.detail),
                (
                    Cell(_clock(p.occurred_at), "dim"),
                    Cell("✗ error", "bad"),
                    Cell("this dashboard", "dim"),
                    Cell(p.sentence),
                ),
            )
            for p in reversed(self.dashboard.problems)
        ]

    async def _rows(self, start: int, count: int) -> Sequence[TableRow]:
        problems = self._problems()
        rows = problems[start : start + count]
        remaining = count - len(rows)
        if remaining and self.dashboard.workspace.store_path.exists():
            only, skip = self._only, max(0, start - len(problems))
            for e in await self.dashboard.ask(lambda v: v.events(skip, remaining, None, only)):
                sign, tone = _SIGNS[e.level]
                cells = (
                    Cell(_clock(e.at), "dim"),
                    Cell(sign, tone),
                    Cell(e.run or "", "dim"),
                    Cell(e.message),
                )
                rows.append(TableRow((e.id, e.at, e.message), cells))
        return rows

    async def read(self) -> None:
        """This dashboard's problems, then the events of all runs, the newest first."""
        only = self._only
        stored = 0
        if self.dashboard.workspace.store_path.exists():
            stored = await self.dashboard.ask(lambda v: v.count_events(None, only))
        total = stored + len(self._problems())
        table = self.query_one(VirtualTable)
        table.reread(total)
        table.set_class(not total, "hidden")
        self.query_one("#none").set_class(bool(total), "hidden")

    def action_worse(self) -> None:
        """Change between all events, warnings and errors."""
        self._only = _ONLY[(_ONLY.index(self._only) + 1) % len(_ONLY)]
        self.notify(f"Showing {'everything' if self._only is None else f'{self._only}s only'}.", timeout=2)
        self.query_one(VirtualTable).show(0)
        self.reread()

    @on(VirtualTable.Selected)
    def _open(self, event: VirtualTable.Selected) -> None:
        _, timestamp, message = event.row.key
        self.app.push_screen(Reading(_clock(timestamp), message))


def _clock(timestamp: float) -> str:
    return time.strftime("%d %b %H:%M", time.localtime(timestamp))
