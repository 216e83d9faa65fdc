"""The text unit that everything else is about."""

from __future__ import annotations

from typing import NamedTuple

from srtui.hashing import digest

__all__ = ["Pair", "digest"]


class Pair(NamedTuple):
    """One instruction-response pair (x, y); x is the instruction with its optional input."""

    instruction: str
    input: str
    response: str

    @property
    def digest(self) -> bytes:
        """16-byte content address of the three texts."""
        return digest(self.instruction, self.input, self.response)
