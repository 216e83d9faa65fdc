"""Models: what is in models/, what its files say of themselves, and whether it fits."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import psutil
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from srtui import models
from srtui.models import CatalogueEntry, ModelEntry
from srtui.text import bytes_text
from srtui.tui.screens.dashboard_screen import DashboardScreen
from srtui.tui.screens.dialogs import AskText
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.table import Cell, Column, TableRow, VirtualTable
from srtui.tui.widgets.words import Words, shown

_NF4_BYTES = 0.6


class ModelsScreen(DashboardScreen):
    """Files, by their headers; nothing is loaded."""

    MODE = "models"
    HELP_TEXT = (
        "GGUF files are teachers, safetensors folders students. a adds a model from a path on this machine, or one of "
        "the catalogue by its name; only the latter uses the network. Fit is by the memory that is free now: a GGUF "
        "as it is, safetensors in 4 bits."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("a", "add", "Add")]
    DEFAULT_CSS = """
    ModelsScreen #about { height: auto; max-height: 10; padding: 0 2; background: $surface; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[ModelEntry] = []
        self._adding = ""

    def body(self) -> ComposeResult:
        """The table of models and its line below, or what to do where there are none."""
        yield VirtualTable(
            [
                Column("name", "model", sortable=False),
                Column("use", "use", 7, sortable=False),
                Column("kind", "architecture", 12, from_width=90, sortable=False),
                Column("parameters", "params", 8, right=True, sortable=False),
                Column("quantization", "quant", 7, sortable=False),
                Column("context", "context", 8, right=True, from_width=80, sortable=False),
                Column("size", "size", 9, right=True, sortable=False),
                Column("fit", "fits here", 10, sortable=False),
            ],
            id="models",
        )
        yield Words(id="about")
        yield Empty("No models yet", "", id="none")

    def on_mount(self) -> None:
        """Show nothing before the first reading."""
        self.query_one("#none").add_class("hidden")

    def tick(self, changed: bool) -> None:
        """The folder of models is read when it is asked for: it does not follow the store."""
        super().tick(False)

    async def read(self) -> None:
        """What is in models/, read away from the event loop."""
        folder = self.dashboard.workspace.models
        self._entries = await asyncio.to_thread(models.list_models, folder)
        catalogue = await asyncio.to_thread(models.read_catalogue, folder)
        free = psutil.virtual_memory().available
        table = self.query_one(VirtualTable)
        table.show_rows([_row(e, free) for e in self._entries])
        table.set_class(not self._entries, "hidden")
        self.query_one("#about").set_class(not self._entries, "hidden")
        empty = self.query_one("#none", Empty)
        empty.set_class(bool(self._entries), "hidden")
        empty.show("No models yet", _offer(catalogue))
        if self._entries and self.focused is None:
            table.focus()
        self._about()

    @on(VirtualTable.Highlighted)
    def _about(self) -> None:
        row = self.query_one(VirtualTable).row
        entry = next((e for e in self._entries if row is not None and e.path == row.key), None)
        if entry is None:
            return
        if entry.info is None:
            self.query_one("#about", Words).show(shown(f"✗ {entry.problem}", "$text-error"))
            return
        info = entry.info
        template = f"{len(info.chat_template):,} characters" if info.chat_template else "none"
        lines = [
            Content.assemble(
                shown(info.name, "bold"), "  ", shown(f"{info.parameters:,} parameters", "$dim")
            ),
            shown(
                f"licence: {info.licence or 'not stated in the file'}  ·  chat template: {template}", "$dim"
            ),
            shown(str(entry.path), "$dim"),
        ]
        if self._adding:
            lines.append(shown(self._adding, "$text-accent"))
        self.query_one("#about", Words).show(Content("\n").join(lines))

    def action_add(self) -> None:
        """Ask for a path or a name of the catalogue, and add that model."""
        if self._adding:
            self.notify(f"Still working: {self._adding}", markup=False)
            return

        def add(name: str | None) -> None:
            if name and name.strip():
                self.run_worker(self._add(name.strip()), group="add")

        words = "A path to a GGUF file or a safetensors folder, or a name of the catalogue (that is fetched)."
        self.app.push_screen(AskText("Add a model", words, placeholder="smollm2-135m"), add)

    async def _add(self, name: str) -> None:
        def report(line: str) -> None:
            self._adding = line
            self.app.call_from_thread(self.notify, line, markup=False, timeout=6)

        self._adding = f"adding {name}"
        self.notify(f"Adding {name} …", markup=False, timeout=4)
        try:
            added = await asyncio.to_thread(models.add, self.dashboard.workspace.models, name, report)
            self.notify(f"Ready: {', '.join(e.name for e in added) or name}", markup=False)
        except Exception as error:
            self.dashboard.report_error(error)
        finally:
            self._adding = ""
        self.reread()


def _offer(catalogue: dict[str, CatalogueEntry]) -> str:
    names = ", ".join(f"{e.name} ({bytes_text(e.size)})" for e in catalogue.values()) or "nothing"
    return f"a adds one: a path to a GGUF or a safetensors folder, or one of the catalogue: {names}."


def _row(e: ModelEntry, free: int) -> TableRow:
    info = e.info
    use = "teacher" if e.kind == "gguf" else "student"
    if info is None:
        cells = [
            Cell(e.name, "bold"),
            Cell("✗ bad", "bad"),
            *(Cell("-", "dim") for _ in range(4)),
            Cell(bytes_text(e.size)),
        ]
        return TableRow(e.path, (*cells, Cell("")))
    need = e.size if e.kind == "gguf" else round(info.parameters * _NF4_BYTES)
    return TableRow(
        e.path,
        (
            Cell(e.name, "bold"),
            Cell(use),
            Cell(info.architecture, "dim"),
            Cell(f"{info.parameters / 1e6:,.0f} M"),
            Cell(info.quantization),
            Cell(f"{info.context:,}" if info.context else "-"),
            Cell(bytes_text(e.size)),
            Cell("✓ yes", "good") if need < free else Cell("✗ too big", "bad"),
        ),
    )
