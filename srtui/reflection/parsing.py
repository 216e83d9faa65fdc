"""What the teacher wrote, read leniently: small models rarely write the markers as asked.

The rule that keeps this honest: whatever is returned is a substring of what was written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# A marker is bracketed anywhere, or stands at the start of a line with a colon. "End" counts only in
# brackets: as a bare word it ends answers about the endocrine system.
_DECORATION = r"[ \t>*#_`\-]*(?:\d{1,2}[.)][ \t]*)?[ \t*_`]*"
_NAMES = r"(?:the[ \t]+)?(?:new|better|improved|revised)[ \t]+(instruction|answer|response)"
_MARKER = re.compile(
    rf"\[[ \t]*{_NAMES}[ \t]*\][ \t]*:?[*_]*"
    rf"|^{_DECORATION}{_NAMES}[ \t]*[*_]*[ \t]*:[*_]*"
    r"|(\[[ \t]*/?[ \t]*end(?:[ \t]+of[ \t]+[a-z \t]{1,20})?[ \t]*\])"
    r"|(\[[ \t]*/[ \t]*[a-z \t]{1,24}\])",
    re.IGNORECASE | re.MULTILINE,
)
_PLACEHOLDER = re.compile(
    r"[\s\[\]<>{}(),.*_'\"`-]*"
    r"(?:(?:(?:insert|write|put|enter|add)\s+)?(?:your|the|a|my)?\s*(?:new|better|improved|revised|complete|correct)?\s*"
    r"(?:and\s+correct\s+)?(?:instruction|answer|response|input|text)s?"
    r"(?:\s+(?:to\s+(?:the|your)\s+(?:new\s+)?instruction|goes|here|below|is|follows))*)?"
    r"[\s\[\]<>{}(),.:*_'\"`-]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Parsed:
    """A usable rewrite: ``instruction`` is None where only the response was asked for."""

    critique: str
    instruction: str | None
    response: str


@dataclass(frozen=True)
class Unparsed:
    """Why there is no usable rewrite; a short fixed word for counting."""

    reason: str


@dataclass(frozen=True)
class _Section:
    name: str
    text: str
    start: int


def parse_free(text: str, *, wants_instruction: bool, fixed_lines: Sequence[str] = ()) -> Parsed | Unparsed:
    """Read one free generation (the paper's way).

    Of several sections with the same marker the first usable one counts: what stands before it is
    usually the model repeating the format it was asked for.
    """
    sections = _sections(text)
    response = _first_usable(sections, "response", fixed_lines)
    if not wants_instruction:
        if isinstance(response, Unparsed):
            return response
        return Parsed(_critique(text, sections), None, response)
    instruction = _first_usable(sections, "instruction", fixed_lines)
    if isinstance(instruction, Unparsed):
        return instruction
    if isinstance(response, Unparsed):
        return response
    return Parsed(_critique(text, sections), instruction, response)


def parse_guided(
    written: Sequence[str], *, wants_instruction: bool, fixed_lines: Sequence[str] = ()
) -> Parsed | Unparsed:
    """Read the segments of a guided generation: critique, then the instruction if wanted, then the
    answer. The engine put the markers; what the model wrote may still hold some of its own."""
    if len(written) < (3 if wants_instruction else 2):
        return Unparsed("cut_short")
    critique, *rest = written
    texts: list[str] = []
    for name, text in zip(
        ["instruction", "response"] if wants_instruction else ["response"], rest, strict=False
    ):
        usable = _usable(_before_marker(text, name), fixed_lines)
        if isinstance(usable, Unparsed):
            return Unparsed(f"{usable.reason}_{name}" if usable.reason == "empty" else usable.reason)
        texts.append(usable)
    return Parsed(critique.strip(), texts[0] if wants_instruction else None, texts[-1])


def _sections(text: str) -> list[_Section]:
    found: list[_Section] = []
    marks = list(_MARKER.finditer(text))
    ends = [m.start() for m in marks[1:]] + [len(text)]
    for here, end in zip(marks, ends, strict=False):
        name = (here.group(1) or here.group(2) or "").lower()
        if not name:
            continue  # [End] opens nothing
        found.append(_Section("response" if name == "answer" else name, text[here.end() : end], here.start()))
    return found


def _before_marker(text: str, name: str) -> str:
    """What stands before the next marker; a marker that only repeats the one already put is skipped."""
    marks = list(_MARKER.finditer(text))
    if marks and not text[: marks[0].start()].strip():
        own = (marks[0].group(1) or marks[0].group(2) or "").lower()
        if ("response" if own == "answer" else own) == name:
            return text[marks[0].end() : marks[1].start() if len(marks) > 1 else len(text)]
    return text[: marks[0].start()] if marks else text


def _first_usable(sections: Sequence[_Section], name: str, fixed_lines: Sequence[str]) -> str | Unparsed:
    why = Unparsed(f"no_{name}")
    for section in sections:
        if section.name == name:
            usable = _usable(section.text, fixed_lines)
            if isinstance(usable, str):
                return usable
            why = Unparsed(f"{usable.reason}_{name}" if usable.reason == "empty" else usable.reason)
    return why


def _usable(text: str, fixed_lines: Sequence[str]) -> str | Unparsed:
    """The text without the white space and quotes around it, or why it is no text at all."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        text = text[1:-1].strip()
    if not text:
        return Unparsed("empty")
    if _PLACEHOLDER.fullmatch(text[:200]) and len(text) <= 200:
        return Unparsed("placeholder")
    if any(line in text for line in fixed_lines):
        return Unparsed("echo")
    return text


def _critique(text: str, sections: Sequence[_Section]) -> str:
    return text[: sections[0].start].strip() if sections else text.strip()
