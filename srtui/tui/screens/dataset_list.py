"""Data: the datasets of the workspace, what is in them, where they came from, and what was refused of them."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content

from srtui.store.dataset_view import DatasetRow, DatasetView, ImportedFileView, TextFigures
from srtui.text import share
from srtui.tui.screens.dashboard_screen import DashboardScreen
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.table import Cell, Column, TableRow, VirtualTable
from srtui.tui.widgets.words import Words, bar, shown

_LANGUAGES = 6


class DataScreen(DashboardScreen):
    """The table of datasets, and of the one under the cursor what is known of it."""

    MODE = "data"
    HELP_TEXT = (
        "The datasets of this workspace. Lengths, languages and the share of code are of 1,000 samples drawn at random "
        "(all, where there are fewer). Near-duplicates are known once they were looked for: d does so and marks them, "
        "which changes no run. Enter looks into a dataset, i brings a file in, b lists the rows that were refused."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Rows"),
        Binding("i", "import_file", "Import"),
        Binding("b", "bad", "Refused rows"),
        Binding("d", "duplicates", "Near-duplicates"),
        Binding("n", "new", "New run over it"),
    ]
    DEFAULT_CSS = """
    DataScreen #datasets { height: 1fr; min-height: 5; }
    DataScreen #about { height: 2fr; padding: 0 2; background: $surface; }
    DataScreen #about Words { width: 1fr; height: auto; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[DatasetRow] = []
        self._views: dict[DatasetRow, DatasetView] = {}
        self._read_at = self._reading_took = 0.0

    def body(self) -> ComposeResult:
        """The table, and what is known of the chosen dataset."""
        yield VirtualTable(
            [
                Column("name", "dataset", sortable=False),
                Column("samples", "samples", 11, right=True, sortable=False),
                Column("duplicate", "twice", 9, right=True, from_width=100, sortable=False),
                Column("bad", "refused", 9, right=True, sortable=False),
                Column("files", "files", 5, right=True, from_width=90, sortable=False),
                Column("runs", "runs", 5, right=True, sortable=False),
                Column("imported", "imported", 13, sortable=False),
            ],
            id="datasets",
        )
        with VerticalScroll(id="about", can_focus=False):
            yield Words()
        yield Empty(
            "No data yet",
            "i imports a file: JSON, JSON lines, CSV or Parquet, of single pairs or of conversations.",
            id="none",
        )

    def on_mount(self) -> None:
        """Show nothing before the first reading."""
        for selector in ("#datasets", "#about", "#none"):
            self.query_one(selector).add_class("hidden")

    def tick(self, changed: bool) -> None:
        """Read seldom: the samples of a large dataset are counted each time."""
        due = time.monotonic() - self._read_at > max(2.0, 20 * self._reading_took)
        super().tick(changed and due)

    async def read(self) -> None:
        """The table, and what is known of the dataset under the cursor."""
        app = self.dashboard
        if not app.watched:
            return
        started = time.monotonic()
        self._rows = await app.ask(lambda v: v.dataset_rows()) if app.workspace.store_path.exists() else []
        table = self.query_one(VirtualTable)
        for selector, is_hidden in (
            ("#datasets", not self._rows),
            ("#about", not self._rows),
            ("#none", bool(self._rows)),
        ):
            self.query_one(selector).set_class(is_hidden, "hidden")
        was_empty = not table.total
        table.show_rows([_row(r) for r in self._rows])
        if was_empty and self._rows:
            table.focus()
        self._views = {row: view for row, view in self._views.items() if row in self._rows}
        await self._about()
        self._read_at = time.monotonic()
        self._reading_took = self._read_at - started

    @property
    def chosen(self) -> DatasetRow | None:
        """The dataset under the cursor."""
        row = self.query_one(VirtualTable).row
        return None if row is None else next((r for r in self._rows if r.id == row.key), None)

    @on(VirtualTable.Highlighted)
    def _moved(self) -> None:
        self.reread()

    async def _about(self) -> None:
        row = self.chosen
        if row is None:
            return
        # Marks on it change without its counts: they are cheap, and its texts are read with them.
        view = self._views[row] = await self.dashboard.ask(lambda v: v.dataset(row.id, self._figures_of(row)))
        lines = dataset_lines(row, view, max(20, self.size.width - 8))
        self.query_one("#about Words", Words).show(Content("\n").join(lines))

    def _figures_of(self, row: DatasetRow) -> TextFigures | None:
        known = self._views.get(row)
        return known.figures if known is not None else None

    # -- what a person does -----------------------------------------------------------------

    def action_open(self) -> None:
        """Look into the chosen dataset."""
        self.query_one(VirtualTable).action_select()

    @on(VirtualTable.Selected)
    def _open(self) -> None:
        from srtui.tui.screens.dataset_rows import DatasetRows

        if (row := self.chosen) is not None:
            self.app.push_screen(DatasetRows(row.id, row.name))

    def action_import_file(self) -> None:
        """Open the form of an import."""
        from srtui.tui.screens.import_form import ImportForm

        self.app.push_screen(ImportForm(self.dashboard.workspace), self.dashboard.start_words)

    def action_bad(self) -> None:
        """List the rows of the chosen dataset that were refused, with the reason of each."""
        from srtui.tui.screens.dialogs import Reading

        row = self.chosen
        view = self._views.get(row) if row is not None else None
        if row is None or view is None:
            return
        if not view.bad_rows:
            self.notify(f"No row of {row.name} was refused.", timeout=3, markup=False)
            return
        lines = [
            f"{b.path}, line {b.line:,}: {b.reason.replace('_', ' ')}; {b.detail}" for b in view.bad_rows
        ]
        unseen = row.bad - len(view.bad_rows)
        lines += [f"and {unseen:,} more"] if unseen > 0 else []
        self.app.push_screen(Reading(f"Refused rows of {row.name}", "\n".join(lines)))

    def action_duplicates(self) -> None:
        """Look for near-duplicates in the chosen dataset, and mark them."""
        if (row := self.chosen) is not None:
            self.dashboard.start_engine(["data", "dedup", row.name, "--mark"])

    def action_new(self) -> None:
        """Open the form of a new run over the chosen dataset."""
        from srtui.tui.screens.new_run import NewRun

        if (row := self.chosen) is not None:
            self.app.push_screen(NewRun(dataset=row.name), self.dashboard.start_words)


