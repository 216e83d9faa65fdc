"""The text unit that everything else is about."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple

from srtui.hashing import digest

__all__ = ["Pair", "Role", "Target", "Turn", "digest", "history_digest", "pair_digest"]

Target = Literal["instruction", "response"]
"""Which side of a pair is rewritten. (A stage is a step of the loop, such as ``reflect-instruction``.)"""

Role = Literal["system", "user", "assistant"]
"""Whose turn of a conversation it is."""


class Turn(NamedTuple):
    """One turn of a conversation."""

    role: Role
    text: str


class Pair(NamedTuple):
    """One instruction-response pair (x, y); x is the instruction with its optional input.

    ``history`` (h) is what came before it in its conversation: system text and turns, which no rewrite
    changes. It is empty for all that was not imported as a conversation.
    """

    instruction: str
    input: str
    response: str
    history: tuple[Turn, ...] = ()

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
