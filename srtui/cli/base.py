"""What the commands share: the app, the store of this workspace, how a result is printed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srtui.errors import UserError
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


def open_store(read_only: bool = False) -> tuple[Workspace, Store]:
    from srtui.store import Store

    workspace = Workspace.find()
    return workspace, Store(workspace.store_path, read_only=read_only)


def outputs_of(store: Store, workspace: Workspace) -> Outputs:
    """What decides whether a command may write a file."""
    from srtui.store.outputs import Outputs

    return Outputs(store, workspace.models, workspace.recipes)


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, ensure_ascii=False, default=str))


def plain_data(value: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(value)


def key_value(word: str, option: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{option} {word}: write it as name=value.")
    return key, value


def stop_on_signals() -> Any:
    """Ctrl-C once finishes the step and stores it; twice stops at once, which the store survives."""
    import threading

    stop = threading.Event()

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        os.write(2, b"\nStopping after this step; press Ctrl-C again to stop at once.\n")

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop


def short(path: Path) -> str:
    """As seen from here, where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
