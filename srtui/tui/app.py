"""The dashboard's frame: screens by number, the watch on the store, themes, and what went wrong."""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psutil
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.screen import Screen
from textual.theme import Theme

from srtui.errors import UserError
from srtui.store import Store
from srtui.store.listing import SampleFilter
from srtui.store.views import RunRow, Views
from srtui.text import safe
from srtui.tui import screen_preferences
from srtui.tui.background import StoreReader, StoreWriter
from srtui.tui.processes import Started, server_is_gone
from srtui.tui.processes import start as start_engine
from srtui.tui.screens.reading_screen import ReadingScreen
from srtui.tui.tabs import TABS, class_of, key_of, numbered
from srtui.tui.widgets.table import VirtualTable
from srtui.workspace import Workspace

T = TypeVar("T")

_MAKE_A_RUN = ("run", "pilot", "retrain")
"""The commands whose run is shown once it is there. An ablation makes one after the other: whoever started it may be
reading something else by then."""

# In plots a colour means the same on all screens and in the report (report.css): what was before, or dropped, or B; what
# came, or is kept, or A; a limit; another run. They are apart for the colour-blind, and signs say the same beside them.
DARK = Theme(
    name="srtui-dark",
    primary="#7fa7cc",
    secondary="#8fb8a8",
    accent="#d8b56c",
    warning="#e0a45e",
    error="#e07a83",
    success="#8fbf8f",
    foreground="#d6dae0",
    background="#14171c",
    surface="#1b1f26",
    panel="#252b35",
    dark=True,
    variables={
        "dim": "#8d96a3",
        "row-cursor": "#2b3a4b",
        "row-blurred": "#232932",
        "row-hover": "#1e242c",
        "plot-before": "#d8b56c",
        "plot-after": "#7fa7cc",
        "plot-limit": "#e07a83",
        "plot-other": "#c99bd1",
        "button-focus-text-style": "bold underline",
    },
)
LIGHT = Theme(
    name="srtui-light",
    primary="#2f6690",
    secondary="#2f6f60",
    accent="#8a5a00",
    warning="#9a5500",
    error="#a82a38",
    success="#2f6d3c",
    foreground="#262a31",
    background="#f7f6f2",
    surface="#eeece5",
    panel="#dfdcd2",
    dark=False,
    variables={
        "dim": "#676d76",
        "row-cursor": "#cfdde8",
        "row-blurred": "#e3e0d7",
        "row-hover": "#eceae3",
        "plot-before": "#b8862f",
        "plot-after": "#2f6690",
        "plot-limit": "#a82a38",
        "plot-other": "#7b4a86",
        "button-focus-text-style": "bold underline",
    },
)


@dataclass(frozen=True)
class Problem:
    """Something that went wrong in this dashboard, for its Log."""

    occurred_at: float
    sentence: str
    detail: str


def _screen(module: str, name: str) -> Callable[[], Screen[Any]]:
    """A screen that is imported when it is first opened: the first paint waits for one of them only."""

    def opened() -> Screen[Any]:
        screen: Screen[Any] = class_of(module, name)()
        return screen

    return opened


