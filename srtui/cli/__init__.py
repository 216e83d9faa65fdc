"""The commands: parse, call, print. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import typer

# Each adds its commands to the app.
from srtui.cli import chat, data, evaluation, human, machine, models, prompts, report, runs  # noqa: F401
from srtui.cli.base import app
from srtui.errors import UserError
from srtui.workspace import Workspace, go_offline


def main() -> NoReturn:
    """The ``srtui`` command. Exit code 2 and one sentence for anything that the user can mend."""
    go_offline()
    import sqlite3

    try:
        app()
    except UserError as error:
        _fail(str(error))
    except sqlite3.Error as error:
        from srtui.store import explain

        _fail(str(explain(error, _store_path())))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno in (28, 30, 122):  # no space, read-only file system, quota
            _fail(f"{error.filename or 'The disk'}: {error.strerror}; nothing already stored is lost.")
        raise
    sys.exit(0)


def _fail(sentence: str) -> NoReturn:
    from srtui.console import safe

    print(safe(f"srtui: {sentence}"), file=sys.stderr)
    sys.exit(2)


def _store_path() -> Path:
    try:
        return Workspace.find().store_path
    except UserError:
        return Path("store/srtui.sqlite")


@app.callback(invoke_without_command=True)
def dashboard(context: typer.Context) -> None:
    """Without a command: the dashboard."""
    if context.invoked_subcommand is None:
        from srtui.tui import open_dashboard

        open_dashboard()
