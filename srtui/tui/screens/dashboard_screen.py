"""What the dashboard's screens have in common: the bar of tabs, the line of the run, the keys."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.content import Content
from textual.widget import Widget

from srtui.text import duration
from srtui.tui.screens.reading_screen import ReadingScreen
from srtui.tui.tabs import TABS, fitted, numbered
from srtui.tui.widgets.words import Words, shown, stage_words, state_words

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard

_LAST_KEYS = ("question_mark", "q")


class TabBar(Widget):
    """The screens by number; the open one stands out by inversion, not by its colour alone."""

    DEFAULT_CSS = """
    TabBar { height: 1; background: $panel; color: $dim; }
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self._mode = mode
        self._spans: list[tuple[int, int, str]] = []

    def render(self) -> Content:
        """The labels as they fit, and the app's name where there is room."""
        modes = [tab.mode for tab in TABS]
        words, gap = fitted([numbered(mode) for mode in modes], modes.index(self._mode), self.size.width)
        parts: list[Content] = [Content(" ")]
        self._spans, column = [], 1
        for mode, word in zip(modes, words, strict=True):
            is_open = mode == self._mode
            parts.append(Content.styled(word, "bold reverse $primary" if is_open else "$foreground"))
            self._spans.append((column, column + len(word), mode))
            column += len(word) + len(gap)
            parts.append(Content(gap))
        bar = Content("").join(parts)
        name = "srtui "
        if self.size.width - bar.cell_length > len(name) + 2:
            bar += Content(" " * (self.size.width - bar.cell_length - len(name))) + Content.styled(
                name, "bold"
            )
        return bar

    def on_click(self, event: events.Click) -> None:
        """Open the screen whose label was clicked."""
        for start, end, mode in self._spans:
            if start <= event.x < end:
                self.app.switch_mode(mode)


class KeyLine(Widget):
    """What the keys do here, as far as there is room; a click does the same."""

    # Not Textual's Footer: that is a widget a key, which costs a tenth of a second before the first
    # paint, and cuts the last key in the middle where the terminal is narrow.
    DEFAULT_CSS = """
    KeyLine { height: 1; dock: bottom; background: $panel; color: $foreground; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[tuple[int, int, int, str]] = []

    def on_mount(self) -> None:
        """Draw again whenever the screen's keys change."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.refresh())

    def render(self) -> Content:
        """One key for each action; help and the way out are the last to be left out."""
        keys: dict[str, tuple[str, str, str]] = {}
        for active in self.screen.active_bindings.values():
            b = active.binding
            if b.show and active.enabled and b.description and b.key != "ctrl+p":
                keys.setdefault(b.action, (self.app.get_key_display(b), b.description, b.key))
        trailing = [k for k in keys.values() if k[2] in _LAST_KEYS] + [("^p", "Commands", "ctrl+p")]
        leading = [k for k in keys.values() if k[2] not in _LAST_KEYS]
        # Where a screen gives this widget a second line, keys that find no room go there.
        rooms = [self.size.width - 1] * max(1, self.size.height)
        rooms[-1] -= sum(_width(k) for k in trailing)
        if sum(_width(k) for k in leading) > sum(rooms):
            trailing[-1] = ("^p", "", "ctrl+p")
            rooms[-1] += len("Commands")
        rows: list[list[tuple[str, str, str]]] = [[] for _ in rooms]
        row = 0
        for key in leading:
            if _width(key) > rooms[row] and row + 1 < len(rooms):
                row += 1
            if _width(key) <= rooms[row]:
                rooms[row] -= _width(key)
                rows[row].append(key)
        self._spans = []
        lines = []
        for n, (keys_here, room) in enumerate(zip(rows, rooms, strict=True)):
            parts: list[Content] = [Content(" ")]
            column = 1
            for key in keys_here:
                column = self._place_key(parts, n, column, *key)
            if n == len(rows) - 1:
                for key in trailing[:-1]:
                    column = self._place_key(parts, n, column, *key)
                parts.append(Content(" " * max(0, room)))
                self._place_key(parts, n, column + max(0, room), *trailing[-1])
            lines.append(Content("").join(parts))
        return Content("\n").join(lines)

    def _place_key(
        self, parts: list[Content], line: int, column: int, key: str, words: str, press: str
    ) -> int:
        parts.append(Content.styled(key, "bold $text-accent"))
        parts.append(Content(f" {words}  "))
        end = column + _width((key, words, press))
        self._spans.append((line, column, end - 2, press))
        return end

    def on_click(self, event: events.Click) -> None:
        """Do what the clicked key does."""
        for line, start, end, key in self._spans:
            if line == event.y and start <= event.x < end:
                self.app.simulate_key(key)


