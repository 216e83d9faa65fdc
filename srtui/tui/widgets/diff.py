"""Word by word, what a rewrite changed."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from textual.content import Content

from srtui.tui.widgets.words import shown

# A letter of a script without spaces is a word of its own.
_WORD = re.compile(
    r"[\u2e80-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W\u2e80-\u9fff\u3040-\u30ff\uac00-\ud7af]+|\s+|[^\w\s]"
)
_MOST_WORDS = 6000
_ALIKE = 0.2


def word_diff(before: str, after: str) -> tuple[Content, Content] | None:
    """``before`` with what is gone struck through, ``after`` with what is new underlined.

    None where next to nothing is common to both: marking every word would say nothing. Takes a
    moment for long texts; call it off the event loop.
    """
    old, new = _WORD.findall(before), _WORD.findall(after)
    if not old or not new or len(old) + len(new) > _MOST_WORDS:
        return None
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    common = sum(len("".join(old[a : a + n]).strip()) for a, _, n in matcher.get_matching_blocks())
    if common < _ALIKE * min(len(before), len(after)):
        return None
    left: list[Content] = []
    right: list[Content] = []
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        gone, come = "".join(old[a0:a1]), "".join(new[b0:b1])
        same = tag == "equal"
        if gone:
            left.append(shown(gone, "" if same else "strike $text-error"))
        if come:
            right.append(shown(come, "" if same else "underline $text-success"))
    return Content("").join(left), Content("").join(right)
