"""What a new user sees: what this is, and the one thing to do."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Center, Middle
from textual.content import Content
from textual.widgets import Button, Static


class FirstRun(Middle):
    """What a new user sees: what this is, and the one thing to do."""

    DEFAULT_CSS = """
    FirstRun { height: 1fr; }
    FirstRun Static { width: auto; max-width: 70; }
    FirstRun Button { margin-top: 1; }
    """

    def on_mount(self) -> None:
        self.query_one("#demo").focus()

    def compose(self) -> ComposeResult:
        with Center():
            yield Static(
                Content.assemble(
                    ("No runs yet\n\n", "bold $text-primary"),
                    "A run lets a local teacher rewrite your instruction data, lets the student choose by IFD "
                    "and r-IFD what is worth keeping, and trains the student on the choice.\n\n",
                    "The demo does all of it with a small model in a few minutes. It needs the model once: ",
                    ("srtui models add smollm2-135m", "bold"),
                    " (or ",
                    ("6", "bold"),
                    " here, then a), the only step that uses the network.",
                )
            )
        with Center():
            yield Button("Start the demo", id="demo", variant="primary")
        with Center():
            yield Static(
                Content.assemble(
                    "\n",
                    ("n", "bold"),
                    " a run of your own   ",
                    ("?", "bold"),
                    " help   ",
                    ("q", "bold"),
                    " quit",
                ),
                classes="muted",
            )
