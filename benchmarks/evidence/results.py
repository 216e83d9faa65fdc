"""What is done, one line of JSON each, kept as it comes: a kill loses the part in hand."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Budget = Literal["steps", "tokens"]
"""What the arms have equal of: optimizer steps, or tokens through the student in training."""


@dataclass(frozen=True)
class Part:
    """One arm trained and measured, or the student before any training (arm ``untuned``).

    Attributes:
        key: of all that it depends on.
        student: its name.
        size: how much was done, and how the student's weights were held.
        replay: which rewrites.
        arm: which way to choose.
        budget: what the arms have equal of.
        seed: of drawing, order and dropout.
        steps: optimizer steps.
        tokens: through the student in training.
        samples: that could be trained on.
        taken: how many of these are rewrites.
        right: by GPT-4's word, how many of the choices took the better answer; None where nobody said.
        characters: of a trained answer, on the mean.
        losses: L(y|x) of the third model's answers, nats a token, in the held-out prompts' order; None where none.
        choices: by task, 1 for each question that was answered right.
    """

    key: str
    student: str
    size: dict[str, Any]
    replay: str
    arm: str
    budget: Budget
    seed: int
    steps: int = 0
    tokens: int = 0
    samples: int = 0
    taken: int = 0
    right: int | None = None
    characters: float = 0.0
    losses: list[float | None] = field(default_factory=list)
    choices: dict[str, list[float]] = field(default_factory=dict)


class Results:
    """The parts in a file of JSON lines; the last line of a process that was killed in it is forgotten."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts = {part.key: part for part in self._read()}

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    def __contains__(self, key: str) -> bool:
        return key in self._parts

    def __getitem__(self, key: str) -> Part:
        return self._parts[key]

    def add(self, part: Part) -> None:
        """Keep a part; it is on the disk when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(json.dumps(asdict(part)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._parts[part.key] = part

    def _read(self) -> list[Part]:
        if not self._path.exists():
            return []
        whole = self._path.read_bytes()
        lines = whole[: whole.rfind(b"\n") + 1]
        if len(lines) < len(whole):
            os.truncate(self._path, len(lines))
        return [Part(**json.loads(line)) for line in lines.splitlines()]
