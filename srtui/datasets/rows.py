"""What reading yields, and the conditions that a row's texts must meet."""

from __future__ import annotations

from typing import Any, NamedTuple

from srtui.sample import Pair

MAX_FIELD = 1_000_000
"""Most UTF-8 bytes of one text (instruction, input, response or id)."""

MAX_RECORD = 8 * 1024 * 1024
"""Most bytes of one record as it lies in the file; a longer one is skipped without being held."""

REASONS = {
    "missing_field": "a field that the format needs is absent or null",
    "wrong_type": "a field is not text (or a list of turns is not a list)",
    "empty_instruction": "the instruction is empty or blank",
    "empty_output": "the response is empty or blank",
    "lone_surrogate": "a text holds half of a surrogate pair, which no UTF-8 can express",
    "too_large": "a text is over 1 MB, or the whole record over 8 MiB",
    "nul_byte": "a text holds the character U+0000",
    "not_json": "the text here is not JSON",
    "not_csv": "the cells do not fit the header, or a quote is never closed",
    "not_an_object": "the JSON here is not an object",
    "no_turn_pair": "the conversation has no user turn with an answer (with --turns first: does not begin with one)",
    "tool_turn": "the conversation calls tools, or offers them",
    "unknown_role": "a turn is by neither system, user nor assistant",
    "bad_encoding": "the bytes are not UTF-8",
}
"""Every slug that ``BadRow.reason`` can be, and what it means."""


class DataRow(NamedTuple):
    """One good row.

    ``number`` counts rows from 0, bad ones included and blank lines not. ``line`` is where the row
    begins in the decompressed file, from 1 (for Parquet: ``number + 1``). ``record`` is the original
    as JSON text, untouched where the file is JSON. ``id`` is its ``id``, ``sample_id`` or ``idx``.
    """

    number: int
    line: int
    pair: Pair
    record: str
    id: str | None


class BadRow(NamedTuple):
    """One refused row; ``reason`` is a key of :data:`REASONS`, ``detail`` says what exactly."""

    number: int
    line: int
    reason: str
    detail: str


class Refusal(NamedTuple):
    """Why a record is not taken, before it has a row number."""

    reason: str
    detail: str


Record = dict[str, Any]
Found = tuple[int, "Record | Refusal", bytes]
"""What a container yields: the line it begins on, the record or why there is none, its JSON text."""


class Refused(Exception):
    """Raised by a layout for a record that holds no pair."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.refusal = Refusal(reason, detail)


_ID_FIELDS = ("id", "sample_id", "idx")


def pair_of(instruction: Any, input: Any, response: Any) -> Pair:
    """A checked pair; ``input`` may be absent (None). Raises Refused."""
    if input is None or input != input:  # noqa: PLR0124 - NaN is how pandas writes a missing cell
        input = ""
    # One pass over the three, spelled out: this runs for every row of a million.
    if instruction.__class__ is not str:
        _refuse_type("instruction", instruction)
    if input.__class__ is not str:
        _refuse_type("input", input)
    if response.__class__ is not str:
        _refuse_type("output", response)
    if not instruction or instruction.isspace():
        raise Refused("empty_instruction", "the instruction is empty")
    if not response or response.isspace():
        raise Refused("empty_output", "the response is empty")
    for text in (instruction, input, response):
        if not text.isascii() or len(text) > MAX_FIELD or "\0" in text:
            _check_closely(instruction, input, response)
            break
    return Pair(instruction, input, response)


def _refuse_type(name: str, value: Any) -> None:
    if value is None:
        raise Refused("missing_field", f"{name} is null")
    raise Refused("wrong_type", f"{name} is {kind_of(value)}, not text")


def _check_closely(*texts: str) -> None:
    for name, text in zip(("instruction", "input", "output"), texts, strict=True):
        refuse_unfit(name, text)


def refuse_unfit(name: str, text: str) -> None:
    """Raises Refused for a text that is too large, has a NUL or cannot be written as UTF-8."""
    if len(text) > MAX_FIELD:
        raise Refused("too_large", f"{name} is over {MAX_FIELD:,} bytes")
    if not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise Refused(
                "lone_surrogate", f"{name} has U+{code:04X} alone, character {error.start + 1}"
            ) from None
        if size > MAX_FIELD:
            raise Refused("too_large", f"{name} is {size:,} bytes, over {MAX_FIELD:,}")
    if "\0" in text:
        raise Refused("nul_byte", f"{name} holds U+0000, character {text.index(chr(0)) + 1}")


def id_of(record: Record) -> str | None:
    """The record's own id as text, None where it has none that is text or a whole number."""
    for name in _ID_FIELDS:
        if name in record:
            value = record[name]
            if value.__class__ is int:
                return str(value)
            if value.__class__ is str and value:
                refuse_unfit(name, value)
                return str(value)
    return None


def kind_of(value: Any) -> str:
    """A JSON value's type in plain words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return {str: "text", list: "a list", dict: "an object", type(None): "null"}.get(type(value), "no text")


def listing(names: Any, most: int = 8) -> str:
    """Some of these names for a message, made safe to print."""
    shown = [ascii(str(n)[:40])[1:-1] for n in list(names)[: most + 1]]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
