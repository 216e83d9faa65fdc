"""The text unit that everything else is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, NamedTuple, overload

from srtui.hashing import digest

__all__ = ["History", "Pair", "Role", "Target", "Turn", "digest", "history_digest", "pair_digest"]

Target = Literal["instruction", "response"]
"""Which side of a pair is rewritten. (A stage is a step of the loop, such as ``reflect-instruction``.)"""

Role = Literal["system", "user", "assistant"]
"""Whose turn of a conversation it is."""


class Turn(NamedTuple):
    """One turn of a conversation."""

    role: Role
    text: str


class History(Sequence[Turn]):
    """The first ``length`` turns of a conversation, equal to the tuple of them. The turns are shared by all
    exchanges of it: tuples of their own would grow with the square of their number."""

    __slots__ = ("_length", "_turns")

    def __init__(self, turns: Sequence[Turn], length: int) -> None:
        self._turns, self._length = turns, min(length, len(turns))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Turn, ...]: ...
    def __getitem__(self, index: int | slice) -> Turn | tuple[Turn, ...]:
        places = range(self._length)[index]
        return self._turns[places] if isinstance(places, int) else tuple(self._turns[n] for n in places)

    def __iter__(self) -> Iterator[Turn]:
        return islice(self._turns, self._length)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, History) and other._turns is self._turns:
            return other._length == self._length
        if isinstance(other, History | tuple):
            return len(other) == self._length and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)  # another process gets no more than these turns

    def __repr__(self) -> str:
        return repr(tuple(self))


class Pair(NamedTuple):
    """One instruction-response pair (x, y); x is the instruction with its optional input.

    ``history`` (h) is what came before it in its conversation: system text and turns, which no rewrite
    changes. It is empty for all that was not imported as a conversation.
    """

    instruction: str
    input: str
    response: str
    history: Sequence[Turn] = ()

    @property
    def texts(self) -> tuple[str, str, str]:
        """Instruction, input and response: what a rewrite may change."""
        return self.instruction, self.input, self.response

    @property
    def digest(self) -> bytes:
        """16-byte content address of the texts, and of the history where there is one."""
        return _digest_of(self)


def history_digest(history: Iterable[Turn], before: bytes | None = None) -> bytes | None:
    """16-byte content address of these turns, None where there are none. That of a longer history follows from
    that of its beginning, which is given as ``before``."""
    for turn in history:
        before = digest(before, turn.role, turn.text)
    return before


def pair_digest(instruction: str, input: str, response: str, history: bytes | None = None) -> bytes:
    """16-byte content address of the texts of a pair; without a history it is what it was before pairs had any.

    Args:
        instruction: x without its input.
        input: of x; empty where it has none.
        response: y.
        history: the digest of h (:func:`history_digest`).
    """
    if history is None:
        return digest(instruction, input, response)
    return digest(instruction, input, response, history)


@lru_cache(512)  # a sample's keys, seeds and choices ask for it one after the other
def _digest_of(pair: Pair) -> bytes:
    return pair_digest(*pair.texts, history_digest(pair.history))
