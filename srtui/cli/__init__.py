"""The commands: parse, call, print. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

# Each adds its commands to the app.
from srtui.cli import (  # noqa: F401
    ablate,
    bundle,
    chat,
    choose,
    data,
    diff,
    evaluation,
    human,
    import_export,
    machine,
    models,
    pilot,
    prompts,
    recipes,
    report,
    runs,
    serve,
)
from srtui.cli.base import app
from srtui.process import work


def main() -> NoReturn:
    """The ``srtui`` command. Exit code 2 and one sentence for anything that the user can put right."""
    work(commands)


def commands() -> None:
    """Parse the command line and do what it says."""
    app(prog_name="srtui")  # which the shell asks for, however it is started


def _version(asked: bool) -> None:
    if asked:
        from srtui import __version__

        typer.echo(f"srtui {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def dashboard(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print srtui's version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Without a command: the dashboard."""
    if context.invoked_subcommand is None:
        from srtui.tui import open_dashboard

        open_dashboard()
