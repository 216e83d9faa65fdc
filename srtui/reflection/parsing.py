"""What the teacher wrote, read leniently: small models rarely write the markers as asked.

Two rules keep this honest. Whatever is returned is a substring of what was written. And only our own
markers are markers: a text without them comes out as it went in, but for the white space around it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

# OwnWording: [New Instruction], [New Answer], [Better Answer], [End], in any case, perhaps bold, with a colon, or
# as a closing tag. "End" counts only in brackets: as a bare word it ends answers about the endocrine system.
_NAMES = r"(?:new[ \t]+instruction|new[ \t]+answer|better[ \t]+answer)"
_BRACKETS = rf"\[[ \t]*(?:/?[ \t]*{_NAMES}|/?[ \t]*end)[ \t]*\]"
_MARKER = re.compile(rf"\*\*{_BRACKETS}(?::?\*\*:?)|__{_BRACKETS}(?::?__:?)|{_BRACKETS}:?", re.IGNORECASE)
# The same names as a heading: "Better Answer:", "### New Answer:", "1. **New Instruction:**". An answer may
# hold such a line itself, so a heading only opens a section that no marker in brackets opens.
_DECORATION = r"[ \t>*#_`\-]*(?:\d{1,2}[.)][ \t]*)?[ \t*_`]*"
_HEADING = re.compile(
    rf"^{_DECORATION}(?:the[ \t]+)?({_NAMES})[ \t]*[*_]*[ \t]*:[*_]*", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True)
class Parsed:
    """A usable rewrite: ``instruction`` is None where only the response was asked for. ``unclosed`` are
    the parts ("instruction", "response") that no marker ends: they are as whole as the writing was."""

    critique: str
    instruction: str | None
    response: str
    unclosed: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Unparsed:
    """Why there is no usable rewrite; a short fixed word for counting."""

    reason: str


@dataclass(frozen=True)
class OwnWording:
    """Our own wording, by which a copy of the prompt is recognised: ``lines`` of it anywhere in a text,
    and the ``placeholders`` between the markers, where they are the whole of one."""

    lines: Sequence[str] = ()
    placeholders: Sequence[str] = ()

    @cached_property
    def bare_placeholders(self) -> frozenset[str]:
        """The placeholders without case and full stop, as a text is compared with them."""
        return frozenset(_bare(p) for p in self.placeholders)


@dataclass(frozen=True)
class _Mark:
    name: str  # instruction or response; empty where it opens nothing
    start: int
    end: int


@dataclass(frozen=True)
class _Section:
    name: str
    text: str
    start: int
    closed: bool


def parse_free(
    text: str, *, wants_instruction: bool, own_wording: OwnWording = OwnWording()
) -> Parsed | Unparsed:
    """Read one free generation (the paper's way).

    Of several sections with the same marker the first usable one counts: what stands before it is
    usually the model repeating the format it was asked for.
    """
    sections = _sections(text, ("instruction", "response") if wants_instruction else ("response",))
    response = _first_usable(sections, "response", own_wording)
    instruction = _first_usable(sections, "instruction", own_wording) if wants_instruction else None
    if isinstance(instruction, Unparsed):
        return instruction
    if isinstance(response, Unparsed):
        return response
    return Parsed(
        _critique(text, sections),
        instruction.text if instruction else None,
        response.text,
        _unclosed([s for s in (instruction, response) if s]),
    )


def parse_guided(
    written: Sequence[str], *, wants_instruction: bool, own_wording: OwnWording = OwnWording()
) -> Parsed | Unparsed:
    """Read the segments of a guided generation: critique, then the instruction if wanted, then the
    answer. The engine put the markers; what the model wrote may still hold some of its own."""
    names = ["instruction", "response"] if wants_instruction else ["response"]
    critique, *rest = [*written, ""]
    texts: list[_Section] = []
    for name, text in zip(names, rest, strict=False):
        section = _before_marker(text, name)
        usable = _usable(section.text, own_wording)
        if isinstance(usable, Unparsed):
            return Unparsed(f"{usable.reason}_{name}" if usable.reason == "empty" else usable.reason)
        texts.append(_Section(name, usable, 0, section.closed))
    if len(texts) < len(names):
        return Unparsed(f"no_{names[len(texts)]}")
    return Parsed(
        critique.strip(), texts[0].text if wants_instruction else None, texts[-1].text, _unclosed(texts)
    )


def placeholders(prompt: str) -> list[str]:
    """What stands between the markers of the format that a prompt asks for: "the better answer"."""
    return [section.text.strip() for section in _sections(prompt, ()) if section.text.strip()]


def _marks(text: str, headings_of: Sequence[str] = ()) -> list[_Mark]:
    """Our markers in order, and headings with these names."""
    marks = [_Mark(_opens(m[0]), m.start(), m.end()) for m in _MARKER.finditer(text)]
    for m in _HEADING.finditer(text) if headings_of else ():
        if _opens(m[1]) in headings_of:
            marks.append(_Mark(_opens(m[1]), m.start(), m.end()))
    return sorted(marks, key=lambda mark: mark.start)


def _opens(marker: str) -> str:
    if "/" in marker:
        return ""
    low = marker.lower()
    return "instruction" if "instruction" in low else "response" if "answer" in low else ""


def _sections(text: str, wanted: Sequence[str]) -> list[_Section]:
    opened = {mark.name for mark in _marks(text)}
    marks = _marks(text, [name for name in wanted if name not in opened])
    ends = [*(mark.start for mark in marks[1:]), len(text)]
    return [
        _Section(mark.name, text[mark.end : end], mark.start, end < len(text))
        for mark, end in zip(marks, ends, strict=False)
        if mark.name  # [End] opens nothing
    ]


def _unclosed(sections: Sequence[_Section]) -> tuple[str, ...]:
    return tuple(section.name for section in sections if not section.closed)


def _before_marker(text: str, name: str) -> _Section:
    """What stands before the next marker; one that only repeats the marker already put is skipped."""
    start = 0
    first = next(iter(_marks(text, [name])), None)
    if first is not None and first.name == name and not text[: first.start].strip():
        start = first.end
    end = next((mark.start for mark in _marks(text) if mark.start >= start), len(text))
    return _Section(name, text[start:end], start, end < len(text))


def _first_usable(sections: Sequence[_Section], name: str, own_wording: OwnWording) -> _Section | Unparsed:
    why = Unparsed(f"no_{name}")
    for section in sections:
        if section.name == name:
            usable = _usable(section.text, own_wording)
            if isinstance(usable, str):
                return _Section(name, usable, section.start, section.closed)
            why = Unparsed(f"{usable.reason}_{name}" if usable.reason == "empty" else usable.reason)
    return why


def _bare(text: str) -> str:
    return text.casefold().rstrip(".")


def _usable(text: str, own_wording: OwnWording) -> str | Unparsed:
    """The text without the white space around it, or why it is no text at all."""
    text = text.strip()
    if not text:
        return Unparsed("empty")
    if _bare(text) in own_wording.bare_placeholders:
        return Unparsed("placeholder")
    if any(line in text for line in own_wording.lines):
        return Unparsed("echo")
    return text


def _critique(text: str, sections: Sequence[_Section]) -> str:
    return text[: sections[0].start].strip() if sections else text.strip()
