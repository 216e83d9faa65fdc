"""What the commands share: the app, options that several have, the store of this workspace, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
import typer.main
from typer.core import TyperGroup

from srtui.cli.completion import recipe_files, recipe_settings, run_names
from srtui.errors import UserError
from srtui.noise import screen, show_noise
from srtui.text import safe
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.store import Store


class Commands(TyperGroup):
    """All commands, each with ``-v``: what libraries write is shown then, where it goes to a log otherwise."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        verbose = typer.main.get_command(_with_verbose).params
        waiting: list[Any] = [self]
        for command in waiting:  # which grows by the commands of each group
            if isinstance(command, TyperGroup):
                waiting += command.commands.values()
            else:
                command.params += verbose

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order in which one comes to need them."""
        return [*_IN_ORDER, *(name for name in super().list_commands(ctx) if name not in _IN_ORDER)]


_IN_ORDER = (
    "init", "doctor", "import", "data", "models", "recipes", "prompts", "pilot", "run", "resume", "status", "show",
    "scores", "diff", "retrain", "choose", "ablate", "eval", "chat", "report", "export", "export-model", "serve", "db",
    "bundle",
)  # fmt: skip

_with_verbose = typer.Typer(add_completion=False)


@_with_verbose.command()
def _verbose(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Show what libraries write, which goes to a log otherwise.",
            expose_value=False,
            callback=lambda value: show_noise() if value else None,
        ),
    ] = False,
) -> None:
    """Of this, the option alone is used: Typer has no option for all commands."""


app = typer.Typer(
    name="srtui",
    help="Offline Selective Reflection-Tuning: a local teacher rewrites, a local student chooses, QLoRA trains.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    cls=Commands,
)

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Force = Annotated[
    bool, typer.Option("--force", help="Write over a file that srtui did not write itself, too.")
]


RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name.", autocompletion=run_names)]
RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, in TOML.", autocompletion=recipe_files)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override: section.key=value.", autocompletion=recipe_settings),
]
OnDone = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Run this at the end, however it ends: SRTUI_RUN and SRTUI_STATUS (done, stopped, failed) are set for it.",
    ),
]
Bell = Annotated[bool, typer.Option("--bell", help="Ring the terminal's bell at the end.")]


MOST = 2**31 - 1
"""The largest whole number that an option takes: beyond it llama.cpp, torch and SQLite each end differently."""


def open_store(read_only: bool = False) -> tuple[Workspace, Store]:
    """This workspace and its store. Raises UserError outside a workspace, or where there is no store to read."""
    from srtui.store import Store

    workspace = Workspace.find()
    return workspace, Store(workspace.store_path, read_only=read_only)


def key_value(word: str, option: str) -> tuple[str, str]:
    """``name=value`` in two. Raises UserError, with the option, where there is no equals sign."""
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{option} {word}: write it as name=value.")
    return key, value


def seconds_here() -> dict[str, float]:
    """The seconds since this process began, as the step ``start`` of a run."""
    import time

    import psutil

    return {"start": max(0.0, time.time() - psutil.Process().create_time())}


def stop_on_signals() -> Any:
    """Ctrl-C once finishes the step and stores it, and so does a terminal that hangs up; twice stops at
    once, which the store survives."""
    import threading

    stop = threading.Event()

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        with contextlib.suppress(OSError, ValueError):  # the terminal itself may be what ended
            os.write(screen().fileno(), b"\nStopping after this step; press Ctrl-C again to stop at once.\n")

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, handle)
    return stop


@contextlib.contextmanager
def announce_end(run_name: str, on_done: str | None, bell: bool) -> Iterator[Callable[[str], None]]:
    """Notify a person, or a program, when the work within ends; the work reports its status to what it gets.

    ``on_done`` is a command line without a shell. Raises UserError, before any work, where it is none.
    """
    words = shlex_words(on_done)
    status = ["failed"]
    try:
        yield lambda new_status: status.__setitem__(0, new_status)
    except SystemExit as end:
        if end.code == 130:
            status[0] = "stopped"
        raise
    finally:
        if bell and screen().isatty():
            # OSC 9 is a notification where a terminal has them; the bell is the same for all others.
            screen().write(f"\x1b]9;srtui: {safe(run_name)} {status[0]}\x1b\\\a")
            screen().flush()
        if words:
            env = os.environ | {"SRTUI_RUN": run_name, "SRTUI_STATUS": status[0]}
            try:
                # What it prints is no result of this command, whose stdout may be JSON for a program.
                subprocess.run(
                    words, env=env, check=False, stdin=subprocess.DEVNULL, stdout=_number_of(screen())
                )
            except OSError as error:
                print(f"--on-done {words[0]}: {error.strerror or error}.", file=screen())


def _number_of(stream: TextIO) -> int:
    """The file descriptor of a stream; nowhere for one that has none."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


def shlex_words(command: str | None) -> list[str]:
    """The words of a command line. Raises UserError where its quotes do not close."""
    import shlex

    try:
        return shlex.split(command or "")
    except ValueError as error:
        raise UserError(f"--on-done {command}: {error}; correct the command.") from error


def libraries_log(folder: Path) -> contextlib.AbstractContextManager[None]:
    """What libraries write on standard error goes to ``libraries.log`` in ``folder``: a run's own, or the store's."""
    from srtui.noise import to_log

    return to_log(folder / "libraries.log")
