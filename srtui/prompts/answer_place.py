"""What a chat template writes around data: before and behind an answer, and in all."""

from __future__ import annotations

from srtui.chat_template import ChatTemplate

Piece = tuple[str, bool]
"""A part of a prompt, and whether it is data."""


def around_answer(chat: ChatTemplate) -> tuple[str, str]:
    """The spaces that the template writes before an answer, and what it writes right after one, without
    white space, e.g. ("", "<|im_end|>"). Raises UserError for a template that cannot be used."""
    question = [("user", "q")]
    pieces = chat.pieces([*question, ("assistant", "a")], to_answer=False)
    answer = max(n for n, (_, is_data) in enumerate(pieces) if is_data)
    before = chat.before_answer()
    prefix = before.removeprefix(chat.text(question))
    if len(prefix) == len(before) or prefix.strip(" "):
        prefix = ""  # the template writes more than spaces there: that is the template's, not an answer's
    return prefix, pieces[answer + 1][0].strip() if answer + 1 < len(pieces) else ""


def markup(chat: ChatTemplate) -> str:
    """All that the template itself writes around a plain conversation."""
    turns = [("user", "q"), ("assistant", "a"), ("user", "q")]
    marks = [text for text, is_data in chat.pieces(turns) if not is_data]
    return "\n".join([*marks, *(chat.without_thought or ())])
