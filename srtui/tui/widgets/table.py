"""A table of any length: only the rows that are seen are ever fetched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from srtui.text import safe

PAGE = 64
_PAGES_KEPT = 24
_STRIPS_KEPT = 1000

Tone = Literal["", "dim", "good", "bad", "warn", "accent", "bold"]


@dataclass(frozen=True)
class Cell:
    """One cell: text as it came from the data, and how it should look."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Column:
    """A column; one of width 0 takes what room is left, and one with ``from_width`` shows only from
    that width of the table on."""

    key: str
    label: str
    width: int = 0
    right: bool = False
    from_width: int = 0
    sortable: bool = True


@dataclass(frozen=True)
class TableRow:
    """One line: what it stands for, and its cells, one a column."""

    key: Any
    cells: tuple[Cell, ...]


Source = Callable[[int, int], Awaitable[Sequence[TableRow]]]


class VirtualTable(ScrollView, can_focus=True):
    """Rows 0 to ``total``, fetched by pages from an asynchronous ``source`` as they come into view."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "edge(0)", "First", show=False),
        Binding("end,G", "edge(1)", "Last", show=False),
        Binding("enter", "select", "Open", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--header",
        "table--cursor",
        "table--cursor-blurred",
        "table--hover",
        "table--dim",
        "table--good",
        "table--bad",
        "table--warn",
        "table--accent",
        "table--bold",
    }
    DEFAULT_CSS = """
    VirtualTable { height: 1fr; background: $background; overflow-x: hidden; scrollbar-gutter: stable; }
    VirtualTable > .table--header { color: $dim; text-style: bold; }
    VirtualTable > .table--cursor { background: $row-cursor; text-style: bold; }
    VirtualTable > .table--cursor-blurred { background: $row-blurred; }
    VirtualTable > .table--hover { background: $row-hover; }
    VirtualTable > .table--dim { color: $dim; }
    VirtualTable > .table--good { color: $text-success; }
    VirtualTable > .table--bad { color: $text-error; }
    VirtualTable > .table--warn { color: $text-warning; }
    VirtualTable > .table--accent { color: $text-accent; }
    VirtualTable > .table--bold { text-style: bold; }
    """

    cursor = reactive(0)
    hover = reactive(-1)

    @dataclass
    class Selected(Message):
        """Enter, or a second click, on a row."""

        table: VirtualTable
        position: int
        row: TableRow

        @property
        def control(self) -> VirtualTable:
            """The table, so that handlers can be bound to one by its id."""
            return self.table

    @dataclass
    class Highlighted(Message):
        """The cursor came to a row."""

        table: VirtualTable
        position: int
        row: TableRow | None

        @property
        def control(self) -> VirtualTable:
            """The table, so that handlers can be bound to one by its id."""
            return self.table

    @dataclass
    class SortAsked(Message):
        """A column's heading was clicked."""

        table: VirtualTable
        column: str

        @property
        def control(self) -> VirtualTable:
            """The table, so that handlers can be bound to one by its id."""
            return self.table

    def __init__(
        self, columns: Sequence[Column], source: Source | None = None, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.total = 0
        self.sorted_by: tuple[str, bool] | None = None
        self._source = source
        self._pages: dict[int, Sequence[TableRow]] = {}
        self._stale: set[int] = set()
        self._fetching = False
        self._asked_for = -1
        self._strips: dict[tuple[int, str, int], tuple[TableRow | None, Strip]] = {}

    # -- what it shows ----------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no rows are being fetched."""
        return not self._fetching

    def show(self, total: int, cursor: int | None = None) -> None:
        """There are ``total`` rows now, in an order of which nothing is known yet."""
        self._pages = {}
        self._stale.clear()
        self._resize(total)
        if cursor is not None:
            self.cursor = max(0, min(cursor, total - 1))
        self._fetch()

    def show_rows(self, rows: Sequence[TableRow]) -> None:
        """Show a short list that is at hand, the cursor staying on what it stood on."""
        current = self.row
        self._pages = {n: rows[n * PAGE : (n + 1) * PAGE] for n in range((len(rows) + PAGE - 1) // PAGE)}
        self._stale.clear()
        self._source = None
        self._resize(len(rows))
        if current is not None:
            self.cursor = next((n for n, r in enumerate(rows) if r.key == current.key), self.cursor)
        self.refresh()

    def reread(self, total: int | None = None) -> None:
        """The rows may have changed: fetch what is seen again, showing what was there until then."""
        self._stale = set(self._pages)
        if total is not None and total != self.total:
            self._resize(total)
        self._fetch()

    def _resize(self, total: int) -> None:
        self.total = total
        self.virtual_size = Size(0, total + 1)
        self.cursor = max(0, min(self.cursor, total - 1))
        self.refresh()

    @property
    def row(self) -> TableRow | None:
        """The row under the cursor, where it has been fetched."""
        return self.row_at(self.cursor)

    def row_at(self, position: int) -> TableRow | None:
        """The row at a position, or None where it has not been fetched."""
        page = self._pages.get(position // PAGE)
        if page is None or not 0 <= position < self.total or position % PAGE >= len(page):
            return None
        return page[position % PAGE]

    # -- fetching ---------------------------------------------------------------------------

    def _next_page(self) -> int | None:
        if not self.total:
            return None
        first = int(self.scroll_offset.y)
        last = first + max(1, self.size.height)
        for page in range(first // PAGE, min(last, max(0, self.total - 1)) // PAGE + 1):
            if page not in self._pages or page in self._stale:
                return page
        return None

    def _fetch(self) -> None:
        if self._source is None or self._fetching or not self.is_mounted or self._next_page() is None:
            return
        self._fetching = True
        self.run_worker(self._fetch_seen(), group="fetch")

    async def _fetch_seen(self) -> None:
        try:
            # One page at a time, and what is wanted is asked again each time: a dragged scroll bar
            # leaves no queue of pages that nobody sees any more.
            while self._source is not None and (page := self._next_page()) is not None:
                pages = self._pages
                rows = await self._source(page * PAGE, PAGE)
                if pages is not self._pages:
                    continue
                pages.pop(page, None)
                pages[page] = rows
                self._stale.discard(page)
                for old in list(pages)[: max(0, len(pages) - _PAGES_KEPT)]:
                    del pages[old]
                self.refresh()
                if self.cursor // PAGE == page:
                    self.post_message(self.Highlighted(self, self.cursor, self.row))
                    if self._asked_for == self.cursor:
                        self.action_select()
                    self._asked_for = -1
        except Exception as error:
            self.app.report_error(error)  # type: ignore[attr-defined]
        finally:
            self._fetching = False

    # -- drawing ----------------------------------------------------------------------------

    def _widths(self) -> list[int]:
        """The width of each column here, 0 for one that is not shown."""
        room = self.size.width - 1
        shown = [c for c in self.columns if room >= c.from_width]
        fixed = sum(c.width + 2 for c in shown if c.width)
        free = [c for c in shown if not c.width]
        flexible_width = max(8, (room - fixed) // max(1, len(free)) - 2)
        return [(c.width or flexible_width) if room >= c.from_width else 0 for c in self.columns]

    def render_line(self, y: int) -> Strip:
        """One line as Textual asks for it: the header, or the row at that place; dots where it is not read
        yet."""
        width = self.size.width
        if y == 0:
            return self._header(width, self.rich_style)
        position = int(self.scroll_offset.y) + y - 1
        if position >= self.total:
            return Strip.blank(width, self.rich_style)
        look = ""
        if position == self.cursor:
            look = "table--cursor" if self.has_focus else "table--cursor-blurred"
        elif position == self.hover:
            look = "table--hover"
        row = self.row_at(position)
        # A line that only moves is the same strip: Textual keeps what it derives from one with it.
        drawn = self._strips.get((position, look, width))
        if drawn is None or drawn[0] != row:
            if len(self._strips) > _STRIPS_KEPT:
                self._strips.clear()
            drawn = self._strips[position, look, width] = (row, self._line(row, look, width))
        return drawn[1]

    def _line(self, row: TableRow | None, look: str, width: int) -> Strip:
        style = self.rich_style
        if look:
            style += self.get_component_rich_style(look, partial=True)
        mark = Segment("▌" if look.startswith("table--cursor") else " ", style)
        if row is None:
            return Strip([mark, Segment("…", style)]).adjust_cell_length(width, style)
        segments = [mark]
        for column, size, cell in zip(self.columns, self._widths(), row.cells, strict=True):
            if size:
                tone = style
                if cell.tone:
                    tone = style + self.get_component_rich_style(f"table--{cell.tone}", partial=True)
                segments.append(Segment(_fit(cell.text, size, column.right) + "  ", tone))
        return Strip(segments).adjust_cell_length(width, style)

    def notify_style_update(self) -> None:
        """Forget drawn lines where colours have changed."""
        super().notify_style_update()
        self._strips.clear()

    def _header(self, width: int, base: Style) -> Strip:
        style = base + self.get_component_rich_style("table--header", partial=True)
        segments = [Segment(" ", style)]
        for column, size in zip(self.columns, self._widths(), strict=True):
            if size:
                label = column.label
                if self.sorted_by and self.sorted_by[0] == column.key:
                    label = label[: size - 1] + ("▼" if self.sorted_by[1] else "▲")
                segments.append(Segment(_fit(label, size, column.right) + "  ", style))
        return Strip(segments).adjust_cell_length(width, style)

    # -- moving about -----------------------------------------------------------------------

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Fetch the rows that came into view."""
        super().watch_scroll_y(old_value, new_value)
        self._fetch()

    def watch_cursor(self, old: int, new: int) -> None:
        """Keep the cursor in view, draw its old and its new line, and report where it is."""
        top = self.scroll_offset.y
        self._into_view()
        if self.scroll_offset.y == top:
            for position in (old, new):
                self.refresh(Region(0, position + 1 - int(top), self.size.width, 1))
        else:
            self.refresh()
        if self.is_mounted:
            self.post_message(self.Highlighted(self, new, self.row))

    def watch_hover(self) -> None:
        """Draw the line under the mouse."""
        self.refresh()

    def _into_view(self) -> None:
        # The heading covers the first line, so that of ``height`` lines one is not for rows.
        top, height = int(self.scroll_offset.y), max(1, self.size.height - 1)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, immediate=True)

    def on_resize(self) -> None:
        """Draw all lines anew, in the columns that have room."""
        self._strips.clear()
        self._into_view()
        self._fetch()
        self.refresh()

    def on_focus(self) -> None:
        """Show the cursor as the one that keys move."""
        self.refresh()

    def on_blur(self) -> None:
        """Show the cursor as one that keys do not move."""
        self.refresh()

    def action_move(self, by: int) -> None:
        """Move the cursor ``by`` rows, not beyond the ends."""
        self.cursor = max(0, min(self.cursor + by, self.total - 1))

    def action_page(self, by: int) -> None:
        """Move the cursor ``by`` pages."""
        self.action_move(by * max(1, self.size.height - 2))

    def action_edge(self, last: int) -> None:
        """Move the cursor to the last row, or to the first (0)."""
        self.cursor = max(0, self.total - 1) if last else 0

    def action_select(self) -> None:
        """Open the row under the cursor; one that is not read yet is opened when it comes."""
        if (row := self.row) is not None:
            self.post_message(self.Selected(self, self.cursor, row))
        else:
            self._asked_for = self.cursor  # it is opened when it comes

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Mark the row under the mouse."""
        self.hover = int(self.scroll_offset.y) + event.y - 1 if event.y else -1

    def on_leave(self) -> None:
        """Mark no row: the mouse is elsewhere."""
        self.hover = -1

    def on_click(self, event: events.Click) -> None:
        """Choose a row, open it on the second click; on the header, ask for that order."""
        if event.y == 0:
            column_begin = 1
            for column, size in zip(self.columns, self._widths(), strict=True):
                if size and column_begin <= event.x < column_begin + size + 2 and column.sortable:
                    self.post_message(self.SortAsked(self, column.key))
                column_begin += size + 2 if size else 0
            return
        position = int(self.scroll_offset.y) + event.y - 1
        if position < self.total:
            is_second_click = position == self.cursor and event.chain > 1
            self.cursor = position
            if is_second_click:
                self.action_select()


def _fit(text: str, width: int, right: bool) -> str:
    """``text`` on one line in exactly ``width`` cells, also where letters are two cells wide."""
    line = " ".join(safe(text[: 4 * width + 8]).split())
    length = cell_len(line)
    if length > width:
        return set_cell_size(line, width - 1) + "…"
    return " " * (width - length) + line if right else line + " " * (width - length)
