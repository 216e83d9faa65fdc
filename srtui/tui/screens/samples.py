"""Samples: a table over the store, however long, with filters and an order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Label, Select, Static

from srtui.measures import MEASURES, STORED
from srtui.store.connection import DatabaseError, was_interrupted
from srtui.store.listing import DECISIONS, ORDERS, STATES, Part, SampleFilter, SampleRow
from srtui.text import number
from srtui.tui.background import StoreReader
from srtui.tui.screens.base import DashboardScreen
from srtui.tui.screens.dialogs import AskText, Dialog
from srtui.tui.tabs import numbered
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.table import Cell, Column, TableRow, Tone, VirtualTable
from srtui.tui.widgets.words import Words, shown
from srtui.wording import LABELS

SCORE_NAMES = {score: LABELS[score] for name in STORED for score in (name, f"{name} before")}
_ORDER_NAMES = {
    **{name: MEASURES[name].label for name in STORED},
    "sample": "number",
    "instruction": "instruction taken",
    "answer": "answer taken",
}
_STATE_TONES: dict[str, Tone] = {"kept": "good", "dropped": "dim", "overruled": "accent", "waiting": "dim"}
_STATE_SIGNS = {"kept": "✓ ", "dropped": "✗ ", "overruled": "» ", "waiting": "· "}


class FilterForm(Dialog[SampleFilter | None]):
    """Which samples to list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("ctrl+s", "apply", "Apply"),
    ]
    DEFAULT_CSS = """
    FilterForm .field { height: 1; margin-bottom: 1; }
    FilterForm .field Label { width: 12; color: $dim; }
    FilterForm .field Input, FilterForm .field Select { width: 1fr; }
    FilterForm .field .to { width: 4; text-align: center; }
    """

    def __init__(self, now: SampleFilter) -> None:
        super().__init__()
        self._now = now

    def compose(self) -> ComposeResult:
        """A field for each part of the filter."""
        now = self._now
        with VerticalScroll(classes="dialog"):
            yield Static(Content("Which samples?"), classes="title")
            with Horizontal(classes="field"):
                yield Label("text")
                yield Input(now.text, id="text", compact=True, placeholder="words anywhere in any variant")
            with Horizontal(classes="field"):
                yield Label("state")
                yield _choice("state", STATES, now.state)
            with Horizontal(classes="field"):
                yield Label("decision")
                yield _choice("decision", DECISIONS, now.decision)
            with Horizontal(classes="field"):
                yield Label("score")
                names = [(name, key) for key, name in SCORE_NAMES.items()]
                yield Select(names, value=now.measure, allow_blank=False, compact=True, id="measure")
                yield Input(_text(now.low), id="low", type="number", compact=True, placeholder="from")
                yield Label("to", classes="to")
                yield Input(_text(now.high), id="high", type="number", compact=True, placeholder="below")
            with Horizontal(classes="field"):
                yield Label("answer")
                yield Input(
                    _text(now.shortest), id="shortest", type="integer", compact=True, placeholder="from"
                )
                yield Label("to", classes="to")
                yield Input(
                    _text(now.longest), id="longest", type="integer", compact=True, placeholder="characters"
                )
            with Horizontal(classes="field"):
                yield Label("marks")
                yield _choice("marks", ("flagged",), "flagged" if now.flagged else None)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Show all", id="all", compact=True)
                yield Button("Apply", id="apply", variant="primary", compact=True)

    def on_mount(self) -> None:
        """Begin in the field of words."""
        self.query_one("#text").focus()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_apply()

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        now = self._now
        if event.button.id == "apply":
            self.action_apply()
        elif event.button.id == "all":
            self.dismiss(SampleFilter(now.run_id, order=now.order, descending=now.descending))
        else:
            self.dismiss(None)

    def action_apply(self) -> None:
        """Close with the filter that the fields say; what is no number is left out."""

        def decimal(id: str) -> float | None:
            value = self.query_one(f"#{id}", Input).value
            try:
                return float(value) if value else None
            except ValueError:
                return None

        def picked(id: str) -> str | None:
            value = self.query_one(f"#{id}", Select).value
            return value if isinstance(value, str) else None

        shortest, longest = decimal("shortest"), decimal("longest")
        self.dismiss(
            replace(
                self._now,
                text=self.query_one("#text", Input).value.strip(),
                state=picked("state"),
                decision=picked("decision"),
                measure=picked("measure") or "ifd",
                low=decimal("low"),
                both=False,
                high=decimal("high"),
                shortest=None if shortest is None else int(shortest),
                longest=None if longest is None else int(longest),
                flagged=picked("marks") is not None,
            )
        )

    def action_cancel(self) -> None:
        """Close and leave the filter as it is."""
        self.dismiss(None)


