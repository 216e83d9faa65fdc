"""What goes between the engine's process and a worker's: plain data, and nothing that knows Ray."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from srtui.errors import UserError
from srtui.models import file_sha256

MODELS = "SRTUI_MODELS"
"""The environment variable that names a node's own models/, where it is another path there."""


@dataclass(frozen=True)
class ModelFiles:
    """A model as the engine's process has it: ``path`` there, ``name`` in its models/, and the sha256 of each file,
    "" being the model itself where it is one file."""

    path: Path
    name: str
    sha256: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, path: Path) -> ModelFiles:
        """The model at ``path``: a file, or a folder's weights, configuration and tokenizer."""
        if path.is_file():
            return cls(path, path.name, (("", file_sha256(path)),))
        files = sorted(
            p for p in path.iterdir() if p.is_file() and p.suffix in (".safetensors", ".json", ".jinja")
        )
        return cls(path, path.name, tuple((p.name, file_sha256(p)) for p in files))

    def find(self, node: str) -> Path:
        """The model on this node, every file of it checked. Raises UserError with the sentence that says which node
        lacks what."""
        own = os.environ.get(MODELS)
        places = [Path(own) / self.name] if own else [self.path]
        place = next((p for p in places if p.exists()), None)
        if place is None:
            raise UserError(
                f"Node {node} lacks the model {self.name}: {places[0]} is not there; copy it to that node, or set {MODELS} "
                "to its models folder before Ray is started on it."
            )
        for name, expected in self.sha256:
            file = place / name if name else place
            if not file.is_file():
                raise UserError(f"Node {node} lacks {file}, a file of the model {self.name}; copy it there.")
            try:
                own_sha256 = file_sha256(file)
            except OSError as error:
                raise UserError(
                    f"Node {node} cannot read {file} ({error.strerror or error}); it is a file of the model {self.name}: make it readable there."
                ) from error
            if own_sha256 != expected:
                raise UserError(
                    f"Node {node} has another {file} than this machine: its sha256 begins with {own_sha256[:12]} there and with "
                    f"{expected[:12]} here; copy the model {self.name} anew."
                )
        return place


@dataclass(frozen=True)
class ShippedFolder:
    """Small files that lie in no models/ (an adapter), sent along: name and bytes of each."""

    files: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, path: Path) -> ShippedFolder:
        """The file at ``path``, or the files in that folder."""
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
        return cls(tuple((p.name, p.read_bytes()) for p in files))

    @cached_property
    def _address(self) -> str:
        total = hashlib.sha256()
        for name, content in self.files:
            total.update(f"{name} {len(content)}\n".encode() + content)
        return total.hexdigest()[:32]

    def unpack(self) -> Path:
        """The folder with these files on this node; it goes with this process."""
        folder = Path(tempfile.mkdtemp(prefix="srtui-shipped-"))
        _kept.append(folder)
        for name, content in self.files:
            (folder / Path(name).name).write_bytes(content)
        return folder


_kept: list[Path] = []


class Whereabouts(NamedTuple):
    """Where a worker's process is, and what stands there: srtui's version, and whether its Ray asks for a token."""

    node: str
    pid: int
    version: str
    has_token: bool


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker says of itself once its model is open. ``same`` has to be equal in all workers of a pool: what is
    written or computed depends on it. ``more`` is its job's own."""

    node: str
    pid: int
    device: str
    same: Any
    more: dict[str, Any]
    window: int


@dataclass(frozen=True)
class WorkDone:
    """How much a worker has done since it was opened, and what it is at. ``moved`` grows with every bit of progress."""

    moved: int = 0
    prompt_tokens: int = 0
    saved_tokens: int = 0
    new_tokens: int = 0
    slots: int = 0
    slots_in_use: int = 0
    waiting: int = 0
    live_ticket: int | None = None
    live_text: str = ""


@dataclass(frozen=True)
class Reply:
    """What has come of a worker's tasks: (ticket, part, result). ``error`` is the sentence of what went wrong, after
    which the worker does nothing more; ``is_final`` where it would go wrong again."""

    results: Sequence[tuple[int, int, Any]] = ()
    done: WorkDone = field(default_factory=WorkDone)
    error: str | None = None
    is_final: bool = False
