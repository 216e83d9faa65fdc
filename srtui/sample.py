"""The text unit that everything else is about."""

from __future__ import annotations

from typing import Literal, NamedTuple

from srtui.hashing import digest

__all__ = ["Pair", "Target", "digest"]

Target = Literal["instruction", "response"]
"""Which side of a pair is rewritten. (A stage is a step of the loop, such as ``reflect-instruction``.)"""


class Pair(NamedTuple):
    """One instruction-response pair (x, y); x is the instruction with its optional input."""

    instruction: str
    input: str
    response: str

    @property
    def digest(self) -> bytes:
        """16-byte content address of the three texts."""
        return digest(self.instruction, self.input, self.response)
