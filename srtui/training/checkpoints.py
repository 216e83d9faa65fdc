"""Checkpoints as folders: written beside their place, flushed to the disk, renamed; known by hashes.

A folder's manifest, written last, holds the hash of every other file, and the fingerprint of the
training that it belongs to. Tensors are safetensors and the rest is JSON: nothing that is read back
can run code.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtui.atomic import sha256_of
from srtui.errors import UserError

_MANIFEST = "manifest.json"
_TENSOR, _MAP, _LIST = "tensor", "map", "list"


@dataclass(frozen=True)
class WrittenCheckpoint:
    """``seconds`` is how long writing took, with the flush to the disk."""

    step: int
    path: Path
    bytes: int
    seconds: float


def write(root: Path, step: int, fingerprint: str, fill: Callable[[Path], None]) -> WrittenCheckpoint:
    """A checkpoint of ``step`` in ``root``; ``fill`` puts its files into the folder that it is given.

    Raises OSError, or what the library that writes the weights has for it (SafetensorError, RuntimeError), where the
    disk is full, and leaves nothing that could be taken for a checkpoint.

    Args:
        root: the folder of checkpoints.
        step: after which it is.
        fingerprint: of the training.
        fill: writes its files.
    """
    began = time.monotonic()
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"step-{step:07d}"
    part = root / f"{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        return _written(part, target, step, fingerprint, fill, began)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _written(
    part: Path, target: Path, step: int, fingerprint: str, fill: Callable[[Path], None], began: float
) -> WrittenCheckpoint:
    fill(part)
    files = {p.name: {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in sorted(part.iterdir())}
    manifest = {"step": step, "fingerprint": fingerprint, "files": files}
    (part / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*part.iterdir(), part]:
        _flush(path)
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
    _flush(target.parent)
    size = sum(p.stat().st_size for p in target.iterdir())
    return WrittenCheckpoint(step, target, size, time.monotonic() - began)


def newest(
    root: Path, fingerprint: str, refused: Callable[[int, str], None] = lambda step, why: None
) -> tuple[int, Path] | None:
    """The step and folder of the newest whole checkpoint of this training; ``refused`` is called with the
    newer ones that were passed over, and why."""
    for step, path in reversed(_all(root)):
        why = fault(path, fingerprint)
        if why is None:
            return step, path
        refused(step, why)
    return None


def fault(path: Path, fingerprint: str) -> str | None:
    """Why a checkpoint cannot be used; None where it can."""
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        if manifest["fingerprint"] != fingerprint:
            return "it belongs to other samples or settings"
        for name, expected in manifest["files"].items():
            if (path / Path(name).name).stat().st_size != expected["bytes"]:
                return f"{name} has another size than it was written with"
            if sha256_of(path / Path(name).name) != expected["sha256"]:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError) as error:
        return f"its manifest cannot be read ({error})"
    return None


def prune(root: Path, keep: int) -> list[int]:
    """Remove all but the newest ``keep`` (at least 1), and what a kill left half-written; returns the steps removed."""
    for path in root.glob("step-*.part"):
        shutil.rmtree(path, ignore_errors=True)
    surplus = _all(root)[:-keep]
    for _, path in surplus:
        # The manifest first: what a kill leaves of a removal is then no checkpoint.
        (path / _MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    return [step for step, _ in surplus]


def discard_after(root: Path, step: int) -> None:
    """Remove what lies in the way of a training that resumes after ``step``: newer ones, all unusable."""
    for saved_step, path in _all(root):
        if saved_step > step:
            (path / _MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def _all(root: Path) -> list[tuple[int, Path]]:
    return sorted(
        (int(p.name.removeprefix("step-")), p)
        for p in root.glob("step-*")
        if p.name.removeprefix("step-").isdecimal()
    )


# -- state that is tensors in a nest of dictionaries, as optimizers have it ------------------------


def save_state(state: Any, stem: Path) -> None:
    """``state`` (dictionaries, lists, tensors, numbers, words) as STEM.safetensors and STEM.json."""
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    skeleton = _without_tensors(state, tensors)
    save_file(tensors, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(skeleton))


def load_state(stem: Path) -> Any:
    """What ``save_state`` saved, bit for bit; tuples come back as lists."""
    from safetensors.torch import load_file

    tensors = load_file(stem.with_suffix(".safetensors"))
    return _with_tensors(json.loads(stem.with_suffix(".json").read_text()), tensors)


def _without_tensors(value: Any, tensors: dict[str, Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):  # as pairs: keys may be numbers, which JSON would make words of
        return {_MAP: [[key, _without_tensors(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {_LIST: [_without_tensors(item, tensors) for item in value]}
    return value


def _with_tensors(value: Any, tensors: dict[str, Any]) -> Any:
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _MAP in value:
        return {key: _with_tensors(item, tensors) for key, item in value[_MAP]}
    return [_with_tensors(item, tensors) for item in value[_LIST]]


def _flush(path: Path) -> None:
    """To the disk itself: a rename can otherwise outlive the data that it names in a power cut."""
    if path.is_file():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    elif os.name != "nt":  # Windows cannot open a folder
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def failure_words(error: Exception) -> str:
    """What the system said when a file could not be written, whichever library passes it on; one line."""
    message = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    return message.split("\n")[0][:200]
