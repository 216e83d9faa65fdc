"""The dashboard: a face on the store. The engine is another process, and neither needs the other."""

from __future__ import annotations

import gc
import os
import sys

from srtui.errors import UserError

__all__ = ["open_dashboard"]


def open_dashboard() -> None:
    """Open it on this terminal, and return when it is closed. Raises UserError where it cannot be drawn."""
    in_browser = os.environ.get("TEXTUAL_DRIVER", "").endswith(":WebDriver")  # srtui serve
    if not in_browser and not (
        sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    ):
        raise UserError(
            "The dashboard needs a terminal that can be drawn on; here, use srtui status, or srtui --help."
        )
    from srtui.workspace import Workspace

    workspace = Workspace.find()
    from srtui.tui.app import Dashboard
    from srtui.tui.screen_preferences import preferences_file

    # What is loaded by now stays: the collector need not walk it again while keys are waiting.
    gc.freeze()
    Dashboard(workspace, preferences_file()).run()
