"""serve: the dashboard in a browser."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from srtui.cli.base import app
from srtui.cli.output import print_line
from srtui.workspace import Workspace


@app.command(epilog="Example: srtui serve --port 8700")
def serve(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port on loopback; 0 takes a free one.")
    ] = 0,
) -> None:
    """The dashboard in a browser, for a machine without a screen. On loopback only, and only with the address that it
    prints: whoever has it can do what you can do in the dashboard.

    From another machine: ssh -L 8700:127.0.0.1:8700 HOST, then open the address there. Needs the extra srtui[serve].
    """
    from srtui.tui.browser import new_token
    from srtui.tui.browser import serve as serve_dashboards

    os.environ["SRTUI_WORKSPACE"] = str(Workspace.find().root)
    # A browser has no terminal for an editor of one's own: texts are edited in the dashboard.
    for name in ("VISUAL", "EDITOR"):
        os.environ.pop(name, None)

    def announce(address: str) -> None:
        print_line(f"The dashboard is at {address}")
        print_line(
            "Keep the address to yourself; closing this (Ctrl-C) closes every dashboard, and stops no run."
        )

    serve_dashboards(port, new_token(), announce)
