"""The filter of the samples' table: its form, and what it says in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Label, Select, Static

from srtui.measures import STORED
from srtui.store.listing import DECISIONS, STATES, SampleFilter
from srtui.tui.screens.dialogs import Dialog
from srtui.wording import LABELS

_SCORE_NAMES = {score: LABELS[score] for name in STORED for score in (name, f"{name} before")}


class FilterForm(Dialog[SampleFilter | None]):
    """Which samples to list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("ctrl+s", "apply", "Apply"),
    ]
    DEFAULT_CSS = """
    FilterForm .field { height: 1; margin-bottom: 1; }
    FilterForm .field Label { width: 12; color: $dim; }
    FilterForm .field Input, FilterForm .field Select { width: 1fr; }
    FilterForm .field .to { width: 4; text-align: center; }
    """

    def __init__(self, current: SampleFilter) -> None:
        super().__init__()
        self._current = current

    def compose(self) -> ComposeResult:
        """A field for each part of the filter."""
        current = self._current
        with VerticalScroll(classes="dialog"):
            yield Static(Content("Which samples?"), classes="title")
            with Horizontal(classes="field"):
                yield Label("text")
                yield Input(
                    current.text, id="text", compact=True, placeholder="words anywhere in any variant"
                )
            with Horizontal(classes="field"):
                yield Label("state")
                yield _choice("state", STATES, current.state)
            with Horizontal(classes="field"):
                yield Label("decision")
                yield _choice("decision", DECISIONS, current.decision)
            with Horizontal(classes="field"):
                yield Label("score")
                names = [(name, key) for key, name in _SCORE_NAMES.items()]
                yield Select(names, value=current.measure, allow_blank=False, compact=True, id="measure")
                yield Input(_text(current.low), id="low", type="number", compact=True, placeholder="from")
                yield Label("to", classes="to")
                yield Input(_text(current.high), id="high", type="number", compact=True, placeholder="below")
            with Horizontal(classes="field"):
                yield Label("answer")
                yield Input(
                    _text(current.shortest), id="shortest", type="integer", compact=True, placeholder="from"
                )
                yield Label("to", classes="to")
                yield Input(
                    _text(current.longest),
                    id="longest",
                    type="integer",
                    compact=True,
                    placeholder="characters",
                )
            with Horizontal(classes="field"):
                yield Label("marks")
                yield _choice("marks", ("flagged",), "flagged" if current.flagged else None)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Show all", id="all", compact=True)
                yield Button("Apply", id="apply", variant="primary", compact=True)

    def on_mount(self) -> None:
        """Begin in the field of words."""
        self.query_one("#text").focus()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_apply()

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        current = self._current
        if event.button.id == "apply":
            self.action_apply()
        elif event.button.id == "all":
            self.dismiss(SampleFilter(current.run_id, order=current.order, descending=current.descending))
        else:
            self.dismiss(None)

    def action_apply(self) -> None:
        """Close with the filter that the fields say; what is no number is left out."""

        def decimal(id: str) -> float | None:
            value = self.query_one(f"#{id}", Input).value
            try:
                return float(value) if value else None
            except ValueError:
                return None

        def picked(id: str) -> str | None:
            value = self.query_one(f"#{id}", Select).value
            return value if isinstance(value, str) else None

        shortest, longest = decimal("shortest"), decimal("longest")
        self.dismiss(
            replace(
                self._current,
                text=self.query_one("#text", Input).value.strip(),
                state=picked("state"),
                decision=picked("decision"),
                measure=picked("measure") or "ifd",
                low=decimal("low"),
                both=False,
                high=decimal("high"),
                shortest=None if shortest is None else int(shortest),
                longest=None if longest is None else int(longest),
                flagged=picked("marks") is not None,
            )
        )

    def action_cancel(self) -> None:
        """Close and leave the filter as it is."""
        self.dismiss(None)


def _choice(id: str, values: Sequence[str], current: str | None) -> Select[str]:
    return Select([(v, v) for v in values], value=current or Select.NULL, prompt="any", compact=True, id=id)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def described(sample_filter: SampleFilter) -> list[str]:
    """What a filter leaves, in words, one a condition."""
    words = []
    if sample_filter.text:
        words.append(f"with “{sample_filter.text}”")
    if sample_filter.state:
        words.append(sample_filter.state)
    if sample_filter.decision:
        words.append(sample_filter.decision)
    if sample_filter.low is not None or sample_filter.high is not None:
        words.append(_between(_SCORE_NAMES[sample_filter.measure], sample_filter.low, sample_filter.high))
    if sample_filter.both:
        words.append("scored before and after")
    if sample_filter.shortest is not None or sample_filter.longest is not None:
        words.append(_between("characters", sample_filter.shortest, sample_filter.longest))
    if sample_filter.flagged:
        words.append("flagged")
    return words


def _between(name: str, low: float | None, high: float | None) -> str:
    if low is None:
        return f"{name} < {high:g}"
    return f"{name} ≥ {low:g}" if high is None else f"{name} {low:g} to {high:g}"
