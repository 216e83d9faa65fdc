"""Text from data, made fit for a screen: what a terminal would obey, hide or reorder becomes visible.

The set is Unicode's own: control characters, format characters (direction overrides and isolates, zero
width space, soft hyphen, tags), line and paragraph separators, surrogates, private use and
noncharacters. Three things of these are part of how people write, and stay where writing needs them:

- ZERO WIDTH JOINER and NON-JOINER behind a letter of a script that joins its letters (Persian, Hindi),
  and the joiner between two emoji;
- variation selectors, behind the character that they select a form of;
- the tags of the flags of England, Scotland and Wales.

Anywhere else, the same characters can only hide something, and are shown.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
# Format characters that have a shape of their own, in front of Arabic, Syriac and Kaithi numbers.
_SHAPED = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
# Letters and marks without any shape: Hangul fillers, the grapheme joiner, Khmer's inherent vowels.
_SHAPELESS = frozenset("\u115f\u1160\u3164\uffa0\u034f\u17b4\u17b5\u2065\u180b\u180c\u180d\u180f")
_JOINING = frozenset(
    [
        "ADLAM",
        "ARABIC",
        "BALINESE",
        "BENGALI",
        "CHAKMA",
        "DEVANAGARI",
        "GUJARATI",
        "GURMUKHI",
        "JAVANESE",
        "KANNADA",
        "KHMER",
        "MALAYALAM",
        "MANDAIC",
        "MONGOLIAN",
        "MYANMAR",
        "NKO",
        "ORIYA",
        "PHAGS-PA",
        "SINHALA",
        "SYRIAC",
        "TAMIL",
        "TELUGU",
        "TIBETAN",
    ]
)
_FLAGS = tuple(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in land) + "\U000e007f"
    for land in ("gbeng", "gbsct", "gbwls")
)


def safe(text: str) -> str:
    """``text`` fit for a screen: what would be obeyed, hidden or reordered becomes a visible sign (see
    the module); new lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    hidden = "".join(c for c in set(text) if _is_hidden(c))
    if not hidden:
        return text
    return re.sub(f"[{re.escape(hidden)}]", _sign, text)


def json_safe(text: str) -> str:
    """A JSON text with the same characters escaped as JSON escapes them; a parser reads the same value.

    Nothing is kept for writing's sake: it costs a reader of JSON nothing.
    """
    if text.isascii() and text.isprintable():
        return text
    hidden = "".join(c for c in set(text) if _is_hidden(c))
    if not hidden:
        return text
    return re.sub(f"[{re.escape(hidden)}]", lambda m: _json_escape(m[0]), text)


def _json_escape(c: str) -> str:
    code = ord(c)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _sign(match: re.Match[str]) -> str:
    c = match[0]
    if _is_needed(match.string, match.start()):
        return c
    return chr(0x2400 + ord(c)) if ord(c) < 0x20 else f"<{ord(c):04x}>"


@lru_cache(4096)
def _is_hidden(c: str) -> bool:
    if c in "\n\t" or c in _SHAPED:
        return False
    code = ord(c)
    return (
        unicodedata.category(c) in _HIDDEN
        or c in _SHAPELESS
        or _is_selector(c)
        or 0xFDD0 <= code <= 0xFDEF
        or code & 0xFFFE == 0xFFFE
        or 0xE0000 <= code <= 0xE0FFF
    )


def _is_selector(c: str) -> bool:
    return "\ufe00" <= c <= "\ufe0f" or "\U000e0100" <= c <= "\U000e01ef"


def _is_needed(text: str, position: int) -> bool:
    """Whether the hidden character at ``position`` is part of how its neighbours are written."""
    c, before, after = text[position], text[position - 1 : position], text[position + 1 : position + 2]
    if not before:
        return False
    if _is_selector(c):
        if c >= "\U000e0100":
            return unicodedata.name(before, "").startswith("CJK")
        return (
            not _is_hidden(before)
            and not before.isspace()
            and (not before.isascii() or before in "0123456789#*")
        )
    if c in "\u200c\u200d" and unicodedata.name(before, "").split(" ")[0] in _JOINING:
        return True
    if c == "\u200d":
        return _is_emoji(before) and _is_emoji(after)
    if 0xE0000 <= ord(c) <= 0xE007F:
        begins = text.rfind("\U0001f3f4", max(0, position - 6), position)
        return begins >= 0 and text.startswith(_FLAGS, begins)
    return False


def _is_emoji(c: str) -> bool:
    return c == "\ufe0f" or (
        c != "" and (unicodedata.category(c) == "So" or "\U0001f3fb" <= c <= "\U0001f3ff")
    )


# -- words -----------------------------------------------------------------------------------------


def without_marks(text: str) -> str:
    """``text`` without combining marks and soft hyphens, which ``\\w`` of :mod:`re` takes for the ends of words: the vowel
    signs of Hindi, Tamil and their like, and of pointed Arabic and Hebrew, stand within words."""
    if text.isascii():
        return text
    marks = {ord(c) for c in set(text) if c == "\u00ad" or unicodedata.category(c)[0] == "M"}
    return text.translate(dict.fromkeys(marks)) if marks else text


# -- numbers ---------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """A number of seconds as 1 h 02 min, 3 min 20 s or 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_text(count: float) -> str:
    """A count of bytes in decimal units: 512 B, 9.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def number(value: float | None, digits: int = 3) -> str:
    """``value`` with that many decimals; - where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in whole per cent; - of nothing."""
    return f"{part / whole:.0%}" if whole else "-"
