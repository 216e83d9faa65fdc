"""Where a command's results go: lines and JSON on stdout, data into files that it may write."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from srtui.cli.documents import JSON_VERSION, check_keys
from srtui.errors import UserError
from srtui.files import current_folder
from srtui.text import json_safe, safe
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.store import Store
    from srtui.store.outputs import Outputs


def print_line(text: str = "", *, to: TextIO | None = None) -> None:
    """A line on stdout, or ``to`` another stream: fit for a terminal, whatever names and paths are in it."""
    print(safe(text), file=to or sys.stdout, flush=True)


def print_json(type_: str, value: Any, *, to: TextIO | None = None) -> None:
    """One JSON document on stdout, or ``to`` another stream: of a dataclass its fields, with no NaN, which JSON has
    not, and nothing that a terminal would obey. ``type_`` is of srtui.cli.documents, which has its keys."""
    import json

    stream = to or sys.stdout
    fields = fields_of(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    check_keys(type_, fields)
    document = {"srtui_json": JSON_VERSION, "type": type_, **fields}
    unicode = (getattr(stream, "encoding", None) or "ascii").lower().startswith("utf")
    line = json.dumps(_json_value(document), ensure_ascii=not unicode, default=str, allow_nan=False)
    print(json_safe(line), file=stream, flush=True)


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _json_value(fields_of(value))
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    return [_json_value(item) for item in value] if isinstance(value, list | tuple) else value


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, to put others beside them; what they hold stays as it is."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


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


def short(path: Path) -> str:
    """As seen from here, where that is shorter."""
    folder = current_folder()
    return str(path.relative_to(folder)) if folder is not None and path.is_relative_to(folder) else str(path)
