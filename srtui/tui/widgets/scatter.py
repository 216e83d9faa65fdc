"""Points in the plane as signs in cells: a cursor goes from point to point, a view zooms around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

_NEAR = 3  # cells from a click to the point that it means
_ZOOM = 2.0
_DEEPEST = 2.0**10
_MARGIN = 0.02  # of the range, on each side


class Dot(NamedTuple):
    """A point: ``key`` says what it is of, and its sign says by itself what its colour says, too."""

    key: int
    x: float
    y: float
    sign: str
    style: str


class Window(NamedTuple):
    """What of the plane is seen."""

    left: float
    right: float
    low: float
    high: float

    def around(self, x: float, y: float, factor: float) -> Window:
        """One that is ``factor`` times as large, with this point where it was, or in the middle if it was not seen."""
        across, up = (x - self.left) / (self.right - self.left), (y - self.low) / (self.high - self.low)
        if not (0 <= across <= 1 and 0 <= up <= 1):
            across = up = 0.5
        width, height = (self.right - self.left) * factor, (self.high - self.low) * factor
        left, low = x - across * width, y - up * height
        return Window(left, left + width, low, low + height)


def whole(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> Window:
    """The window that shows all points, and a little more."""

    def limits(values: NDArray[np.float64]) -> tuple[float, float]:
        low, high = float(values.min()), float(values.max())
        margin = (high - low) * _MARGIN or 1.0
        return low - margin, high + margin

    return Window(*limits(xs), *limits(ys))


def cells(
    xs: NDArray[np.float64], ys: NDArray[np.float64], window: Window, size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) columns and (n,) rows of points, counted from the upper left; what is outside the window is outside the size,
    too.

    Args:
        xs: (n,).
        ys: (n,).
        window: what is seen.
        size: (columns, rows) of cells that show it.
    """
    width, height = size
    columns = np.floor((xs - window.left) / (window.right - window.left) * width)
    rows = np.floor((window.high - ys) / (window.high - window.low) * height)
    bound = 2**31
    return (
        np.clip(columns, -bound, bound).astype(np.int64),
        np.clip(rows, -bound, bound).astype(np.int64),
    )


def beside(columns: NDArray[np.int64], rows: NDArray[np.int64], at: int, step: tuple[int, int]) -> int | None:
    """The next point from another in a direction, in another cell: straight ahead before aslant, near before far. None
    where there is none.

    Args:
        columns: (n,), by :func:`cells`.
        rows: (n,).
        at: the point that is left, by its position.
        step: (1, 0) to the right, (0, 1) down, and their opposites.
    """
    # A cell is twice as high as it is wide.
    right, down = columns - columns[at], 2 * (rows - rows[at])
    ahead, aside = (right * step[0], np.abs(down)) if step[0] else (down * step[1], np.abs(right))
    for possible in (np.flatnonzero((ahead > 0) & (aside <= ahead)), np.flatnonzero(ahead > 0)):
        if len(possible):
            far = ahead[possible] + 2 * aside[possible]
            return int(possible[far.argmin()])
    return None


