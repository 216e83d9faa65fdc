"""Word by word, what a rewrite changed, as it looks on a screen."""

from __future__ import annotations

from textual.content import Content

from srtui.tui.widgets.words import shown
from srtui.worddiff import word_parts


def word_diff(before: str, after: str) -> tuple[Content, Content] | None:
    """``before`` with what is gone struck through, ``after`` with what is new underlined; None where
    ``word_parts`` is. Call it off the event loop."""
    parts = word_parts(before, after)
    if parts is None:
        return None
    left, right = parts
    return (
        Content("").join(shown(text, "strike $text-error" if removed else "") for text, removed in left),
        Content("").join(shown(text, "underline $text-success" if added else "") for text, added in right),
    )
