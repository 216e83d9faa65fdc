"""Chat: the student before and after training, asked the same thing, side by side as they write."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Input

from srtui.store.views import RunRow
from srtui.text import duration, safe
from srtui.tui.processes import command_line, environment
from srtui.tui.screens.dashboard_screen import KeyLine
from srtui.tui.widgets.words import Words, shown

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard

_SIDES = ("base", "tuned")
_TITLES = {"base": "before training", "tuned": "after training"}
_KEPT = 30


@dataclass
class BothAnswers:
    """What was asked, and what each side has written of its answer so far."""

    instruction: str
    answers: dict[str, str] = field(default_factory=lambda: dict.fromkeys(_SIDES, ""))


class ChatScreen(Screen[None]):
    """The models are loaded in a process of their own (``srtui chat``), which ends with this screen."""

    HELP_TEXT = (
        "The same instruction goes to the student as it was and as it was trained, one after the other, under the prompt "
        "template that it was trained with; each stands alone, as samples did in training. ^t shows the prompt as the "
        "student saw it, template and all. The likeliest token is taken, so the same question has the same answer."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", priority=True),
        Binding("ctrl+t", "prompt", "Prompt on/off", priority=True),
        Binding("pageup", "scroll_by(-10)", "Up", show=False),
        Binding("pagedown", "scroll_by(10)", "Down", show=False),
    ]
    DEFAULT_CSS = """
    ChatScreen #state { height: 1; padding: 0 1; background: $surface; color: $dim; }
    ChatScreen #prompt-box { height: auto; max-height: 30%; margin: 0 1; padding: 0 1; border: round $panel; }
    ChatScreen #answers { height: 1fr; }
    ChatScreen .answers { width: 1fr; height: 1fr; margin: 0 1; padding: 0 1; border: round $panel; border-title-color: $text-primary; }
    ChatScreen .answers Words { width: 1fr; height: auto; }
    ChatScreen.-narrow #answers { layout: vertical; }
    ChatScreen Input { margin: 0 1 1 1; height: 3; }
    """

    def __init__(self, run: RunRow) -> None:
        super().__init__()
        self._run = run
        self._exchanges: list[BothAnswers] = []
        self._prompt = ""
        self._shows_prompt = True
        self._process: subprocess.Popen[bytes] | None = None
        self._since = time.monotonic()
        self._ready = self._answering = self._has_gone = False
        self._problem = ""

    @property
    def dashboard(self) -> Dashboard:
        """The app, as the type that it is."""
        return self.app  # type: ignore[return-value]

    def compose(self) -> ComposeResult:
        """What is asked, both answers, and the field to type in."""
        yield Words(id="state")
        with VerticalScroll(id="prompt-box", classes="hidden", can_focus=False):
            yield Words(id="prompt")
        with Horizontal(id="answers"):
            for side in _SIDES:
                with VerticalScroll(id=f"{side}-box", classes="answers", can_focus=False):
                    yield Words(id=side)
        with Vertical():
            yield Input(placeholder="Ask both; Enter sends it", id="ask")
        yield KeyLine()

    def on_mount(self) -> None:
        """Load the student, and say for how long that has been going on."""
        self.query_one("Vertical").styles.height = 4
        for side in _SIDES:
            self.query_one(f"#{side}-box").border_title = f"{side}: {_TITLES[side]}"
        self.query_one(
            "#prompt-box"
        ).border_title = f"what the student sees ({self._run.recipe['prompt']['template']})"
        self.on_resize()
        self.query_one("#ask").focus()
        self._start()
        self.set_interval(1.0, self._show_state)
        self._show_state()

    def on_resize(self) -> None:
        """One answer below the other where there are fewer than 90 columns."""
        self.set_class(self.app.size.width < 90, "-narrow")

    # -- the process of the models ------------------------------------------------------------

    def _start(self) -> None:
        """Start the process; a thread of this screen's hears what it says."""
        workspace = self.dashboard.workspace
        try:
            self._process = subprocess.Popen(
                command_line(["chat", self._run.name, "--json", "--stream"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=workspace.root,
                env=environment(workspace),
                start_new_session=True,
            )
        except OSError as error:
            self.dashboard.report_error(error)
            return
        threading.Thread(target=self._hear, args=(self._process,), name="srtui-chat", daemon=True).start()

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        """In its thread: hand every line on, until the process ends."""
        complaints: list[bytes] = []

        def listen() -> None:
            complaints.append(process.stderr.read() if process.stderr is not None else b"")

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        # A screen that has gone takes nothing any more, nor does an app that ends.
        with contextlib.suppress(RuntimeError, ValueError, CancelledError):
            for line in process.stdout or ():
                with contextlib.suppress(json.JSONDecodeError):
                    self._hand_on(self._take, json.loads(line))
            code = process.wait()
            listener.join()
            words = b"".join(complaints).decode("utf-8", errors="replace").strip()
            self._hand_on(self._ended, words or f"it ended with exit code {code}")
        process.wait()

    def _hand_on(self, call: Callable[[Any], None], value: Any) -> None:
        def take() -> None:
            # Asked here, in the app's own thread: since the line was heard the screen may have been closed, or its
            # widgets have gone and itself not yet.
            if not self._has_gone:
                with contextlib.suppress(NoMatches):
                    call(value)

        if not self._has_gone:
            self.app.call_from_thread(take)

    def _ended(self, words: str) -> None:
        """The process is gone while the screen is there."""
        self._answering = False
        self._problem = safe(words.splitlines()[-1])
        self.dashboard.report_problem(f"The chat has ended: {self._problem}", words)
        self._show_state()

    def _take(self, said: dict[str, Any]) -> None:
        """One line of the process: that it is ready, a prompt, a piece of an answer, or an end."""
        kind = said.get("type")
        if kind == "ready":
            self._ready = True
        elif kind == "prompt":
            self._prompt = str(said["text"])
            self._show_prompt()
        elif kind == "piece" and self._exchanges:
            self._exchanges[-1].answers[str(said["side"])] += str(said["text"])
            self._show_answers()
        elif kind == "answers":
            self._answering = False
        self._show_state()

    # -- what is shown --------------------------------------------------------------------------

    def _show_state(self) -> None:
        waited = duration(time.monotonic() - self._since)
        if self._problem:
            words = shown(f"✗ {self._problem}", "$text-error")
        elif not self._ready:
            words = shown(f"▶ loading the student, in a process of its own, for {waited}", "$text-accent")
        elif self._answering:
            side = "tuned" if self._exchanges and self._exchanges[-1].answers["tuned"] else "base"
            words = shown(f"▶ {side} is writing, for {waited}", "$text-accent")
        else:
            words = shown("✓ ready", "$text-success")
        self.query_one("#state", Words).show(shown(f"Chat with {self._run.name}  ·  ", "bold") + words)

    def _show_prompt(self) -> None:
        self.query_one("#prompt-box").set_class(not (self._shows_prompt and self._prompt), "hidden")
        self.query_one("#prompt", Words).show(shown(self._prompt, "$dim"))

    def _show_answers(self) -> None:
        for side in _SIDES:
            parts = []
            for exchange in self._exchanges:
                parts.append(shown(f"› {exchange.instruction}", "bold $text-accent"))
                parts.append(shown(exchange.answers[side].strip()))
                parts.append(Content(""))
            self.query_one(f"#{side}", Words).show(Content("\n").join(parts))
            self.query_one(f"#{side}-box", VerticalScroll).scroll_end(animate=False)

    # -- what a person does ---------------------------------------------------------------------

    @on(Input.Submitted, "#ask")
    def _ask(self, event: Input.Submitted) -> None:
        instruction = " ".join(event.value.split())
        if not instruction or self._process is None or self._process.stdin is None or self._problem:
            return
        if not self._ready or self._answering:
            self.notify("It is still loading." if not self._ready else "It is still writing.", timeout=2)
            return
        event.input.value = ""
        self._exchanges = [*self._exchanges[1 - _KEPT :], BothAnswers(instruction)]
        self._answering, self._since = True, time.monotonic()
        with contextlib.suppress(OSError):  # that it has ended is said by the thread that hears it
            self._process.stdin.write(f"{instruction}\n".encode())
            self._process.stdin.flush()
        self._show_answers()
        self._show_state()

    def action_prompt(self) -> None:
        """Show or hide the prompt as the student saw it."""
        self._shows_prompt = not self._shows_prompt
        self._show_prompt()
        if not self._prompt:
            self.notify("The prompt stands here once something was asked.", timeout=3)

    def action_scroll_by(self, lines: int) -> None:
        """Scroll both answers."""
        for side in _SIDES:
            self.query_one(f"#{side}-box").scroll_relative(y=lines, animate=False)

    def action_back(self) -> None:
        """End the process and leave."""
        self._has_gone = True
        self.dismiss(None)

    def on_unmount(self) -> None:
        """The models go with the screen."""
        self._has_gone = True
        if self._process is not None:
            self._process.terminate()
