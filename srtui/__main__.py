"""The ``srtui`` command. Alone it opens the dashboard, which does not wait for the commands to load."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Exit code 2 and one sentence for anything that the user can put right."""
    from srtui.process import work

    work(_commands if len(sys.argv) > 1 else _dashboard)


def _commands() -> None:
    from srtui.cli import commands

    commands()


def _dashboard() -> None:
    from srtui.tui import open_dashboard

    open_dashboard()


if __name__ == "__main__":
    main()