class Dashboard(App[None]):
    """See it, steer it, trust it. Everything shown is read from the store; closing it stops nothing."""

    TITLE = "srtui"
    CSS_PATH = "dashboard.tcss"
    ENABLE_COMMAND_PALETTE = True
    DEFAULT_MODE = "runs"
    MODES: ClassVar[dict[str, Any]] = {tab.mode: _screen(tab.module, tab.screen) for tab in TABS}
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key_of(tab.mode), f"go('{tab.mode}')", tab.label, show=False) for tab in TABS),
        Binding("left_square_bracket", "next_run(1)", "Older run", show=False),
        Binding("right_square_bracket", "next_run(-1)", "Newer run", show=False),
        Binding("f2", "light", "Light/dark", show=False),
        Binding("f3", "work", "Work in progress", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, workspace: Workspace, remember_in: Path | None = None) -> None:
        """``remember_in`` is the file of a person's preferences; without one none are read or kept."""
        super().__init__()
        self.workspace = workspace
        self._remember_in = remember_in
        self.runs: list[RunRow] = []
        self.run_id: int | None = None
        self.problems: list[Problem] = []
        self.reader = StoreReader(workspace.store_path)
        self.writer = StoreWriter(workspace.store_path)
        self.sample_filter = SampleFilter()
        self.started: list[Started] = []
        self.ended: list[Started] = []
        self.watched = False
        self._version = -1
        self._ticking = False
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        theme = screen_preferences.load(remember_in).theme if remember_in is not None else ""
        self.theme = theme if theme in self.available_themes else "srtui-dark"

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Colours of srtui's own, made of the theme's for one that has none of them."""
        # Textual's own themes, which the palette offers too, know nothing of these.
        theme = self.current_theme
        if theme.ansi:
            return {
                "dim": "ansi_bright_black",
                "row-cursor": "ansi_blue",
                "row-blurred": "ansi_black",
                "row-hover": "ansi_black",
                "plot-before": "ansi_yellow",
                "plot-after": "ansi_cyan",
                "plot-limit": "ansi_red",
                "plot-other": "ansi_magenta",
            }
        colours = theme.to_color_system().generate()
        ground, ink, primary = (
            Color.parse(colours[name]) for name in ("background", "foreground", "primary")
        )
        return {
            "dim": ground.blend(ink, 0.62).hex6,
            "row-cursor": ground.blend(primary, 0.3).hex6,
            "row-blurred": ground.blend(ink, 0.1).hex6,
            "row-hover": ground.blend(ink, 0.05).hex6,
            "plot-before": colours["warning"],
            "plot-after": colours["primary"],
            "plot-limit": colours["error"],
            "plot-other": colours["secondary"],
        }

    def _remember_theme(self, theme: Theme) -> None:
        if self._remember_in is not None:
            try:
                screen_preferences.save(self._remember_in, screen_preferences.ScreenPreferences(theme.name))
            except OSError as error:
                self.report_problem(
                    f"The theme cannot be remembered in {self._remember_in}: {error.strerror}."
                )

    # -- the watch on the store -------------------------------------------------------------

    def on_mount(self) -> None:
        """Start the watch on the store: once a second."""
        self.theme_changed_signal.subscribe(self, self._remember_theme)
        psutil.cpu_percent()  # what Live shows is measured from here on
        self.set_interval(1.0, self._tick)
        self.call_after_refresh(self._tick)

    async def _tick(self) -> None:
        if server_is_gone():
            self.exit()
        if self._ticking:
            return
        self._ticking = True
        try:
            await self._read_store()
        except Exception as error:
            self.report_error(error)
        finally:
            self._ticking = False

    async def _read_store(self) -> None:
        self._watch_engines()
        if not self.workspace.store_path.exists():
            changed = not self.watched
        else:
            version, runs = await self.reader.ask(lambda v: (v.version(), v.runs()))
            changed = version != self._version or not self.watched or runs != self.runs
            known = {r.id for r in self.runs}
            asked_for = {e.pid for e in self.started if e.words[0] in _MAKE_A_RUN} - {None}
            new = next((r for r in runs if r.id not in known and (r.pid is None or r.pid in asked_for)), None)
            if self.watched and asked_for and new is not None:
                self.run_id = new.id  # the one that was just asked for
            self._version, self.runs = version, runs
            if self.current_run is None and runs:
                working = next((r for r in runs if r.pid), runs[0])
                self.run_id = working.id
        self.watched = True
        if isinstance(self.screen, ReadingScreen) and self.screen.is_mounted:
            self.screen.tick(changed)

    def _watch_engines(self) -> None:
        for engine in list(self.started):
            if engine.pid is None:
                self.started.remove(engine)
                self.ended.append(engine)
                failure = engine.failure()
                if engine.state == "done" and engine.words[0] not in ("run", "resume"):
                    self.notify(
                        f"Done: srtui {' '.join(engine.words[:2])}. {engine.last_line()} (F3: its output)",
                        markup=False,
                    )
                if failure:
                    self.report_problem(
                        f"The engine stopped: {failure.splitlines()[-1]}", f"{engine.log}\n\n{failure}"
                    )

    @property
    def idle(self) -> bool:
        """Whether the screen shows what the store has, and nothing is being read, written or fetched."""
        screen = self.screen
        return (
            self.watched
            and not self._ticking
            and not any(worker.is_running for worker in self.workers)
            and (not isinstance(screen, ReadingScreen) or screen.idle)
            and all(table.idle for table in screen.query(VirtualTable))
        )

    @property
    def current_run(self) -> RunRow | None:
        """The run that the screens are about."""
        return next((r for r in self.runs if r.id == self.run_id), None)

    def choose_run(self, run_id: int) -> None:
        """Let the screens be about this run."""
        if run_id != self.run_id:
            self.run_id = run_id
            if isinstance(self.screen, ReadingScreen):
                self.screen.on_screen_resume()

    async def ask(self, question: Callable[[Views], T]) -> T:
        """Read something from the store, away from the event loop."""
        return await self.reader.ask(question)

    def write(
        self, work: Callable[[Store], T], then: Callable[[T], Awaitable[None] | None] | None = None
    ) -> None:
        """Write to the store, away from the event loop; ``then`` gets what ``work`` returned."""
        self.run_worker(self._write(work, then), group="write")

    async def _write(
        self, work: Callable[[Store], T], then: Callable[[T], Awaitable[None] | None] | None
    ) -> None:
        try:
            result = await self.writer.do(work)
            if then is not None and (awaitable := then(result)) is not None:
                await awaitable
            await self._tick()
        except Exception as error:
            self.report_error(error)

    def notify(self, message: str, *, title: str = "", **options: Any) -> None:
        """Show a message for some seconds, taken literally: file names and commands are in some."""
        super().notify(safe(message), title=safe(title), **{**options, "markup": False})

    # -- what went wrong --------------------------------------------------------------------

    def report_error(self, error: BaseException) -> None:
        """Report an exception: a notification for the person, and the whole of it in the Log."""
        sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self.report_problem(sentence, "".join(traceback.format_exception(error)))

    def report_problem(self, sentence: str, detail: str = "") -> None:
        """The same, for what is no exception; ``detail`` is what the Log shows beside the sentence."""
        if (
            self.problems
            and self.problems[-1].sentence == sentence
            and time.time() - self.problems[-1].occurred_at < 10
        ):
            return  # a store that cannot be read fails every second; once is enough
        self.problems.append(Problem(time.time(), sentence, detail or sentence))
        short = safe(sentence if len(sentence) <= 300 else sentence[:299] + "…")
        self.notify(
            f"{short}\n(detail: {numbered('log')})",
            title="Something went wrong",
            severity="error",
            timeout=8,
            markup=False,
        )

    # -- engines ----------------------------------------------------------------------------

    def start_engine(self, words: list[str]) -> None:
        """Start ``srtui`` with these words in a process of its own."""
        if any(engine.words == words for engine in self.started):
            self.notify("It is starting already.", timeout=3)
            return
        try:
            self.started.append(start_engine(self.workspace, words))
        except OSError as error:
            self.report_error(error)
            return
        if isinstance(self.screen, ReadingScreen) and self.screen.is_mounted:
            self.screen.show_run()
        self.notify("The engine is starting; it continues when this dashboard is closed.", markup=False)

    def start_words(self, words: list[str] | None) -> None:
        """The same with what a form was left with, which is None where a person cancelled."""
        if words is not None:
            self.start_engine(words)

    def action_work(self) -> None:
        """Show what was started, and how far it is."""
        from srtui.tui.screens.work import WorkList

        if not self.screen.is_modal:
            self.push_screen(WorkList())

    # -- actions ----------------------------------------------------------------------------

    def action_go(self, mode: str) -> None:
        """Open a screen by its mode, unless a dialog is open."""
        if not self.screen.is_modal:
            self.switch_mode(mode)

    def action_next_run(self, by: int) -> None:
        """Show the run ``by`` places further down the list, around its end."""
        if self.current_run is not None and isinstance(self.screen, ReadingScreen):
            index = self.runs.index(self.current_run)
            self.choose_run(self.runs[(index + by) % len(self.runs)].id)

    def action_light(self) -> None:
        """Change between the light and the dark theme."""
        dark = self.current_theme.dark
        self.theme = "srtui-light" if dark else "srtui-dark"

    def action_help(self) -> None:
        """Show the screen's help, over it."""
        from srtui.tui.screens.dialogs import Help

        if not isinstance(self.screen, Help):
            self.push_screen(Help(self.screen))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the palette offers: this screen's keys, the screens, the latest runs, and the app's own."""
        from srtui.tui.palette import commands

        yield from commands(self, screen)

    def on_unmount(self) -> None:
        """Close both connections to the store."""
        self.reader.close()
        self.writer.close()