class Scatter(Widget, can_focus=True):
    """The points. Where several share a cell their commonest sign stands there, bold."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open"),
        Binding("left,h", "move(-1, 0)", "Left", show=False),
        Binding("right,l", "move(1, 0)", "Right", show=False),
        Binding("up,k", "move(0, -1)", "Up", show=False),
        Binding("down,j", "move(0, 1)", "Down", show=False),
        Binding("n", "within(1)", "Next here"),
        Binding("p", "within(-1)", "The one before", show=False),
        Binding("plus,equals_sign", "zoom(1)", "Zoom", key_display="+-"),
        Binding("minus", "zoom(-1)", "Out", show=False),
        Binding("0", "whole", "Whole", show=False),
    ]
    DEFAULT_CSS = """
    Scatter { width: 1fr; height: 1fr; padding: 0 1; }
    """

    class Moved(Message):
        """The cursor is at another point, or the view is another one."""

    class Opened(Message):
        """This point is to be opened."""

        def __init__(self, key: int) -> None:
            super().__init__()
            self.key = key

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._dots: list[Dot] = []
        self._xs = self._ys = np.empty(0)
        self._window = Window(0, 1, 0, 1)
        self._whole = self._window
        self._cursor = 0

    def show(self, dots: Sequence[Dot]) -> None:
        """Draw these. Where they lie as those before, the cursor and the view stay."""
        xs, ys = np.array([d.x for d in dots]), np.array([d.y for d in dots])
        same = [d.key for d in dots] == [d.key for d in self._dots] and bool(
            np.allclose(xs, self._xs) and np.allclose(ys, self._ys)
        )
        self._dots = list(dots)
        if not same and dots:
            self._xs, self._ys = xs, ys
            self._whole = self._window = whole(xs, ys)
            # The middle of the picture is as good a place to begin as any, and better than a corner.
            self._cursor = int(((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2).argmin())
        self.refresh()
        self.post_message(self.Moved())

    @property
    def current(self) -> int | None:
        """The key of the point at the cursor."""
        return self._dots[self._cursor].key if self._dots else None

    @property
    def zoomed(self) -> float:
        """How many times larger than the whole."""
        return (self._whole.right - self._whole.left) / (self._window.right - self._window.left)

    @property
    def here(self) -> tuple[int, int]:
        """Which of the points of its cell the cursor is at, from 1, and how many there are."""
        members = self._members()
        return members.index(self._cursor) + 1 if members else 0, len(members)

    def go_to(self, key: int) -> None:
        """Put the cursor at this point, where it is one."""
        index = next((n for n, dot in enumerate(self._dots) if dot.key == key), None)
        if index is not None:
            self._put(index)

    def _put(self, index: int) -> None:
        self._cursor = index
        x, y = self._xs[index], self._ys[index]
        seen = self._window
        if not (seen.left <= x < seen.right and seen.low < y <= seen.high):
            self._window = seen.around(float(x), float(y), 1.0)
        self.refresh()
        self.post_message(self.Moved())

    def _cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return cells(self._xs, self._ys, self._window, (self.content_size.width, self.content_size.height))

    def _members(self) -> list[int]:
        if not self._dots:
            return []
        columns, rows = self._cells()
        same = (columns == columns[self._cursor]) & (rows == rows[self._cursor])
        return [int(n) for n in np.flatnonzero(same)]

    def render(self) -> Content:
        """A sign where there are points; the cursor's cell is inverted."""
        width, height = self.content_size.width, self.content_size.height
        if not self._dots or width < 1 or height < 1:
            return Content("")
        columns, rows = self._cells()
        inside = np.flatnonzero((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height))
        by_cell: dict[tuple[int, int], list[int]] = {}
        for n in inside.tolist():
            by_cell.setdefault((int(rows[n]), int(columns[n])), []).append(n)
        cursor_cell = (int(rows[self._cursor]), int(columns[self._cursor]))
        lines: list[list[Content]] = [[] for _ in range(height)]
        ends = [0] * height
        for (row, column), members in sorted(by_cell.items()):
            if (row, column) == cursor_cell:
                dot, style = self._dots[self._cursor], "reverse bold "
            else:
                counts: dict[str, int] = {}
                for n in members:
                    counts[self._dots[n].sign] = counts.get(self._dots[n].sign, 0) + 1
                commonest = max(counts, key=lambda sign: counts[sign])
                dot = next(self._dots[n] for n in members if self._dots[n].sign == commonest)
                style = "bold " if len(members) > 1 else ""
            lines[row] += [Content(" " * (column - ends[row])), Content.styled(dot.sign, style + dot.style)]
            ends[row] = column + 1
        return Content("\n").join(Content("").join(parts) if parts else Content("") for parts in lines)

    # -- what a person does -----------------------------------------------------------------

    def action_move(self, right: int, down: int) -> None:
        """Go to the next point in a direction."""
        if not self._dots:
            return
        columns, rows = self._cells()
        index = beside(columns, rows, self._cursor, (right, down))
        if index is not None:
            self._put(index)

    def action_within(self, by: int) -> None:
        """Go to the next point of the same cell, around its end."""
        members = self._members()
        if members:
            self._put(members[(members.index(self._cursor) + by) % len(members)])

    def action_zoom(self, by: int) -> None:
        """See half as much around the cursor, or twice as much."""
        if not self._dots:
            return
        if by < 0 and self.zoomed <= _ZOOM:
            self.action_whole()
            return
        if by > 0 and self.zoomed >= _DEEPEST:
            return
        x, y = float(self._xs[self._cursor]), float(self._ys[self._cursor])
        self._window = self._window.around(x, y, _ZOOM**-by)
        self.refresh()
        self.post_message(self.Moved())

    def action_whole(self) -> None:
        """See all points."""
        self._window = self._whole
        self.refresh()
        self.post_message(self.Moved())

    def action_open(self) -> None:
        """Open the point at the cursor."""
        if self._dots:
            self.post_message(self.Opened(self._dots[self._cursor].key))

    def on_click(self, event: events.Click) -> None:
        """Go to the point that was clicked; clicked twice, open it."""
        offset = event.get_content_offset(self)
        if offset is None or not self._dots:
            return
        columns, rows = self._cells()
        if event.chain > 1 and (columns[self._cursor], rows[self._cursor]) == offset:
            self.action_open()
            return
        far = (columns - offset.x) ** 2 + (2 * (rows - offset.y)) ** 2
        nearest = int(far.argmin())
        if far[nearest] <= (2 * _NEAR) ** 2:
            if event.chain > 1 and nearest == self._cursor:
                self.action_open()
            else:
                self._put(nearest)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in."""
        event.stop()
        self.action_zoom(1)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out."""
        event.stop()
        self.action_zoom(-1)
