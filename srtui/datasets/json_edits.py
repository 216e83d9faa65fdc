"""A JSON text in which some values are replaced, and all else stays byte for byte: the spelling of numbers, escapes,
spaces, keys that nobody knows."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import orjson

_BLANK = re.compile(r"[ \t\r\n]*")
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_SIMPLE = re.compile(rf"{_STRING}|[^ \t\r\n,\]}}]+")
_STRUCTURE = re.compile(rf"{_STRING}|[\[\]{{}}]")


class Extent(NamedTuple):
    """Where a value stands in a text, from ``start`` up to ``end``."""

    start: int
    end: int


class Member(NamedTuple):
    """A member of an object: its key, where that begins, and where its value is."""

    key: str
    start: int
    value: Extent


class JsonEdits:
    """Edits of a valid JSON ``text``, an object; ``result`` is the text with all of them. No two may overlap."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.start = _BLANK.match(text).end()  # type: ignore[union-attr]
        self._edits: list[tuple[int, int, str]] = []

    def members(self, start: int) -> list[Member]:
        """The members of the object that begins at ``start``, in order; a key may be there twice, and the last counts."""
        members: list[Member] = []
        position = self._after_blank(start + 1)
        while self.text[position] != "}":
            if self.text[position] == ",":
                position = self._after_blank(position + 1)
            end = self._end(position)
            value = self._after_blank(self._after_blank(end) + 1)  # behind the colon
            members.append(
                Member(json.loads(self.text[position:end]), position, Extent(value, self._end(value)))
            )
            position = self._after_blank(members[-1].value.end)
        return members

    def member(self, start: int, key: str) -> Extent | None:
        """The value of ``key`` in the object that begins at ``start``; None where it has none."""
        return next((m.value for m in reversed(self.members(start)) if m.key == key), None)

    def elements(self, start: int) -> list[Extent]:
        """The elements of the array that begins at ``start``."""
        elements: list[Extent] = []
        position = self._after_blank(start + 1)
        while self.text[position] != "]":
            if self.text[position] == ",":
                position = self._after_blank(position + 1)
            elements.append(Extent(position, self._end(position)))
            position = self._after_blank(elements[-1].end)
        return elements

    def string(self, place: Extent) -> str | None:
        """What stands there; None where that is no string."""
        return json.loads(self.text[place.start : place.end]) if self.text[place.start] == '"' else None

    def replace(self, place: Extent, value: Any) -> None:
        """Put ``value`` in the place of what stands there."""
        self._edits.append((*place, written(value)))

    def cut(self, place: Extent) -> None:
        """Take away what stands there."""
        self._edits.append((*place, ""))

    def set(self, start: int, key: str, value: Any) -> None:
        """Give the object that begins at ``start`` this member, behind the others where it has none of that key."""
        place = self.member(start, key)
        if place is not None:
            self.replace(place, value)
            return
        end = self._end(start)
        between = "," if self.members(start) else ""
        self._edits.append((end - 1, end - 1, f"{between}{written(key)}:{written(value)}"))

    @property
    def result(self) -> str:
        """The text with all edits."""
        parts, copied_to = [], 0
        for start, end, new in sorted(self._edits, key=lambda edit: edit[:2]):
            parts += [self.text[copied_to:start], new]
            copied_to = end
        return "".join([*parts, self.text[copied_to:]])

    def _end(self, start: int) -> int:
        """The end of the value that begins at ``start``, however deep it is nested."""
        if self.text[start] not in "[{":
            return _SIMPLE.match(self.text, start).end()  # type: ignore[union-attr]
        depth = 0
        for sign in _STRUCTURE.finditer(self.text, start):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(sign[0], 0)
            if not depth:
                return sign.end()
        raise ValueError("a value has no end")

    def _after_blank(self, position: int) -> int:
        return _BLANK.match(self.text, position).end()  # type: ignore[union-attr]


def written(value: Any) -> str:
    """A value as JSON."""
    return orjson.dumps(value).decode()
