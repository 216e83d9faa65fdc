"""Samples: a table over the store, however long, with filters and an order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from srtui.measures import MEASURES, STORED
from srtui.store.connection import DatabaseError, was_interrupted
from srtui.store.listing import ORDERS, Part, SampleFilter, SampleRow
from srtui.text import number
from srtui.tui.screens.dialogs import AskText
from srtui.tui.screens.go_to import ask_for_sample
from srtui.tui.screens.many_samples import ManySamples
from srtui.tui.screens.sample_filter import FilterForm, described
from srtui.tui.tabs import numbered
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.table import Cell, Column, TableRow, Tone, VirtualTable
from srtui.tui.widgets.words import Words, shown

_ORDER_NAMES = {
    **{name: MEASURES[name].label for name in STORED},
    "sample": "number",
    "instruction": "instruction taken",
    "answer": "answer taken",
}
_STATE_TONES: dict[str, Tone] = {"kept": "good", "dropped": "dim", "overruled": "accent", "waiting": "dim"}
_STATE_SIGNS = {"kept": "✓ ", "dropped": "✗ ", "overruled": "» ", "waiting": "· "}


class SamplesScreen(ManySamples):
    """The table. It lists on a connection of its own, so that a long sort holds up nothing else."""

    MODE = "samples"
    HELP_TEXT = (
        "The samples of the run. Every column is of the final text, the one that is trained on or exported: whether its "
        "instruction and its answer are new, its IFD and r-IFD, the length of its answer in characters. ⚑ is a flag, "
        "✎ a note, ◆ a mark of yours. Margin says how far apart the scores were that the closer of its choices was between "
        "(of ratios, their logarithms): near 0 it could have gone either way, and b lists those first. Space marks a sample, "
        "A all that are listed; F flags the marked ones, o overrules them, u takes the last of these back. A click on a heading sorts by it, a second click the other way round. Enter opens a sample. m draws a map of the data."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search"),
        Binding("f", "filter", "Filter"),
        Binding("s", "sort", "Sort"),
        Binding("S", "turn", "Reverse", show=False),
        Binding("m", "map", "Map"),
        Binding("escape", "all", "Show all"),
        Binding("b", "borderline", "Borderline first", show=False),
        Binding("g", "go_to", "Go to", show=False),
        Binding("enter", "open", "Open", show=True),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._listed: SampleFilter | None = None
        self._listed_at = self._listing_took = 0.0

    def body(self) -> ComposeResult:
        """What is listed, and the table of it."""
        yield Words(id="which", classes="line")
        yield VirtualTable(
            [
                Column("sample", "#", 7, right=True),
                Column("state", "state", 14, from_width=64),
                Column("instruction", "instr", 5),
                Column("answer", "answer", 6),
                Column("ifd", "IFD", 5, right=True),
                Column("rifd", "r-IFD", 6, right=True),
                Column("margin", "margin", 7, right=True, from_width=110),
                Column("length", "length", 7, right=True, from_width=100),
                Column("marks", "", 3, sortable=False),
                Column("text", "instruction"),
            ],
            self._rows,
            id="samples",
        )
        yield Empty("No samples", "", id="none")

    def on_mount(self) -> None:
        """Show nothing before the first reading."""
        self.query_one("#none").add_class("hidden")

    async def _rows(self, start: int, count: int) -> Sequence[TableRow]:
        run_id = self._listed.run_id if self._listed else None
        return [
            _row(r, run_id is None, r.id in self._marked)
            for r in await self.reader.ask(lambda v: v.listing.window(run_id, start, count))
        ]

    async def read(self) -> None:
        """How many samples the filter leaves, laid out in order where that may have changed."""
        app = self.dashboard
        if not app.watched:
            return  # the run that the table is about is not known yet
        if not app.workspace.store_path.exists():
            self._show_empty(
                "No samples yet",
                f"Import a file on {numbered('data')} (i), or start the demo on {numbered('runs')}.",
            )
            return
        new_filter = replace(app.sample_filter, run_id=app.run_id)
        self.marks_are_of(app.run_id)
        table = self.query_one(VirtualTable)
        # An order that may have changed is laid out again, but a slow one not all the time.
        due = time.monotonic() - self._listed_at > max(2.0, 20 * self._listing_took)
        if new_filter == self._listed and (new_filter.is_plain or not due):
            table.reread()
            return
        if new_filter != self._listed:
            self._show_heading(new_filter, None)
        if new_filter.text and new_filter != self._listed:
            await self._index(new_filter)
        if replace(self.shown_filter, run_id=new_filter.run_id) != new_filter:
            self._again = True
            return
        is_same = new_filter == self._listed
        current_row, was_at = table.row if is_same else None, table.cursor
        started = time.monotonic()
        try:
            total = await self.reader.ask(lambda v: v.listing.lay_out(new_filter))
        except DatabaseError as error:
            if was_interrupted(error):
                self._again = True
                return
            raise
        self._listing_took, self._listed_at = time.monotonic() - started, time.monotonic()
        self._listed = new_filter
        position = (
            None
            if current_row is None
            else await self.reader.ask(lambda v: v.listing.position_of(current_row.key))
        )
        table.sorted_by = (new_filter.order, new_filter.descending)
        if is_same:
            table.reread(total)
            if position is not None and table.cursor == was_at:  # or a key has moved it meanwhile
                table.cursor = position
        else:
            table.show(total, 0)
        self._show_heading(new_filter, total)
        if total:
            self.query_one("#none").add_class("hidden")
            table.remove_class("hidden")
            if self.focused is None:
                table.focus()
        elif new_filter == SampleFilter(
            new_filter.run_id, order=new_filter.order, descending=new_filter.descending
        ):
            self._show_empty(
                "No samples yet",
                f"Import a file on {numbered('data')} (i), or start a run on {numbered('runs')}.",
            )
        else:
            self._show_empty("No sample is like this", "Esc shows all of them again, f changes the filter.")

    def _show_empty(self, title: str, words: str) -> None:
        self.query_one(VirtualTable).add_class("hidden")
        empty = self.query_one("#none", Empty)
        empty.remove_class("hidden")
        empty.show(title, words)

    async def _index(self, wanted_filter: SampleFilter) -> None:
        """Bring the text index up to date, batch by batch, saying how far it is."""
        remaining = await self.reader.ask(lambda v: v.listing.unindexed())
        total = remaining
        while remaining > 0:
            self.query_one("#which", Words).show(
                Content(f"Preparing the search: {1 - remaining / total:.0%} of {total:,} texts, this once")
            )
            if replace(self.shown_filter, run_id=wanted_filter.run_id) != wanted_filter:
                return  # something else is wanted by now; the next search continues from here
            # Between two batches the engine gets its turn to write.
            remaining = await self.dashboard.writer.do(lambda store: store.marks.index_texts())

    def _show_heading(self, sample_filter: SampleFilter, total: int | None) -> None:
        parts = [Content.styled("…" if total is None else f"{total:,} samples", "bold")]
        if self._marked:
            parts.append(
                Content.styled(
                    f"◆ {len(self._marked):,} marked: F flags, o overrules, Esc none", "$text-accent"
                )
            )
        parts += [shown(words) for words in described(sample_filter)]
        order = (
            "table order"
            if sample_filter.order == "sample" and not sample_filter.descending
            else f"by {_ORDER_NAMES.get(sample_filter.order, sample_filter.order)}"
        )
        parts.append(Content.styled(order + (", descending" if sample_filter.descending else ""), "$dim"))
        self.query_one("#which", Words).show(Content("  ·  ").join(parts))

    # -- what a person does -----------------------------------------------------------------

    def change(self, sample_filter: SampleFilter) -> None:
        """List these instead."""
        self.dashboard.sample_filter = replace(sample_filter, run_id=None)
        if self._reading:
            self.reader.interrupt()
        self.reread()

    @property
    def shown_filter(self) -> SampleFilter:
        """The filter and order that are shown."""
        return self.dashboard.sample_filter

    def action_search(self) -> None:
        """Ask for words, and list the samples that have them."""

        def search(text: str | None) -> None:
            if text is not None:
                self.change(replace(self.shown_filter, text=text.strip()))

        words = "Words anywhere in any variant of a sample; the last one may be unfinished."
        self.app.push_screen(AskText("Search", words, self.shown_filter.text, "words"), search)

    def action_filter(self) -> None:
        """Open the filter's form."""

        def apply(chosen: SampleFilter | None) -> None:
            if chosen is not None:
                self.change(chosen)

        self.app.push_screen(FilterForm(self.shown_filter), apply)

    def action_sort(self) -> None:
        """Sort by the next column."""
        index = ORDERS.index(self.shown_filter.order)
        self.change(replace(self.shown_filter, order=ORDERS[(index + 1) % len(ORDERS)], descending=False))

    def action_turn(self) -> None:
        """Turn the order around."""
        self.change(replace(self.shown_filter, descending=not self.shown_filter.descending))

    def action_all(self) -> None:
        """Take all marks away; where there are none, list all samples, in the order as it is."""
        if self._marked:
            self._marked = {}
            self.marks_changed()
            return
        self.change(SampleFilter(order=self.shown_filter.order, descending=self.shown_filter.descending))

    def marks_changed(self) -> None:
        """Show the marks as they are."""
        table = self.query_one(VirtualTable)
        table.reread()
        if self._listed is not None:
            self._show_heading(self._listed, table.total)

    def listing_changed(self) -> None:
        """List again: what is listed, and in which order, may be another now."""
        self._listed_at = 0.0
        self.reread()

    def action_borderline(self) -> None:
        """List the samples first whose choices were the closest."""
        self.change(replace(self.shown_filter, order="margin", descending=False))

    def action_go_to(self) -> None:
        """Ask for a sample's number and go there."""
        ask_for_sample(self.dashboard, self.reader, self.query_one(VirtualTable))

    @on(VirtualTable.SortAsked)
    def _sort_by(self, event: VirtualTable.SortAsked) -> None:
        same_column = event.column == self.shown_filter.order
        self.change(
            replace(
                self.shown_filter,
                order=event.column,
                descending=same_column and not self.shown_filter.descending,
            )
        )

    def action_map(self) -> None:
        """Open the map of the data."""
        from srtui.tui.screens.map_screen import MapScreen

        self.app.push_screen(MapScreen())

    def action_open(self) -> None:
        """Open the chosen sample."""
        self.query_one(VirtualTable).action_select()

    @on(VirtualTable.Selected)
    def _open(self, event: VirtualTable.Selected) -> None:
        def back(position: int | None) -> None:
            if position is not None:
                self.query_one(VirtualTable).cursor = position

        self.show_sample(event.position, event.row.key, back)


def _row(r: SampleRow, no_run: bool = False, marked: bool = False) -> TableRow:
    def part(value: Part | None) -> Cell:
        if value is None:
            return Cell("-", "dim")
        return Cell("hand", "accent") if value == "by hand" else Cell(value, "good" if value == "new" else "")

    marks = ("◆" if marked else "") + ("⚑" if r.flagged else "") + ("✎" if r.noted else "")
    return TableRow(
        r.id,
        (
            Cell(str(r.id), "dim"),
            Cell("no run yet", "dim")
            if no_run
            else Cell(
                _STATE_SIGNS.get(r.state, "") + r.state.replace("instruction", "instr."),
                _STATE_TONES.get(r.state, ""),
            ),
            part(r.instruction),
            part(r.answer),
            Cell(number(r.ifd, 2), "warn" if r.ifd is not None and r.ifd >= 1 else ""),
            Cell(number(r.rifd, 2), "warn" if r.rifd is not None and r.rifd >= 1 else ""),
            Cell(number(r.margin, 3), "dim"),
            Cell(f"{r.length:,}"),
            Cell(marks, "accent"),
            Cell(r.text),
        ),
    )
