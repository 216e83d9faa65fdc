"""How an engine reports what it does, and how it is stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

SURE_FROM = 8
"""How many samples have to be finished before the time that is left is said: of fewer its interval is too wide."""
Report = Callable[[str, str], None]
"""Gets a level (info, warning or error) and a sentence."""


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


def time_left(finished: int, seconds: float, left: int) -> tuple[float, float]:
    """Between how many seconds and how many ``left`` more samples take, as 95 % interval.

    Samples end as in a Poisson process, so the true rate lies between (sqrt(k) -+ 0.98)^2 / seconds for ``finished``
    = k (Anscombe 1948, the square root that steadies the variance); what is left varies likewise and is far more.

    Raises:
        ValueError: where nothing is finished: there is no rate.
    """
    if finished < 1 or seconds < 0 or left < 0:
        raise ValueError("no rate without a finished sample")
    slow, fast = (math.sqrt(finished) - 0.98) ** 2, (math.sqrt(finished) + 0.98) ** 2
    return left * seconds / fast, left * seconds / slow if slow else math.inf


def left_words(finished: int, seconds: float, left: int) -> str:
    """The same in words, as 3 min to 5 min left; nothing where too few are finished to say, or nothing is left."""
    if left <= 0 or finished < SURE_FROM or seconds <= 0:
        return ""
    low, high = (_rounded(s) for s in time_left(finished, seconds, left))
    return f"{low} left" if low == high else f"{low} to {high} left"


def _rounded(seconds: float) -> str:
    """In the coarsest unit that still says it: an interval has no use for more."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return (
                f"{seconds / size:.0f} {unit}"
                if seconds >= 10 * size
                else f"{seconds / size:.1f} {unit}".replace(".0 ", " ")
            )
    return f"{seconds:.0f} s"
