"""Evaluation: its place."""

from __future__ import annotations

from textual.app import ComposeResult

from srtui.tui.screens.base import DashboardScreen
from srtui.tui.widgets.empty import Empty


class EvaluationScreen(DashboardScreen):
    """Nothing yet, and it says so."""

    MODE = "evaluation"
    HELP_TEXT = "Evaluation compares the tuned student with the one before. It is not built yet."

    def body(self) -> ComposeResult:
        yield Empty(
            "Nothing evaluates yet",
            "Comparing the tuned student with the one before (a judge, people, benchmarks) is still to come. "
            "Until then: held-out loss is on 5 Training, and srtui export writes what was selected.",
        )
