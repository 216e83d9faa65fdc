"""What a new user sees: what this is, and the one thing to do."""

from __future__ import annotations

from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Center, Middle
from textual.content import Content
from textual.widgets import Button, Static

from srtui.tui.tabs import key_of

_DEMO_MODEL = "smollm2-135m"


class FirstRun(Middle):
    """What a new user sees: what this is, and the one thing to do."""

    DEFAULT_CSS = """
    FirstRun { height: 1fr; }
    FirstRun Static { width: auto; max-width: 70; }
    FirstRun Button { margin-top: 1; }
    """

    def __init__(self, models: Path) -> None:
        super().__init__()
        self._models = models

    def on_mount(self) -> None:
        """The demo is one Enter away."""
        self.query_one("#demo").focus()

    def compose(self) -> ComposeResult:
        """What a run is, what the demo needs, its button, and the other keys."""
        needs = (
            " It needs the model once: ",
            (f"srtui models add {_DEMO_MODEL}", "bold"),
            " (or ",
            (key_of("models"), "bold"),
            " here, then a), the only step that uses the network.",
        )
        is_here = (self._models / _DEMO_MODEL).is_dir() and any(self._models.glob(f"{_DEMO_MODEL}*.gguf"))
        with Center():
            yield Static(
                Content.assemble(
                    ("No runs yet\n\n", "bold $text-primary"),
                    "A run lets a local teacher rewrite your instruction data, lets the student choose by IFD "
                    "and r-IFD what is worth keeping, and trains the student on the choice.\n\n",
                    "The demo does all of it with a small model in a few minutes.",
                    *((" Its model is here already.",) if is_here else needs),
                )
            )
        with Center():
            yield Button("Start the demo", id="demo", variant="primary")
        with Center():
            yield Static(
                Content.assemble(
                    "\n",
                    (key_of("data"), "bold"),
                    " your own data   ",
                    ("n", "bold"),
                    " a run of your own   ",
                    ("?", "bold"),
                    " help   ",
                    ("q", "bold"),
                    " quit",
                ),
                classes="muted",
            )
