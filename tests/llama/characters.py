"""A vocabulary of characters, for sequences without a model."""

from __future__ import annotations

END = 0
THINK, END_OF_THINKING = 1, 2
PIECES = {10: b"the ", 11: "é".encode()[:1], 12: "é".encode()[1:], 13: b"Stop."}


class Characters:
    """A token is a character, or one of PIECES; 0 ends a turn."""

    end_of_thinking = (END_OF_THINKING,)

    def tokenize(self, text: str) -> list[int]:
        return [ord(c) + 100 for c in text]

    def spelling(self, token: int) -> bytes:
        if token in (THINK, END_OF_THINKING):
            return (b"<think>", b"</think>")[token - THINK]
        return PIECES[token] if token in PIECES else chr(token - 100).encode()

    def ends_turn(self, token: int) -> bool:
        return token == END


LETTERS = Characters()
