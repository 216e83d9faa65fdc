"""The ``srtui`` command. Alone it opens the dashboard, which does not wait for the commands to load."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Exit code 2 and one sentence for anything that the user can mend."""
    if len(sys.argv) > 1:
        from srtui.cli import main as commands

        commands()
    from srtui.errors import UserError
    from srtui.tui import open_dashboard
    from srtui.workspace import go_offline

    go_offline()
    try:
        open_dashboard()
    except UserError as error:
        from srtui.console import safe

        print(safe(f"srtui: {error}"), file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


if __name__ == "__main__":
    main()
