"""What Live shows in its boxes: every slot, curves and decisions where there is room to spare; workers, rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from textual.content import Content

from srtui.text import safe, share
from srtui.tui.widgets.plot import Series
from srtui.tui.widgets.words import bar, shown
from srtui.wording import WORKER_COLUMNS, worker_rows

_BAR = 6


def wall_words(slots: Sequence[Mapping[str, Any]], room: int) -> Content:
    """A line for each slot: its sample, how much of the tokens that it may have it has taken, the end of its text."""
    lines = []
    for slot in sorted(slots, key=lambda s: s["sample"]):
        head = f"{slot['sample']:>7} {bar(slot['tokens'], slot['room'], _BAR)} {share(slot['tokens'], slot['room']):>5} "
        lines.append(shown(head, "$dim") + shown(_end_of(slot["text"], room - len(head))))
    return Content("\n").join(lines)


def _end_of(text: str, room: int) -> str:
    """The end of a text on one line in at most ``room`` cells."""
    line = " ".join(safe(text).split())
    while cell_len(line) > max(1, room):
        line = "…" + line[max(2, (cell_len(line) - room) // 2 + 1) :]
    return line


def decided_words(decided: Sequence[Mapping[str, Any]]) -> Content:
    """The last decisions, the newest first, each in the sentence that is stored with it."""
    if not decided:
        return Content.styled("None since this dashboard looks; they come with the next choice.", "$dim")
    return Content("\n").join(
        Content.assemble(
            (f"{d['sample']:>7} ", "$dim"),
            ("✓ " if d["taken"] else "· ", "$text-success" if d["taken"] else "$dim"),
            shown(d["reason"], "" if d["taken"] else "$dim"),
        )
        for d in reversed(decided)
    )


def speed_series(speeds: Sequence[float], read_at: Sequence[float]) -> list[Series]:
    """Tokens a second, each with the second in which it was read, the last of them now; nothing before there are any."""
    if not any(speeds):
        return []
    return [Series("", _by_minute(speeds, read_at), "$plot-after")]


def acceptance_series(
    taken: Sequence[Mapping[str, tuple[int, int]]], read_at: Sequence[float]
) -> list[Series]:
    """Of all choices so far the share in which the rewrite was taken, by target."""
    series = []
    for target, name, dashed in (("instruction", "instructions", False), ("response", "answers", True)):
        shares = [
            (minute, 100 * counts[target][0] / counts[target][1])
            for minute, counts in _by_minute(taken, read_at)
            if counts[target][1]
        ]
        style = "$plot-other" if dashed else "$plot-after"
        series.append(Series(name, shares, style, dashed=dashed))
    return series


def _by_minute(values: Sequence[Any], read_at: Sequence[float]) -> list[tuple[float, Any]]:
    # Not one a second: while another screen is open nothing is read.
    return [((second - read_at[-1]) / 60, value) for second, value in zip(read_at, values, strict=True)]


def worker_lines(workers: Sequence[Mapping[str, Any]]) -> Content:
    """A line for each worker of a run that is going on elsewhere, below their headings."""
    rows = [WORKER_COLUMNS, *worker_rows(workers)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(WORKER_COLUMNS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return Content("\n").join([Content.styled(lines[0], "$dim"), *map(shown, lines[1:])])


def rate_text(rate: float) -> str:
    """Samples (or steps) a second, or a minute where they are slow."""
    pace, unit = (rate, "s") if rate >= 1 else (rate * 60, "min")
    return f"{pace:,.0f}/{unit}" if pace >= 10 else f"{pace:.2g}/{unit}"
