"""Two answers side by side, and a person who does not know whose they are."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from srtui.evaluation.people import keep_result
from srtui.evaluation.sitting import BlindPair, Said, keep, next_pair
from srtui.tui.background import StoreReader, StoreWriter
from srtui.tui.widgets.words import Words, shown

_KEYS = (
    ("1", "first is better"), ("2", "second"), ("t", "tie"), ("b", "both bad"), ("s", "skip"), ("u", "undo"),
    ("Esc", "leave"),
)  # fmt: skip


class HumanScreen(ModalScreen[None]):
    """Asks until nothing is left or the person leaves; every choice is stored before the next question."""

    # A modal: the keys 1 and 2 must choose an answer here, and never open a screen of the dashboard.
    HELP_TEXT = (
        "Which answer is better? The sides are drawn again for each question. 1 and 2 choose, t is a tie, b says that "
        "both are bad, s asks you no more about this one, u takes the last choice back. You may leave and continue later."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "choose('left')", "First"),
        Binding("2", "choose('right')", "Second"),
        Binding("t", "choose('tie')", "Tie"),
        Binding("b", "choose('bad')", "Both bad"),
        Binding("s", "choose('skip')", "Skip"),
        Binding("u", "undo", "Undo"),
        Binding("escape,q", "leave", "Leave"),
        Binding("down,j", "scroll_by(3)", "Down", show=False),
        Binding("up,k", "scroll_by(-3)", "Up", show=False),
        Binding("pagedown,space", "scroll_by(12)", "Page down", show=False),
        Binding("pageup", "scroll_by(-12)", "Page up", show=False),
    ]
    DEFAULT_CSS = """
    HumanScreen #all { width: 100%; height: 100%; background: $background; }
    HumanScreen #top { height: 1; padding: 0 1; background: $panel; }
    HumanScreen #question { height: auto; max-height: 35%; padding: 1 2; background: $surface; }
    HumanScreen #panes { height: 1fr; }
    HumanScreen .pane { width: 1fr; height: 1fr; padding: 0 1; border-left: solid $panel; }
    HumanScreen .pane:first-child { border-left: none; }
    HumanScreen .pane Static { width: 1fr; height: auto; }
    HumanScreen #keys { height: 1; padding: 0 1; background: $panel; }
    """

    def __init__(self, reader: StoreReader, writer: StoreWriter, evaluation_id: int, annotator: str) -> None:
        super().__init__()
        self._reader, self._writer = reader, writer
        self._evaluation_id, self._annotator = evaluation_id, annotator
        self._pair: BlindPair | None = None
        self._since = 0.0
        self._busy = asyncio.Lock()

    def compose(self) -> ComposeResult:
        """The question and two answers, in an order that hides whose they are."""
        with Vertical(id="all"):
            yield Words(id="top")
            with VerticalScroll(id="question", can_focus=False):
                yield Static(id="asked")
            with Horizontal(id="panes"):
                for side, name in (("left", "Answer 1"), ("right", "Answer 2")):
                    yield VerticalScroll(
                        Static(Content.styled(name, "bold $text-primary")),
                        Static(id=side),
                        classes="pane",
                        can_focus=False,
                    )
            yield Words(
                Content("  ").join(Content.assemble((k, "bold $text-accent"), f" {w}") for k, w in _KEYS),
                id="keys",
            )

    def on_mount(self) -> None:
        """Fetch the first pair."""
        self.run_worker(self._next(), group="human")

    async def _next(self) -> None:
        try:
            async with self._busy:
                await self._show()
        except Exception as error:
            self.app.report_error(error)  # type: ignore[attr-defined]

    async def _show(self) -> None:
        annotator, evaluation_id = self._annotator, self._evaluation_id
        pair = await self._reader.ask(lambda v: next_pair(v.evaluations, evaluation_id, annotator))
        self._pair, self._since = pair, time.monotonic()
        for pane in self.query(VerticalScroll):
            pane.scroll_home(animate=False)
        if pair is None:
            self.query_one("#top", Words).show(shown(f"Nothing is left to judge  ·  {annotator}", "bold"))
            self.query_one("#asked", Static).update(
                Content(
                    "You have judged everything that has two answers. u takes your last choice back; Esc leaves."
                )
            )
        else:
            self.query_one("#top", Words).show(
                Content.assemble(
                    ("Which answer is better?", "bold"),
                    shown(f"  ·  {pair.done + 1:,} of {pair.total:,}  ·  {annotator}", "$dim"),
                )
            )
            self.query_one("#asked", Static).update(shown(pair.question))
        for side in ("left", "right"):
            text = getattr(pair, side) if pair else ""
            self.query_one(f"#{side}", Static).update(shown(text))
        self.query_one("#panes").set_class(pair is None, "hidden")

    def action_choose(self, choice: Said) -> None:
        """Store the person's choice between the two, and show the next pair."""
        if not self._busy.locked() and self._pair is not None:
            self.run_worker(self._keep(self._pair, choice, time.monotonic() - self._since), group="human")

    async def _keep(self, pair: BlindPair, choice: Said, seconds: float) -> None:
        annotator, evaluation_id = self._annotator, self._evaluation_id
        try:
            async with self._busy:
                if pair is not self._pair:
                    return  # a second press of the same key answers no question that was not seen
                await self._writer.do(
                    lambda store: keep(store, evaluation_id, annotator, pair, choice, seconds)
                )
                await self._show()
        except Exception as error:
            self.app.report_error(error)  # type: ignore[attr-defined]

    def action_undo(self) -> None:
        """Take the last choice back, and show its pair again."""
        if not self._busy.locked():
            self.run_worker(self._undo(), group="human")

    async def _undo(self) -> None:
        annotator, evaluation_id = self._annotator, self._evaluation_id
        try:
            async with self._busy:
                item = await self._writer.do(
                    lambda store: store.evaluations.undo_human_choice(evaluation_id, annotator)
                )
                if item is None:
                    self.notify("You have judged nothing yet.", timeout=3)
                await self._show()
        except Exception as error:
            self.app.report_error(error)  # type: ignore[attr-defined]

    def action_leave(self) -> None:
        """Leave; what was chosen is stored."""
        self.run_worker(self._leave(), group="human")

    async def _leave(self) -> None:
        evaluation_id = self._evaluation_id
        try:
            async with self._busy:
                await self._writer.do(lambda store: keep_result(store, evaluation_id))
        except Exception as error:
            self.app.report_error(error)  # type: ignore[attr-defined]
        self.dismiss(None)

    def action_scroll_by(self, lines: int) -> None:
        """Scroll both answers together."""
        for pane in self.query(".pane"):
            pane.scroll_relative(y=lines, animate=False)
