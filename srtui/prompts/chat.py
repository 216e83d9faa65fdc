"""A student's chat template as pieces: what the template writes, and what came from data.

Message contents are untrusted: a text that spells ``<|im_end|>`` must not end a turn. So the template
is rendered with a marker in place of each content and split at the markers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from srtui.errors import UserError

Piece = tuple[str, bool]
"""A part of a prompt, and whether it is data."""
Turn = tuple[str, str]
"""Role and content."""


class ChatLayout:
    """The chat template of a Hugging Face tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def pieces(self, turns: Sequence[Turn], *, to_answer: bool = True) -> list[Piece]:
        """``turns`` laid out, up to where the assistant begins to write if ``to_answer``.

        Joined they are what the template makes of the turns, as far as it leaves contents as they are or
        strips the white space around them; one that rewrites them gets them as they are.
        Raises UserError for a template that leaves a message out, or writes it twice.
        """
        found = self._between(turns, to_answer)
        whole = self._render(turns, to_answer)
        for strip in (False, True):
            contents = [content.strip() if strip else content for _, content in turns]
            pieces: list[Piece] = []
            for n, markup in enumerate(found):
                pieces += [(markup, False), *([(contents[n], True)] if n < len(contents) else [])]
            if strip or "".join(text for text, _ in pieces) == whole:
                break
        return [piece for piece in pieces if piece[0]]

    def around_answer(self) -> tuple[str, str]:
        """The white space that the template writes before an answer, and what it writes right after one,
        without white space, e.g. ("", "<|im_end|>")."""
        asked = [("user", "q")]
        markup = self._between([*asked, ("assistant", "a")], to_answer=False)
        before = "".join([markup[0], "q", markup[1]])
        opening = self._render(asked, to_answer=True)
        prefix = before.removeprefix(opening)
        if not before.startswith(opening) or prefix.strip(" "):
            prefix = ""  # the template writes more than spaces there: that is the template's, not an answer's
        return prefix, markup[2].strip()

    @cached_property
    def markup(self) -> str:
        """All that the template itself writes around a plain conversation."""
        turns = [("user", "q"), ("assistant", "a"), ("user", "q")]
        return "\n".join(self._between(turns, to_answer=True))

    def _between(self, turns: Sequence[Turn], to_answer: bool) -> list[str]:
        """What the template writes before, between and behind the contents."""
        marks = [f"\ue000{n}content{n}\ue001" for n in range(len(turns))]
        rest = self._render([(role, mark) for (role, _), mark in zip(turns, marks, strict=True)], to_answer)
        found = []
        for mark in marks:
            before, seen, rest = rest.partition(mark)
            if not seen or mark in rest:
                raise UserError(
                    "The student's chat template leaves a message out or writes it twice, so its text cannot be "
                    'told from data; use another prompt.template, for example "alpaca".'
                )
            found.append(before)
        return [*found, rest]

    def _render(self, turns: Sequence[Turn], to_answer: bool) -> str:
        chat = [{"role": role, "content": content} for role, content in turns]
        return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=to_answer))
