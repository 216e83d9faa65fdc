"""How an engine reports what it does, and how it is stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


class Stopped(Exception):
    """The work was asked to stop; everything finished so far is stored."""


@dataclass(frozen=True)
class Progress:
    """How far a stage is. ``tokens`` and ``seconds`` are of this process, in this stage."""

    stage: str
    done: int
    total: int
    tokens: int
    seconds: float
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class Reporter(Protocol):
    """A face that wants to know while it happens; the store gets the same facts."""

    def progress(self, progress: Progress) -> None:
        """How far a stage is."""

    def event(self, level: str, message: str) -> None:
        """One sentence; ``level`` is info, warning or error."""
