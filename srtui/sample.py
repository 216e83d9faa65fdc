"""The text unit that everything else is about."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple


class Pair(NamedTuple):
    """One instruction-response pair (x, y); x is the instruction with its optional input."""

    instruction: str
    input: str
    response: str

    @property
    def digest(self) -> bytes:
        """16-byte content address of the three texts."""
        return digest(self.instruction, self.input, self.response)


def digest(*parts: str | bytes | int | float | None) -> bytes:
    """16-byte BLAKE2b of the parts, each length-prefixed so that no two lists of parts collide."""
    h = blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, str):
            part = part.encode("utf-8", "surrogatepass")
        elif not isinstance(part, bytes):
            part = repr(part).encode()
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.digest()
