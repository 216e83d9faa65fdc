"""Does a rewrite talk about the task it was given, instead of being what was asked for?

A small teacher writes "The new instruction only asks for ..." where the new instruction should stand. Such a text
parses, and may even score well. It is found by its words, which a text of the data set rarely has; where the
original has them too, they are its own.
"""

from __future__ import annotations

import re

_WHICH = (
    r"(?:new|revised|rewritten|improved|better|updated|original|previous|modified|refined|enhanced|reworded)"
)
_WHAT = r"(?:instruction|answer|response|prompt)s?"
_TALK = re.compile(
    rf"\b{_WHICH} (?:and \w+ )?{_WHAT}\b"
    r"|\[(?:new instruction|new answer|better answer|end)\]"
    r"|\bthe (?:above|following) (?:instruction|criticism|critique)s?\b"
    r"|\b(?:i have|i've|here is (?:the|an?|my)) (?:rewrit\w+|revis\w+|improv\w+|better)\b",
    re.IGNORECASE,
)


def talks_about_task(text: str, original: str) -> str | None:
    """The words by which ``text`` talks about rewriting; None where it does not, or where ``original`` says the
    same: then they are of the sample."""
    known = {m[0].casefold() for m in _TALK.finditer(original)}
    return next((m[0] for m in _TALK.finditer(text) if m[0].casefold() not in known), None)
