"""JSON: one array of objects, one object a line, or objects one after the other.

An array is never parsed as a whole. Where an element begins with the same key as the one before it,
the end of the element before is the ``},`` right in front: inside a JSON string that sequence could
only occur with its quotes escaped. The cut is proved by orjson accepting the piece, as no proper
prefix of an object is an object. Only where that guess fails are brackets and quotes counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from srtui.datasets.containers.lines import BOM, Oversized, split_lines, without_bom
from srtui.datasets.layouts import LAYOUTS
from srtui.datasets.rows import MAX_RECORD, Found, Record, Refusal, kind_of
from srtui.datasets.source import BLOCK, DataSource

_BLANK = b" \t\r\n"
_SEPARATORS = re.compile(rb"[ \t\r\n,]*")
_STRUCTURE = re.compile(rb'["{}\[\]]')
_SCALAR = re.compile(rb'[^ \t\r\n,{}\[\]"]+')
_FIRST_KEY = re.compile(rb'\{[ \t\r\n]*"([^"\\]{1,100})"[ \t\r\n]*:')

_MOST_FIRST_KEYS = 16
_USUAL_FIRST_KEYS = ("id", "idx", *sorted(key for layout in LAYOUTS.values() for key in layout.keys))
# Counting brackets in a damaged row can read as far as the limit of a row and come back empty-handed.
# When that has cost so many bytes, damaged rows are only looked into up to the next row's beginning.
_FRUITLESS_BYTES = MAX_RECORD
_OVERLAP = 4096


class JsonText:
    """See the module. ``layout`` of what the objects hold is not known here."""

    name = "json"

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self.columns: Mapping[str, str] = {}

    @staticmethod
    def recognises(source: DataSource) -> bool:
        """Whether the first character that is not blank opens an object or an array."""
        start = source.head.removeprefix(BOM).lstrip(_BLANK)
        if not start and len(source.head) > 1024:  # blank so far: look further
            start = next(filter(None, (b.lstrip(_BLANK) for b in without_bom(source.blocks()))), b"")
        return start[:1] in (b"{", b"[")

    @property
    def position(self) -> int:
        """Bytes of the file on disk that were read so far."""
        return self._source.position

    def records(self) -> Iterator[Found]:
        """The objects of the one array, of the lines, or of the texts that follow each other, each with its
        line."""
        kind = self._kind()
        if kind == "lines":
            return _lines(self._source.blocks())
        return _Elements(self._source.blocks(), in_array=kind == "array").found()

    def _kind(self) -> str:
        """``array``, ``lines`` or ``objects``."""
        for _, line in split_lines(self._source.blocks(), MAX_RECORD):
            if isinstance(line, Oversized):
                return "array" if self._source.head.removeprefix(BOM).lstrip(_BLANK)[:1] == b"[" else "lines"
            text = line.strip(_BLANK)
            if not text:
                continue
            if text.startswith(b"["):
                return "array"
            if isinstance(parse(text), dict):
                return "lines"
            # Objects over several lines, if the first of them is whole; else lines, the first one bad.
            for _, value, raw in _Elements(self._source.blocks(), in_array=False).found():
                return "objects" if isinstance(value, dict) and b"\n" in raw else "lines"
        return "lines"


def parse(raw: bytes) -> Any:
    """The JSON value of ``raw``, or the Refusal that says why there is none."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _second_opinion(raw)


