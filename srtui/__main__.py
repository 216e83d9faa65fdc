"""The ``srtui`` command. Alone it opens the dashboard, which does not wait for the commands to load."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Exit code 2 and one sentence for anything that the user can put right; 130 where it was interrupted."""
    try:
        from srtui.process import work

        # A shell that completes asks through the environment, without a word.
        work(_commands if len(sys.argv) > 1 or "_SRTUI_COMPLETE" in os.environ else _dashboard)
    except KeyboardInterrupt:  # before ``work`` has begun, or after it
        sys.exit(130)


def _commands() -> None:
    from srtui.cli import commands

    commands()


def _dashboard() -> None:
    from srtui.tui import open_dashboard

    open_dashboard()


if __name__ == "__main__":
    main()
