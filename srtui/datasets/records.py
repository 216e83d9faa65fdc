"""A record, and the checks that every text must pass before it is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from srtui.sample import Pair

MAX_FIELD = 1_000_000  # characters; a longer text is a mistake in the file, not a sample


class Row(NamedTuple):
    """A good row: ``number`` from 0, ``line`` from 1 in the decompressed file, the untouched record."""

    number: int
    line: int
    pair: Pair
    record: str
    id: str | None = None


class BadRow(NamedTuple):
    """A row that could not be taken. ``reason`` is a short fixed word."""

    number: int
    line: int
    reason: str
    detail: str


class Bad(Exception):
    """Why a record is no sample."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


Layout = Callable[[Mapping[str, Any]], tuple[Any, Any, Any]]
"""A record to its instruction, input and response, unchecked; raises KeyError or Bad."""


def checked(texts: tuple[Any, Any, Any]) -> Pair:
    """A pair of three sound texts; raises Bad."""
    instruction, input, response = texts
    if input is None:
        input = ""
    if not (type(instruction) is type(input) is type(response) is str):
        for name, text in zip(("instruction", "input", "output"), texts, strict=True):
            if text is None and name != "input":
                raise Bad("missing_field", name)
            if text is not None and not isinstance(text, str):
                raise Bad("wrong_type", f"{name} is {type(text).__name__}")
    if len(instruction) > MAX_FIELD or len(input) > MAX_FIELD or len(response) > MAX_FIELD:
        raise Bad("too_large", f"a field of over {MAX_FIELD:,} characters")
    whole = f"{instruction}{input}{response}"
    if "\x00" in whole:
        raise Bad("nul_byte")
    if not whole.isascii():
        try:
            whole.encode()
        except UnicodeEncodeError:
            raise Bad("lone_surrogate") from None
    if not instruction.strip() and not input.strip():
        raise Bad("empty_instruction")
    if not response.strip():
        raise Bad("empty_output")
    return Pair(instruction, input, response)


def alpaca(record: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return record["instruction"], record.get("input", ""), record["output"]


def turns(list_key: str, role_key: str, text_key: str, asks: frozenset[str], answers: frozenset[str]) -> Layout:
    """A layout for conversations: the first turn of one side and the answer right behind it."""

    def layout(record: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        conversation = record[list_key]
        if not isinstance(conversation, list):
            raise Bad("wrong_type", f"{list_key} is {type(conversation).__name__}")
        asked: Any = None
        for turn in conversation:
            if not isinstance(turn, Mapping):
                raise Bad("wrong_type", f"a turn is {type(turn).__name__}")
            role = turn.get(role_key)
            if asked is None and role in asks:
                asked = turn.get(text_key)
            elif asked is not None and role in answers:
                return asked, "", turn.get(text_key)
            elif asked is not None:
                break
        raise Bad("no_turn_pair", f"no {'/'.join(sorted(asks))} turn with an answer")

    return layout


_ALIASES = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "input": ("input", "context"),
    "response": ("output", "response", "completion", "answer"),
}


def columns(names: Mapping[str, str] | None) -> Layout:
    """A layout by column names: those given, and common ones for what is not given."""
    given = dict(names or {})

    def pick(record: Mapping[str, Any], field: str) -> Any:
        if field in given:
            return record[given[field]]
        for name in _ALIASES[field]:
            if name in record:
                return record[name]
        if field == "input":
            return ""
        raise KeyError(field)

    return lambda record: (pick(record, "instruction"), pick(record, "input"), pick(record, "response"))


LAYOUTS: dict[str, Layout] = {
    "alpaca": alpaca,
    "sharegpt": turns(
        "conversations", "from", "value", frozenset({"human", "user"}), frozenset({"gpt", "assistant", "chatgpt"})
    ),
    "messages": turns("messages", "role", "content", frozenset({"user", "human"}), frozenset({"assistant", "gpt"})),
}


def sniff_layout(record: Mapping[str, Any]) -> str | None:
    """The layout whose fields this record has."""
    if "conversations" in record:
        return "sharegpt"
    if "messages" in record:
        return "messages"
    if "instruction" in record and "output" in record:
        return "alpaca"
    if any(n in record for n in _ALIASES["instruction"]) and any(n in record for n in _ALIASES["response"]):
        return "columns"
    return None


def own_id(record: Mapping[str, Any]) -> str | None:
    """The row's own name for itself, where it has one."""
    for key in ("id", "sample_id", "idx"):
        value = record.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value)
    return None
