"""What ShareGPT and messages have in common: a list of turns, of which the first exchange is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srtui.datasets.layouts.base import Layout, Taker, Texts
from srtui.datasets.rows import Record, Refused, kind_of, listing
from srtui.prompts import PromptTemplate

_USER = frozenset({"human", "user", "prompter"})
_ASSISTANT = frozenset({"gpt", "assistant", "chatgpt", "model", "bot"})
_SYSTEM = frozenset({"system", "developer"})


def conversation(
    name: str, field: str, *, role_key: str, text_key: str, user: str, assistant: str, in_lines: bool = False
) -> Layout:
    """A layout whose records keep turns, ``{role_key: who, text_key: what}``, in the list ``field``.

    Either spelling of a turn's keys is read, whatever the list is called. The input of a sample is
    written beside the turns as well, so that reading the file again splits the user turn as it was.

    Args:
        name: of the layout.
        field: the record's key that holds the list of turns.
        role_key: a turn's key that says whose it is, as written.
        text_key: a turn's key that holds its text, as written.
        user: what ``role_key`` says of a person, as written.
        assistant: what it says of the model.
        in_lines: as ``Layout.in_lines``.
    """

    def take(record: Record) -> Texts:
        if field not in record or record[field] is None:
            raise Refused("missing_field", f"no {field}; its fields are {listing(record) or 'none'}")
        turns = record[field]
        if not isinstance(turns, list):
            raise Refused("wrong_type", f"{field} is {kind_of(turns)}, not a list of turns")
        first = 0
        while first < len(turns) and _role(turns[first], first) in _SYSTEM:
            first += 1
        if len(turns) < first + 2:
            raise Refused("no_turn_pair", f"{field} has {len(turns)} turns, and no user turn with an answer")
        asked, answered = turns[first], turns[first + 1]
        if _role(asked, first) not in _USER or _role(answered, first + 1) not in _ASSISTANT:
            roles = listing(_role(t, n) for n, t in ((first, asked), (first + 1, answered)))
            raise Refused("no_turn_pair", f"{field} begins with {roles}, not with a user and an assistant")
        return *_split(_text(asked, first), record.get("input")), _text(answered, first + 1)

    def arrange(instruction: str, input: str, response: str) -> dict[str, Any]:
        asked = PromptTemplate.target_of(instruction, input)
        return {
            field: [{role_key: user, text_key: asked}, {role_key: assistant, text_key: response}],
            "input": input,
        }

    def taker(columns: Mapping[str, str]) -> Taker:
        return take

    return Layout(name, frozenset({field}), taker, arrange, in_lines=in_lines)


def _split(asked: Any, input: Any) -> tuple[Any, Any]:
    """The user turn as instruction and input, where the record says which part was the input."""
    if input and isinstance(input, str) and isinstance(asked, str):
        instruction = asked.removesuffix(PromptTemplate.target_of("", input))
        if instruction and instruction != asked:
            return instruction, input
    return asked, None


def _role(turn: Any, n: int) -> str:
    if not isinstance(turn, dict):
        raise Refused("wrong_type", f"turn {n + 1} is {kind_of(turn)}, not an object")
    role = turn.get("from", turn.get("role"))
    if role is None:
        raise Refused("missing_field", f"turn {n + 1} does not say whose it is")
    return role.casefold() if isinstance(role, str) else kind_of(role)


def _text(turn: dict[str, Any], n: int) -> Any:
    text = turn.get("value", turn.get("content"))
    if text is None:
        raise Refused("missing_field", f"turn {n + 1} has no text")
    if isinstance(text, list):  # content in parts; only text can be taken
        parts = [p.get("text") for p in text if isinstance(p, dict) and p.get("type") == "text"]
        if len(parts) == len(text) and all(isinstance(p, str) for p in parts):
            return "".join(p for p in parts if p)
        raise Refused("wrong_type", f"turn {n + 1} has parts that are not text")
    return text
