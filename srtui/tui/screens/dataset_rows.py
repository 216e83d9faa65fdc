"""The rows of one dataset, as they were imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from srtui.store.listing import SampleFilter
from srtui.tui.screens.dashboard_screen import KeyLine
from srtui.tui.screens.go_to import ask_for_sample
from srtui.tui.screens.listing_screen import ListingScreen
from srtui.tui.widgets.table import Cell, Column, TableRow, VirtualTable
from srtui.tui.widgets.words import Words, shown


class DatasetRows(ListingScreen):
    """A table over all samples of a dataset; Enter opens one."""

    HELP_TEXT = "The samples of a dataset as they were imported, in their order. Enter opens one, g goes to one by its number."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("enter", "open", "Open"),
        Binding("g", "go_to", "Go to"),
    ]

    def __init__(self, dataset_id: int, name: str) -> None:
        super().__init__()
        self._dataset_id, self._dataset = dataset_id, name

    def compose(self) -> ComposeResult:
        """What is listed, the table and the keys."""
        yield Words(id="which", classes="line")
        yield VirtualTable(
            [
                Column("sample", "#", 8, right=True, sortable=False),
                Column("length", "length", 8, right=True, sortable=False),
                Column("text", "instruction", sortable=False),
            ],
            self._rows,
            id="rows",
        )
        yield KeyLine()

    def on_mount(self) -> None:
        """Lay the rows out."""
        self.query_one("#which", Words).show(shown(f"{self._dataset} …", "bold"))
        self.run_worker(self._lay_out(), group="read")

    async def _lay_out(self) -> None:
        only = SampleFilter(dataset_id=self._dataset_id)
        try:
            total = await self.reader.ask(lambda v: v.listing.lay_out(only))
        except Exception as error:
            self.dashboard.report_error(error)
            return
        self.query_one("#which", Words).show(
            Content.assemble(
                shown(self._dataset, "bold"), shown(f"  {total:,} samples as they were imported", "$dim")
            )
        )
        table = self.query_one(VirtualTable)
        table.show(total, 0)
        table.focus()

    async def _rows(self, start: int, count: int) -> Sequence[TableRow]:
        rows = await self.reader.ask(lambda v: v.listing.window(None, start, count))
        return [TableRow(r.id, (Cell(str(r.id), "dim"), Cell(f"{r.length:,}"), Cell(r.text))) for r in rows]

    # -- what a person does -----------------------------------------------------------------

    def action_back(self) -> None:
        """Return to the datasets."""
        self.dismiss(None)

    def action_open(self) -> None:
        """Open the chosen sample."""
        self.query_one(VirtualTable).action_select()

    def action_go_to(self) -> None:
        """Ask for a sample's number and go there."""
        ask_for_sample(self.dashboard, self.reader, self.query_one(VirtualTable))

    @on(VirtualTable.Selected)
    def _open(self, event: VirtualTable.Selected) -> None:
        def back(position: int | None) -> None:
            if position is not None:
                self.query_one(VirtualTable).cursor = position

        self.show_sample(event.position, event.row.key, back)