def _width(key: tuple[str, str, str]) -> int:
    return cell_len(key[0]) + 1 + cell_len(key[1]) + 2


class RunLine(Words):
    """Which run all the screens are about."""

    DEFAULT_CSS = """
    RunLine { height: 1; padding: 0 1; background: $surface; color: $dim; }
    """

    def on_mount(self) -> None:
        """Show the run from the first paint on."""
        self.show_run()

    def show_run(self) -> None:
        """Show it as it is now."""
        app: Dashboard = self.app  # type: ignore[assignment]
        run = app.current_run
        if run is None:
            self.show(Content("no run yet" if app.watched else ""))
            return
        parts = [shown(run.name, "bold $foreground"), state_words(run.state)]
        if run.stage and run.state in ("running", "paused", "stopping", "stopped", "failed"):
            progress = f" {run.done:,}/{run.total:,}" if run.total else ""
            parts.append(Content(f"{stage_words(run)}{progress}"))
        parts.append(Content(f"{run.kept:,} of {run.samples:,} kept"))
        if len(app.runs) > 1:
            parts.append(Content(f"run {app.runs.index(run) + 1} of {len(app.runs)}, [ and ] change"))
        room = self.app.size.width - 2
        while len(parts) > 2 and sum(p.cell_length + 5 for p in parts) - 5 > room:
            parts.pop()
        self.show(Content("  ·  ").join(parts))


class WorkLine(Words):
    """What runs that is no run of the table: an export, an evaluation, an import; and a run that only begins."""

    DEFAULT_CSS = """
    WorkLine { height: 1; dock: bottom; padding: 0 1; margin-bottom: 1; background: $surface; }
    """

    def show_work(self) -> None:
        """Show it as it is now; nothing where nothing runs."""
        app: Dashboard = self.app  # type: ignore[assignment]
        at_runs = {run.pid for run in app.runs}
        working = [engine for engine in app.started if engine.pid is not None and engine.pid not in at_runs]
        self.set_class(not working, "hidden")
        if working:
            engine = working[-1]
            words = [f"▶ srtui {' '.join(engine.words[:2])}", duration(time.time() - engine.started_at)]
            words += [engine.last_line()] if engine.last_line() else []
            words += [f"and {len(working) - 1} more"] if len(working) > 1 else []
            line = "  ·  ".join([*words, "F3: all of them"])
            self.show(shown(line, "$text-accent").truncate(max(8, self.app.size.width - 2), ellipsis=True))

    def on_click(self) -> None:
        """Show all of them."""
        app: Dashboard = self.app  # type: ignore[assignment]
        app.action_work()


class DashboardScreen(ReadingScreen):
    """A screen of ``srtui.tui.tabs.TABS``. ``MODE`` is its name."""

    MODE: ClassVar[str]
    HELP_TEXT: ClassVar[str] = ""

    @property
    def dashboard(self) -> Dashboard:
        """The app, as the type that it is."""
        return self.app  # type: ignore[return-value]

    def compose(self) -> ComposeResult:
        """The two lines above, the screen's body, the keys below."""
        yield TabBar(self.MODE)
        yield RunLine()
        yield from self.body()
        yield WorkLine(classes="hidden")
        yield KeyLine()

    def body(self) -> ComposeResult:
        """What stands between the two lines above and the keys below."""
        raise NotImplementedError

    def show_run(self) -> None:
        """Show what the dashboard knows of the run."""
        self.query_one(RunLine).show_run()
        self.query_one(WorkLine).show_work()

    def report_error(self, error: Exception) -> None:
        """To the dashboard, which shows it and keeps it for its Log."""
        self.dashboard.report_error(error)