def _second_opinion(raw: bytes) -> Any:
    """What orjson refuses: lone surrogates and NaN, which the standard library takes, or the reason."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        try:
            raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            byte = raw[error.start]
            return Refusal("bad_encoding", f"byte 0x{byte:02X} at {error.start + 1} of the row is not UTF-8")
        return Refusal(
            "lone_surrogate", f"half of a surrogate pair, as bytes, at {error.start + 1} of the row"
        )
    try:
        return json.loads(text)
    except ValueError as error:
        if "\0" in text:
            return Refusal("nul_byte", f"a NUL byte at {raw.index(0) + 1} of the row")
        sentence = (
            f"{error.msg}, character {error.pos + 1} of the row"
            if isinstance(error, json.JSONDecodeError)
            else "a number too long"
        )
        return Refusal("not_json", sentence)
    except RecursionError:
        return Refusal("not_json", "nested too deeply")


def _found(line: int, value: Any, raw: bytes) -> Found:
    if isinstance(value, dict | Refusal):
        return line, value, raw
    return line, Refusal("not_an_object", f"{kind_of(value)}, not an object"), raw


def _too_large(size: int) -> Refusal:
    return Refusal("too_large", f"the row is {size:,} bytes, over {MAX_RECORD:,}")


def _lines(blocks: Iterator[bytes]) -> Iterator[Found]:
    loads = orjson.loads
    for number, line in split_lines(blocks, MAX_RECORD):
        if line.__class__ is not bytes:
            assert isinstance(line, Oversized)  # noqa: S101
            yield number, _too_large(line.size), b""
            continue
        raw = line.strip(_BLANK)
        if not raw:
            continue
        try:
            value: Record = loads(raw)
        except orjson.JSONDecodeError:
            yield _found(number, _second_opinion(raw), raw)
            continue
        if value.__class__ is dict:
            yield number, value, raw
        else:
            yield _found(number, value, raw)


class _Elements:
    """Cuts a stream into its top-level elements; what is between ``pos`` and the end is to be read."""

    def __init__(self, blocks: Iterator[bytes], in_array: bool) -> None:
        self._blocks = without_bom(blocks)
        self._in_array = in_array
        self._buffer = b""
        self._pos = 0
        self._line = 1
        self._fruitless = 0
        self._first_keys: list[bytes] = []
        self._begin = _beginning([k.encode() for k in _USUAL_FIRST_KEYS])
        self._boundary: re.Pattern[bytes] | None = None

    # -- the window -------------------------------------------------------------------------

    def _more(self) -> bool:
        """Append a block to the window; False at the end of the file."""
        block = next(self._blocks, b"")
        if block:
            self._buffer = self._buffer[self._pos :] + block
            self._pos = 0
        return bool(block)

    def _advance(self, to: int) -> None:
        self._line += self._buffer.count(b"\n", self._pos, to)
        self._pos = to

    def _skip_separators(self) -> bool:
        """Go to the next byte that is neither blank nor a comma; False at the end of the file."""
        while True:
            match = _SEPARATORS.match(self._buffer, self._pos)
            assert match is not None  # noqa: S101 - matches the empty string too
            self._advance(match.end())
            if self._pos < len(self._buffer):
                return True
            if not self._more():
                return False

    # -- elements ---------------------------------------------------------------------------

    def found(self) -> Iterator[Found]:
        if self._in_array:
            self._skip_separators()
            self._advance(self._pos + 1)  # the opening bracket
        trusted = False
        while self._skip_separators():
            lead = self._buffer[self._pos : self._pos + 1]
            if lead == b"{":
                if trusted and (quick := self._quick()) is not None:
                    yield quick
                    continue
                item, go_on = self._careful()
            elif lead == b"]" and self._in_array:
                yield from self._after_the_end()
                return
            elif lead in (b"[", b'"'):
                item, go_on = self._careful()
            else:
                item, go_on = self._scalar()
            trusted = isinstance(item[1], dict)
            yield item
            if not go_on:
                return
        if self._in_array:
            fault = "the file ends before the ] that closes its list; it may be cut short"
            yield self._line, Refusal("not_json", fault), b""

    def _quick(self) -> Found | None:
        """The object here, by the boundary in front of the next one; None where that does not work."""
        assert self._boundary is not None  # noqa: S101 - set by the first object that was read
        match = self._boundary.search(self._buffer, self._pos)
        if match is None and len(self._buffer) - self._pos < BLOCK:
            self._more()
            match = self._boundary.search(self._buffer, self._pos)
        if match is None or match.start() - self._pos >= MAX_RECORD:
            return None
        end = match.start() + 1
        raw = self._buffer[self._pos : end]
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None
        line = self._line
        self._advance(end)
        return line, value, raw

    def _careful(self) -> tuple[Found, bool]:
        """The bracketed or quoted value here, by counting; and whether to continue behind it."""
        line = self._line
        size, why = self._span()
        if size > MAX_RECORD:
            self._advance(self._pos + size)
            return (line, _too_large(size), b""), True
        if size:
            raw = self._buffer[self._pos : self._pos + size]
            value = parse(raw)
            end = self._pos + size
            if isinstance(value, Refusal) and value.reason == "not_json":
                # An unescaped quote can have hidden the beginning of the next row from the count.
                begins = self._begin.search(self._buffer, self._pos + 1, end)
                end = begins.start() if begins else end
            elif isinstance(value, dict):
                self._learn(raw)
            self._advance(end)
            return _found(line, value, raw), True
        begins = self._begin.search(self._buffer, self._pos + 1)
        if begins and begins.start() - self._pos <= MAX_RECORD:
            self._advance(begins.start())
            sentence = "not closed before the next row begins"
            return (line, Refusal("not_json", sentence), b""), True
        if why == "cut":
            self._advance(len(self._buffer))
            sentence = "the file ends inside this row; it may be cut short"
            return (line, Refusal("not_json", sentence), b""), False
        skipped, go_on = self._skip_to_next_row()
        return (line, _too_large(skipped), b""), go_on

    def _scalar(self) -> tuple[Found, bool]:
        """What is here instead of an object: a number or a word, or something that is not JSON."""
        line = self._line
        while True:
            match = _SCALAR.match(self._buffer, self._pos)
            if match is None or match.end() < len(self._buffer):
                break
            if match.end() - self._pos > _OVERLAP or not self._more():
                break
        end = match.end() if match else self._pos + 1
        raw = self._buffer[self._pos : end]
        value = parse(raw) if len(raw) <= _OVERLAP else Refusal("not_json", "a long word")
        go_on = True
        if isinstance(value, Refusal):
            _, go_on = self._skip_to_next_row()
        else:
            self._advance(end)
        return _found(line, value, raw), go_on

    def _after_the_end(self) -> Iterator[Found]:
        self._advance(self._pos + 1)
        while True:
            rest = self._buffer[self._pos :]
            behind = rest.lstrip(_BLANK)
            self._advance(len(self._buffer) - len(behind))
            if behind:
                yield self._line, Refusal("not_json", "text after the ] that closes the list"), b""
                return
            if not self._more():
                return

    # -- counting ---------------------------------------------------------------------------

    def _span(self) -> tuple[int, str]:
        """Bytes of the value at ``pos``, from its opening to its closing mark.

        0 where it is not closed: because the file ends (``cut``), or the limit of a row, or the
        beginning of the next row after much fruitless counting, comes first (``long``). A row that is
        closed shortly behind the limit still has its size reported.
        """
        offset = depth = 0  # relative to pos, which stays while the window grows
        in_string = False
        reach = MAX_RECORD
        if self._fruitless > _FRUITLESS_BYTES:
            begins = self._begin.search(self._buffer, self._pos + 1)
            reach = begins.start() - self._pos if begins else reach
        while True:
            buffer, base = self._buffer, self._pos
            while offset < len(buffer) - base:
                if in_string:
                    quote = buffer.find(b'"', base + offset)
                    if quote < 0:
                        offset = len(buffer) - base
                        break
                    offset = quote + 1 - base
                    in_string = _escaped(buffer, quote, base)
                    if in_string or depth:
                        continue
                    return offset, ""
                match = _STRUCTURE.search(buffer, base + offset)
                if match is None:
                    offset = len(buffer) - base
                    break
                offset = match.end() - base
                mark = buffer[match.start()]
                if mark == 0x22:
                    in_string = True
                elif mark in (0x7B, 0x5B):
                    depth += 1
                else:
                    depth -= 1
                    if depth <= 0:
                        return offset, ""
                if offset > reach and reach < MAX_RECORD:
                    break
            if offset > reach or offset > MAX_RECORD or not self._more():
                self._fruitless += offset
                return 0, "long" if offset > min(reach, MAX_RECORD) else "cut"

    def _skip_to_next_row(self) -> tuple[int, bool]:
        """Drop everything up to where a row begins; bytes dropped, and whether one was found."""
        skipped = 0
        start = self._pos + 1
        while True:
            begins = self._begin.search(self._buffer, start)
            if begins:
                skipped += begins.start() - self._pos
                self._advance(begins.start())
                return skipped, True
            keep = max(len(self._buffer) - _OVERLAP, start)
            skipped += keep - self._pos
            self._advance(keep)
            start = self._pos
            if not self._more():
                skipped += len(self._buffer) - self._pos
                self._advance(len(self._buffer))
                return skipped, False
            start = self._pos

    def _learn(self, raw: bytes) -> None:
        """Remember with which key rows of this file begin."""
        match = _FIRST_KEY.match(raw)
        if match is None or match[1] in self._first_keys:
            if self._boundary is None:
                self._boundary = re.compile(rb"(?!)")
            return
        self._first_keys = [*self._first_keys, match[1]][-_MOST_FIRST_KEYS:]
        self._begin = _beginning(self._first_keys)
        self._boundary = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=" + self._begin.pattern + rb")")


def _beginning(keys: list[bytes]) -> re.Pattern[bytes]:
    return re.compile(rb'\{[ \t\r\n]*"(?:' + b"|".join(map(re.escape, keys)) + rb')"[ \t\r\n]*:')


def _escaped(buffer: bytes, quote: int, base: int) -> bool:
    """Whether an odd number of backslashes stands before this quote."""
    place = quote - 1
    while place > base and buffer[place] == 0x5C:
        place -= 1
    return bool((quote - 1 - place) % 2)