def _row(r: DatasetRow) -> TableRow:
    imported = time.strftime("%d %b %Y", time.localtime(r.imported_at)) if r.imported_at else "-"
    return TableRow(
        r.id,
        (
            Cell(r.name, "bold"),
            Cell(f"{r.samples:,}"),
            Cell(f"{r.duplicate:,}" if r.duplicate else "-", "dim"),
            Cell(f"✗ {r.bad:,}" if r.bad else "-", "warn" if r.bad else "dim"),
            Cell(f"{r.files:,}", "dim"),
            Cell(f"{r.runs:,}", "" if r.runs else "dim"),
            Cell(imported, "dim"),
        ),
    )


def dataset_lines(row: DatasetRow, view: DatasetView, width: int) -> list[Content]:
    """What is known of one dataset, in lines of about ``width`` cells."""
    read = f"{row.read:,} rows read: {row.samples:,} samples, {row.duplicate:,} there already, {row.bad:,} refused"
    lines = [shown(row.name, "bold") + shown(f"  {read}", "$dim")]
    if row.conversations:
        lines.append(
            shown(f"of {row.conversations:,} conversations; what came before an exchange is its history")
        )
    f = view.figures
    if f.texts:
        of = "of all samples" if f.texts == row.samples else f"of {f.texts:,} samples, drawn at random"
        lines += [Content(""), shown(f"In figures, {of}", "bold $dim")]
        for name, (low, middle, high) in (
            ("instruction", f.instruction_length),
            ("answer", f.response_length),
        ):
            lines.append(
                _fact(f"{name}, characters", f"half up to {middle:,}, 90 % between {low:,} and {high:,}")
            )
        size = max(8, min(30, width - 60))
        lines.append(_share("with an input", f.with_input, f.texts, size))
        lines.append(_share("with code in the answer", f.with_code, f.texts, size))
        for language, count in list(f.languages.items())[:_LANGUAGES]:
            lines.append(_share(language or "too short to say", count, f.texts, size))
        if len(f.languages) > _LANGUAGES:
            rest = sum(list(f.languages.values())[_LANGUAGES:])
            lines.append(_share(f"{len(f.languages) - _LANGUAGES} more languages", rest, f.texts, size))
    lines += [Content(""), shown("Near-duplicates and what runs leave out", "bold $dim")]
    marked = (
        f"{view.near_duplicates:,} marked" if view.near_duplicates else "none is marked; d looks for them"
    )
    lines.append(_fact("near-duplicates", marked))
    for why, count in view.left_out.items():
        lines.append(_fact("left out of new runs", f"{count:,} as {why}"))
    if view.reasons:
        lines += [Content(""), shown("Refused, by reason (b lists the rows)", "bold $dim")]
        lines += [_fact(reason.replace("_", " "), f"{count:,}") for reason, count in view.reasons.items()]
    lines += [Content(""), shown("Where it came from", "bold $dim")]
    for file in view.files:
        lines += _file_lines(file)
    return lines


def _fact(name: str, words: str) -> Content:
    return Content.assemble((f"{name:<26} ", "$dim"), shown(words))


def _share(name: str, count: int, whole: int, size: int) -> Content:
    return Content.assemble(
        (f"{name:<26} ", "$dim"),
        (bar(count, whole, size), "$plot-before"),
        f" {share(count, whole):>5}  {count:,}",
    )


def _file_lines(file: ImportedFileView) -> list[Content]:
    kind = "" if file.kind == "original" else f", rewrites ({file.kind.replace('_', ' ')})"
    turns = f", of conversations the {file.turns}" if file.turns else ""
    imported = time.strftime("%d %b %Y %H:%M", time.localtime(file.imported_at))
    counts = f"{file.read:,} rows, {file.new:,} new, {file.duplicate:,} there already, {file.bad:,} refused"
    return [shown(file.path), shown(f"  {file.format}{kind}{turns}, {imported}: {counts}", "$dim")]
