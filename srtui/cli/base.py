"""What the commands share: the app, options that several have, the store of this workspace, signals."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srtui.errors import UserError
from srtui.noise import screen
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.store import Store

app = typer.Typer(
    name="srtui",
    help="Offline Selective Reflection-Tuning: a local teacher rewrites, a local student chooses, QLoRA trains.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Force = Annotated[
    bool, typer.Option("--force", help="Write over a file that srtui did not write itself, too.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name.")]


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


def libraries_log(folder: Path) -> contextlib.AbstractContextManager[None]:
    """What libraries say goes to ``libraries.log`` in ``folder``: a run's own, or the store's."""
    from srtui.noise import to_log

    return to_log(folder / "libraries.log")
