"""Word by word, what a rewrite changed: for the dashboard and for reports."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import NamedTuple

# A letter of a script without spaces is a word of its own.
_WORD = re.compile(
    r"[\u2e80-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W\u2e80-\u9fff\u3040-\u30ff\uac00-\ud7af]+|\s+|[^\w\s]"
)
_MOST_WORDS = 6000
_ALIKE = 0.2


class Part(NamedTuple):
    """A stretch of text; ``changed`` where the other side has it not."""

    text: str
    changed: bool


def word_parts(before: str, after: str) -> tuple[list[Part], list[Part]] | None:
    """Both texts in stretches, joined again equal to themselves; changed in ``before`` is gone, in
    ``after`` new.

    None where next to nothing is common to both: marking every word would say nothing. Takes a
    moment for long texts.
    """
    old, new = _WORD.findall(before), _WORD.findall(after)
    if not old or not new or len(old) + len(new) > _MOST_WORDS:
        return None
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    common = sum(len("".join(old[a : a + n]).strip()) for a, _, n in matcher.get_matching_blocks())
    if common < _ALIKE * min(len(before), len(after)):
        return None
    left: list[Part] = []
    right: list[Part] = []
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        removed, added = "".join(old[a0:a1]), "".join(new[b0:b1])
        if removed:
            left.append(Part(removed, tag != "equal"))
        if added:
            right.append(Part(added, tag != "equal"))
    return left, right
