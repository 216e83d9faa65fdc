"""Lines and points in braille, with axes: eight dots a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from srtui.tui.widgets.words import shown

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_LEFT = 8
_TWO_LINES_FROM = 9  # lines of a plot
_NEAR = 1.5
"""How far from a point a click may be that means it, in lines."""


@dataclass(frozen=True)
class Series:
    """Points to draw. ``dashed`` sets two lines apart without their colours."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "$plot-after"
    kind: Literal["line", "dots"] = "line"
    dashed: bool = False
    sign: str = ""
    """For points: what to draw instead of a dot, where two series need different signs."""
    aside: bool = False
    """Whether it may lie beyond the others' range: it widens that by half at most, and what is further out is drawn at
    the edge, so that a few points do not press a curve flat."""


class Plot(Widget):
    """Some series over common axes; ``at_x`` and ``at_y`` draw lines where something changes."""

    DEFAULT_CSS = """
    Plot { height: 1fr; min-height: 6; padding: 0 1; }
    """

    @dataclass
    class Picked(Message):
        """A point was clicked: the ``point``-th of a series."""

        plot: Plot
        series: Series
        point: int

        @property
        def control(self) -> Plot:
            """The plot, so that handlers can be bound to one by its id."""
            return self.plot

    def __init__(self, title: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self._ranges: tuple[float, float, float, float] | None = None  # of both axes, as they are drawn
        self._above = 1  # lines of the legend, as it is drawn
        self._title = title
        self._series: list[Series] = []
        self._at_x: float | None = None
        self._at_y: float | None = None
        self._names = ("", "")
        self._from_zero = False

    def show(
        self,
        series: Sequence[Series],
        *,
        at_x: float | None = None,
        at_y: float | None = None,
        names: tuple[str, str] = ("", ""),
        from_zero: bool = False,
    ) -> None:
        """Draw these instead. ``names`` are those of the x and the y axis.

        Args:
            series: the curves or dots.
            at_x: where a vertical line is drawn; None for none.
            at_y: where a horizontal line is drawn; None for none.
            names: of the x and the y axis. One of x that ends in "ago" counts back from 0: its labels have no sign.
            from_zero: whether the axes begin at 0.
        """
        self._series, self._at_x, self._at_y = list(series), at_x, at_y
        self._names, self._from_zero = names, from_zero
        self.refresh()

    def render(self) -> Content:
        """The legend, the curves in braille, and both axes, as large as the widget is."""
        across, up = self._names
        legend = [Content.styled(self._title, "bold") + Content.styled(f", {up}" if up else "", "$dim")]
        for s in self._series:
            mark = s.sign or ("╌╌" if s.dashed else "──" if s.kind == "line" else "⠶")
            if s.name:
                legend.append(Content.styled(f"{mark} ", s.style) + shown(s.name))
        head = self._head(legend)
        width, height = self.content_size.width - _LEFT, self.content_size.height - 2 - self._above
        points = [p for s in self._series for p in s.points if math.isfinite(p[0]) and math.isfinite(p[1])]
        self._ranges = None
        if width < 8 or height < 2 or not points:
            return head + Content("\n") + Content.styled("nothing to draw yet" if not points else "", "$dim")
        left, right = _range([p[0] for p in points], self._at_x, self._from_zero)
        low, high = self._heights()
        self._ranges = left, right, low, high
        canvas = _Canvas(width, height)
        for s in self._series:
            canvas.draw(
                [
                    (
                        (x - left) / (right - left) * (width * 2 - 1),
                        (high - min(max(y, low), high)) / (high - low) * (height * 4 - 1),
                    )
                    for x, y in s.points
                    if math.isfinite(x) and math.isfinite(y)
                ],
                s,
            )
        column = None if self._at_x is None else round((self._at_x - left) / (right - left) * (width - 1))
        line = None if self._at_y is None else round((high - self._at_y) / (high - low) * (height - 1))
        labels = {
            round((high - tick) / (high - low) * (height - 1)): words
            for tick, words in round_ticks(low, high, max(2, height // 3))
        }
        if line is not None and self._at_y is not None:
            labels[line] = _short(self._at_y)
        rows = [head]
        for y in range(height):
            rows.append(
                Content.styled(f"{labels.get(y, ''):>{_LEFT - 2}} │", "$dim") + canvas.row(y, column, line)
            )
        rows.append(Content.styled(" " * (_LEFT - 1) + "└" + "─" * width, "$dim"))
        rows.append(
            Content.styled(" " * _LEFT + self._below(left, right, width, column, across, points), "$dim")
        )
        return Content("\n").join(rows)

    def _head(self, legend: Sequence[Content]) -> Content:
        """The title and the names of the series: on a second line what the first has no room for, where the plot is
        high enough."""
        room = max(8, self.content_size.width)
        lines = [legend[0]]
        for entry in legend[1:]:
            longer = lines[-1] + Content("  ") + entry
            if longer.cell_length > room and len(lines) == 1 and self.content_size.height >= _TWO_LINES_FROM:
                lines.append(entry)
            else:
                lines[-1] = longer
        self._above = len(lines)
        return Content("\n").join([line.truncate(room, ellipsis=True) for line in lines])

    def on_click(self, event: events.Click) -> None:
        """Say which point was clicked, where there is one near."""
        place = event.get_content_offset(self)
        if place is None or self._ranges is None:
            return
        left, right, low, high = self._ranges
        width, height = self.content_size.width - _LEFT, self.content_size.height - 2 - self._above
        nearest: tuple[float, Series, int] | None = None
        for s in self._series:
            for n, (x, y) in enumerate(s.points):
                if not (math.isfinite(x) and math.isfinite(y)):
                    continue
                column = (x - left) / (right - left) * (width - 1) - (place.x - _LEFT)
                line = (high - min(max(y, low), high)) / (high - low) * (height - 1) - (place.y - self._above)
                apart = math.hypot(column / 2, line)  # a cell is twice as high as wide
                if nearest is None or apart < nearest[0]:
                    nearest = apart, s, n
        if nearest is not None and nearest[0] <= _NEAR:
            self.post_message(self.Picked(self, nearest[1], nearest[2]))

    def _heights(self) -> tuple[float, float]:
        """The range of the y axis."""
        core = [y for s in self._series if not s.aside for _, y in s.points if math.isfinite(y)]
        others = [y for s in self._series if s.aside for _, y in s.points if math.isfinite(y)]
        low, high = _range(core or others, self._at_y, self._from_zero)
        if core and others and len(set(core)) > 1:
            half = (high - low) / 2
            low, high = max(low - half, min(low, *others)), min(high + half, max(high, *others))
        return low, high

    def _below(
        self,
        left: float,
        right: float,
        width: int,
        column: int | None,
        name: str,
        points: list[tuple[float, float]],
    ) -> str:
        """The line of labels under the x axis: the limit, round numbers, and the axis' name where there is room."""
        signs = [" "] * width

        def put(position: int, words: str) -> None:
            start = max(0, min(position, width - len(words)))
            if not "".join(signs[max(0, start - 1) : start + len(words) + 1]).strip():
                signs[start : start + len(words)] = words

        if self._at_x is not None and column is not None:
            put(column, _short(self._at_x))
        put(width - len(name), name)
        whole = all(x == int(x) for x, _ in points)
        for tick, words in round_ticks(left, right, max(2, width // 14), whole):
            words = words.removeprefix("-") if name.endswith("ago") else words
            put(round((tick - left) / (right - left) * (width - 1)) - len(words) // 2, words)
        return "".join(signs)


def round_ticks(low: float, high: float, most: int, whole: bool = False) -> list[tuple[float, str]]:
    """Round numbers within a range for an axis, each with its words: multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: where the range begins.
        high: where it ends.
        most: about how many; one more may come.
        whole: whole numbers alone.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or most < 1:
        return []
    if high - low <= 1e-6 * max(abs(low), abs(high)):  # all round numbers in it look alike
        return []
    power = 10.0 ** math.floor(math.log10((high - low) / (most + 1)))
    steps = [n * power for n in (1, 2, 5, 10, 20, 50) if not whole or n * power >= 1] or [1.0]
    step = next(
        (s for s in steps if math.floor(high / s + 1e-9) - math.ceil(low / s - 1e-9) <= most), steps[-1]
    )
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = []
    for n in range(first, last + 1):
        words = f"{n * step:,.{digits}f}"
        ticks.append((n * step, words if len(words) <= _LEFT - 2 else _short(n * step)))
    return ticks


def _range(values: list[float], limit: float | None, from_zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if limit is not None:
        low, high = min(low, limit), max(high, limit)
    if from_zero:
        low = min(low, 0.0)
    if high == low == 0 and from_zero:
        return 0.0, 1.0
    if high == low:
        margin = abs(high) * 0.1 or 1.0
        return low - margin, high + margin
    return low, high


def _short(value: float) -> str:
    if value and (abs(value) < 0.001 or abs(value) >= 100_000):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


class _Canvas:
    """Cells of braille, each in the style of the last series that touched it."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._bits = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]
        self._signs: dict[tuple[int, int], str] = {}

    def draw(self, points: list[tuple[float, float]], series: Series) -> None:
        """Draw a series through these points, given in dots of the canvas: a line, or a sign at each."""
        if series.kind == "dots" or len(points) == 1:
            for x, y in points:
                self._dot(x, y, series.style)
                if series.sign:
                    self._signs[round(x) // 2, round(y) // 4] = series.sign
            return
        travelled = 0
        for (x0, y0), (x1, y1) in pairwise(points):
            steps = max(1, int(max(abs(x1 - x0), abs(y1 - y0))))
            for n in range(steps + 1):
                travelled += 1
                if not series.dashed or travelled % 6 < 3:
                    self._dot(x0 + (x1 - x0) * n / steps, y0 + (y1 - y0) * n / steps, series.style)

    def _dot(self, x: float, y: float, style: str) -> None:
        column, line = round(x), round(y)
        if 0 <= column < self.width * 2 and 0 <= line < self.height * 4:
            self._bits[line // 4][column // 2] |= _DOTS[line % 4][column % 2]
            self._styles[line // 4][column // 2] = style

    def row(self, y: int, column: int | None, line: int | None) -> Content:
        """One line of characters; ``column`` and ``line`` are where the limits run, if they do."""
        parts: list[Content] = []
        run, style = "", ""
        for x in range(self.width):
            bits = self._bits[y][x]
            if bits:
                sign, cell_style = self._signs.get((x, y)) or chr(0x2800 + bits), self._styles[y][x]
            elif x == column:
                sign, cell_style = ("┼" if y == line else "│"), "$plot-limit"
            elif y == line:
                sign, cell_style = "─", "$plot-limit"
            else:
                sign, cell_style = " ", ""
            if cell_style != style and run:
                parts.append(Content.styled(run, style))
                run = ""
            style = cell_style
            run += sign
        parts.append(Content.styled(run, style))
        return Content("").join(parts)