def _choice(id: str, values: Sequence[str], now: str | None) -> Select[str]:
    return Select([(v, v) for v in values], value=now or Select.NULL, prompt="any", compact=True, id=id)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


class SamplesScreen(DashboardScreen):
    """The table. It lists on a connection of its own, so that a long sort holds up nothing else."""

    MODE = "samples"
    HELP_TEXT = (
        "The samples of the run. Every column is of the final text, the one that is trained on or exported: whether its "
        "instruction and its answer are new, its IFD and r-IFD, the length of its answer in characters. ⚑ is a flag, "
        "✎ a note. A click on a heading sorts by it, a second click the other way round. Enter opens a sample."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search"),
        Binding("f", "filter", "Filter"),
        Binding("s", "sort", "Sort"),
        Binding("S", "turn", "Reverse", show=False),
        Binding("escape", "all", "Show all"),
        Binding("enter", "open", "Open", show=True),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._listed: SampleFilter | None = None
        self._listed_at = self._listing_took = 0.0
        self._reader: StoreReader | None = None

    @property
    def reader(self) -> StoreReader:
        """The connection that holds the listing; the screen of one sample steps along it."""
        if self._reader is None:
            self._reader = StoreReader(self.dashboard.workspace.store_path)
        return self._reader

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
                Column("length", "length", 7, right=True, from_width=100),
                Column("marks", "", 2, sortable=False),
                Column("text", "instruction"),
            ],
            self._rows,
            id="samples",
        )
        yield Empty("No samples", "", id="none")

    def on_mount(self) -> None:
        """Show nothing before the first reading."""
        self.query_one("#none").add_class("hidden")

    def on_unmount(self) -> None:
        """Close this screen's own connection to the store."""
        if self._reader is not None:
            self._reader.close()

    async def _rows(self, first: int, count: int) -> Sequence[TableRow]:
        run_id = self._listed.run_id if self._listed else None
        return [
            _row(r, run_id is None)
            for r in await self.reader.ask(lambda v: v.listing.window(run_id, first, count))
        ]

    async def read(self) -> None:
        """How many samples the filter leaves, laid out in order where that may have changed."""
        app = self.dashboard
        if not app.watched:
            return  # the run that the table is about is not known yet
        if not app.workspace.store_path.exists():
            self._nothing(
                "No samples yet",
                f"Import a dataset with srtui import FILE, or start the demo on {numbered('runs')}.",
            )
            return
        wanted = replace(app.sample_filter, run_id=app.run_id)
        table = self.query_one(VirtualTable)
        # An order that may have changed is laid out again, but a slow one not all the time.
        due = time.monotonic() - self._listed_at > max(2.0, 20 * self._listing_took)
        if wanted == self._listed and (wanted.is_plain or not due):
            table.reread()
            return
        if wanted != self._listed:
            self._say(wanted, None)
        if wanted.text and wanted != self._listed:
            await self._index(wanted)
        if replace(self.now, run_id=wanted.run_id) != wanted:
            self._again = True
            return
        same = wanted == self._listed
        here = table.row if same else None
        began = time.monotonic()
        try:
            total = await self.reader.ask(lambda v: v.listing.lay_out(wanted))
        except DatabaseError as error:
            if was_interrupted(error):
                self._again = True
                return
            raise
        self._listing_took, self._listed_at = time.monotonic() - began, time.monotonic()
        self._listed = wanted
        at = None if here is None else await self.reader.ask(lambda v: v.listing.position_of(here.key))
        table.sorted_by = (wanted.order, wanted.descending)
        if same:
            table.reread(total)
            table.cursor = table.cursor if at is None else at
        else:
            table.show(total, 0)
        self._say(wanted, total)
        if total:
            self.query_one("#none").add_class("hidden")
            table.remove_class("hidden")
            if self.focused is None:
                table.focus()
        elif wanted == SampleFilter(wanted.run_id, order=wanted.order, descending=wanted.descending):
            self._nothing(
                "No samples yet",
                f"Import a dataset with srtui import FILE, or start a run on {numbered('runs')}.",
            )
        else:
            self._nothing("No sample is like this", "Esc shows all of them again, f changes the filter.")

    def _nothing(self, title: str, words: str) -> None:
        self.query_one(VirtualTable).add_class("hidden")
        empty = self.query_one("#none", Empty)
        empty.remove_class("hidden")
        empty.show(title, words)

    async def _index(self, filtered: SampleFilter) -> None:
        """Bring the text index up to date, batch by batch, saying how far it is."""
        left = await self.reader.ask(lambda v: v.listing.unindexed())
        total = left
        while left > 0:
            self.query_one("#which", Words).show(
                Content(f"Preparing the search: {1 - left / total:.0%} of {total:,} texts, this once")
            )
            if replace(self.now, run_id=filtered.run_id) != filtered:
                return  # something else is wanted by now; the next search continues from here
            # Between two batches the engine gets its turn to write.
            left = await self.dashboard.writer.do(lambda store: store.marks.index_texts())

    def _say(self, wanted: SampleFilter, total: int | None) -> None:
        parts = [Content.styled("…" if total is None else f"{total:,} samples", "bold")]
        parts += [shown(words) for words in described(wanted)]
        order = (
            "table order"
            if wanted.order == "sample" and not wanted.descending
            else f"by {_ORDER_NAMES.get(wanted.order, wanted.order)}"
        )
        parts.append(Content.styled(order + (", descending" if wanted.descending else ""), "$dim"))
        self.query_one("#which", Words).show(Content("  ·  ").join(parts))

    # -- what a person does -----------------------------------------------------------------

    def change(self, wanted: SampleFilter) -> None:
        """List these instead."""
        self.dashboard.sample_filter = replace(wanted, run_id=None)
        if self._reading:
            self.reader.interrupt()
        self.reread()

    @property
    def now(self) -> SampleFilter:
        """The filter and order that are shown."""
        return self.dashboard.sample_filter

    def action_search(self) -> None:
        """Ask for words, and list the samples that have them."""

        def search(text: str | None) -> None:
            if text is not None:
                self.change(replace(self.now, text=text.strip()))

        words = "Words anywhere in any variant of a sample; the last one may be unfinished."
        self.app.push_screen(AskText("Search", words, self.now.text, "words"), search)

    def action_filter(self) -> None:
        """Open the filter's form."""

        def apply(what: SampleFilter | None) -> None:
            if what is not None:
                self.change(what)

        self.app.push_screen(FilterForm(self.now), apply)

    def action_sort(self) -> None:
        """Sort by the next column."""
        place = ORDERS.index(self.now.order)
        self.change(replace(self.now, order=ORDERS[(place + 1) % len(ORDERS)], descending=False))

    def action_turn(self) -> None:
        """Turn the order around."""
        self.change(replace(self.now, descending=not self.now.descending))

    def action_all(self) -> None:
        """List all samples, in the order as it is."""
        self.change(SampleFilter(order=self.now.order, descending=self.now.descending))

    @on(VirtualTable.SortAsked)
    def _sort_by(self, event: VirtualTable.SortAsked) -> None:
        again = event.column == self.now.order
        self.change(replace(self.now, order=event.column, descending=again and not self.now.descending))

    def action_open(self) -> None:
        """Open the chosen sample."""
        self.query_one(VirtualTable).action_select()

    @on(VirtualTable.Selected)
    def _open(self, event: VirtualTable.Selected) -> None:
        from srtui.tui.screens.sample import SampleScreen

        def back(position: int | None) -> None:
            if position is not None:
                self.query_one(VirtualTable).cursor = position

        self.app.push_screen(SampleScreen(self.reader, event.position, event.row.key), back)


