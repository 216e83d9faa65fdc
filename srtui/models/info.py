"""What a model is, as the header of its file says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from srtui.models.memory import TeacherShape


@dataclass(frozen=True)
class ModelInfo:
    """One model as its own header describes it. ``context`` is in tokens, ``size`` in bytes.

    ``shape`` is what a GGUF's memory is planned by. ``role`` is ``model``, or what else a GGUF may hold
    (``adapter``, ``mmproj``, ``vocab``, …).
    ``sha256`` is None until it is asked for; of a folder it is a hash over its weight files' hashes.
    """

    path: Path
    kind: Literal["gguf", "safetensors"]
    name: str
    role: str
    architecture: str
    parameters: int
    quantization: str
    context: int | None
    chat_template: str | None
    licence: str | None
    size: int
    sha256: str | None = None
    shape: TeacherShape | None = None


def text_or_none(value: object) -> str | None:
    """A text of a header; None for what is empty or no text."""
    return value if isinstance(value, str) and value else None
