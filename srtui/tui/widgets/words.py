"""Words on a screen: text from data made safe, signs for states, small bars."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from srtui.store.views import RunRow
from srtui.text import safe
from srtui.wording import stage_title

STATE_SIGNS = {
    "new": "○",
    "running": "▶",
    "paused": "‖",
    "stopping": "▪",
    "stopped": "■",
    "failed": "✗",
    "done": "✓",
}
_STATE_COLOURS = {
    "running": "$text-accent",
    "paused": "$text-warning",
    "stopping": "$text-warning",
    "stopped": "$text-warning",
    "failed": "$text-error",
    "done": "$text-success",
}
_EIGHTHS = " ▏▎▍▌▋▊▉"
_RISING = "▁▂▃▄▅▆▇█"


def shown(text: str, style: str = "") -> Content:
    """Text from data: escapes are shown, markup is taken literally."""
    return Content.styled(safe(text), style, strip_control_codes=False)


def state_words(state: str) -> Content:
    """A run's state, by sign and word, so that its colour is not what says it."""
    return Content.styled(f"{STATE_SIGNS.get(state, '·')} {state}", _STATE_COLOURS.get(state, ""))


def stage_words(run: RunRow) -> str:
    """The stage that a run is in, and where nothing of it is done because models load still, that."""
    if not run.stage:
        return ""
    loads = run.pid is not None and not run.total
    return "Loading" if loads else stage_title(run.stage)


def bar(part: float, whole: float, width: int) -> str:
    """``part`` of ``whole`` as a bar of ``width`` cells, to an eighth of a cell."""
    filled = round(max(0.0, min(1.0, part / whole if whole else 0.0)) * width * 8)
    full, eighths = divmod(filled, 8)
    return ("█" * full + (_EIGHTHS[eighths] if eighths else "")).ljust(width)


def sparkline(values: list[float], width: int) -> str:
    """The last values, each as a rising block; the highest of them fills its cell, and none rises where all are 0."""
    recent = values[-width:]
    top = max(recent, default=0.0)
    return "".join(_RISING[min(7, int(v / top * 8))] if top > 0 else " " for v in recent).rjust(width)


class Words(Static):
    """Text that is shown again each second; the screen is laid out again only where it changed."""

    def show(self, words: Content) -> None:
        """Show these words in place of those before."""
        current = self.content
        if isinstance(current, Content) and words.is_same(current):
            return
        self.update(words, layout=not isinstance(current, Content) or _shape(words) != _shape(current))


def _shape(words: Content) -> tuple[int, ...]:
    return tuple(line.cell_length for line in words.split("\n", allow_blank=True))