def described(wanted: SampleFilter) -> list[str]:
    """What a filter leaves, in words, one a condition."""
    words = []
    if wanted.text:
        words.append(f"with “{wanted.text}”")
    if wanted.state:
        words.append(wanted.state)
    if wanted.decision:
        words.append(wanted.decision)
    if wanted.low is not None or wanted.high is not None:
        words.append(_between(SCORE_NAMES[wanted.measure], wanted.low, wanted.high))
    if wanted.both:
        words.append("scored before and after")
    if wanted.shortest is not None or wanted.longest is not None:
        words.append(_between("characters", wanted.shortest, wanted.longest))
    if wanted.flagged:
        words.append("flagged")
    return words


def _between(name: str, low: float | None, high: float | None) -> str:
    if low is None:
        return f"{name} < {high:g}"
    return f"{name} ≥ {low:g}" if high is None else f"{name} {low:g} to {high:g}"


def _row(r: SampleRow, no_run: bool = False) -> TableRow:
    def part(of: Part | None) -> Cell:
        if of is None:
            return Cell("-", "dim")
        return Cell("hand", "accent") if of == "by hand" else Cell(of, "good" if of == "new" else "")

    marks = ("⚑" if r.flagged else "") + ("✎" if r.noted else "")
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
            Cell(f"{r.length:,}"),
            Cell(marks, "accent"),
            Cell(r.text),
        ),
    )
