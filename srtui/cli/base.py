"""What the commands share: the app, the store of this workspace, how a result is printed."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TextIO

import typer

from srtui.errors import UserError
from srtui.files import current_folder
from srtui.noise import screen
from srtui.text import json_safe, safe
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.store import Store
    from srtui.store.outputs import Outputs

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
    from srtui.store import Store

    workspace = Workspace.find()
    return workspace, Store(workspace.store_path, read_only=read_only)


def print_line(text: str = "", *, to: TextIO | None = None) -> None:
    """A line on stdout, or ``to`` another stream: fit for a terminal, whatever names and paths are in it."""
    print(safe(text), file=to or sys.stdout, flush=True)


def outputs_of(store: Store, workspace: Workspace) -> Outputs:
    """What decides whether a command may write a file."""
    from srtui.store.outputs import Outputs

    return Outputs(store, workspace.models, workspace.recipes)


def is_stdout(path: Path | None) -> bool:
    """Whether a name on the command line stands for stdout."""
    return path is not None and str(path) in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def stdout_for_data(option: str) -> BinaryIO:
    """Stdout for the bytes of a file. Raises UserError where it is a terminal, which obeys what may stand in
    data, or closed."""
    if sys.stdout is None:
        raise UserError(f"{option}: stdout is closed; name a file.")
    if sys.stdout.isatty():
        raise UserError(f"{option}: that is this terminal; name a file, or send it to a program with |.")
    return sys.stdout.buffer


def print_json(value: Any) -> None:
    """One JSON value on stdout: no NaN, which JSON has not, and nothing that a terminal would obey."""
    import json

    unicode = (getattr(sys.stdout, "encoding", None) or "ascii").lower().startswith("utf")
    line = json.dumps(_without_nan(value), ensure_ascii=not unicode, default=str, allow_nan=False)
    print(json_safe(line))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list | tuple) else value


def plain_data(value: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(value)


def key_value(word: str, option: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{option} {word}: write it as name=value.")
    return key, value


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


def short(path: Path) -> str:
    """As seen from here, where that is shorter."""
    here = current_folder()
    return str(path.relative_to(here)) if here is not None and path.is_relative_to(here) else str(path)
