"""What ShareGPT and messages have in common: a list of turns, of which exchanges are taken and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srtui.datasets.layouts.layout import Conversation, Exchange, Layout, Taker, Texts, Which
from srtui.datasets.rows import MAX_FIELD, Record, Refused, kind_of, listing, pair_of, refuse_unfit
from srtui.prompts import PromptTemplate
from srtui.sample import Role, Turn

_USER = frozenset({"human", "user", "prompter"})
_ASSISTANT = frozenset({"gpt", "assistant", "chatgpt", "model", "bot", "bard", "bing", "claude"})
_SYSTEM = frozenset({"system", "developer"})
_TOOL = frozenset(
    {"tool", "function", "observation", "ipython"}
    | {f"{what}{sign}{way}" for what in ("function", "tool") for sign in "_-" for way in ("call", "response")}
    | {"tool_calls", "tool_result", "function_result"}
)
_ROLES: dict[str, Role] = {
    **dict.fromkeys(_USER, "user"),
    **dict.fromkeys(_ASSISTANT, "assistant"),
    **dict.fromkeys(_SYSTEM, "system"),
}
SYSTEM_FIELDS = ("system", "system_prompt", "system_message")
_TOOL_FIELDS = ("tools", "functions")
_CALLS = ("tool_calls", "function_call", "tool_call_id")
_NOTHING: tuple[Any, ...] = (None, "", "[]", [], {}, "null")


def conversation(
    name: str, field: str, *, role_key: str, text_key: str, user: str, assistant: str, in_lines: bool = False
) -> Layout:
    """A layout whose records keep turns, ``{role_key: who, text_key: what}``, in the list ``field``.

    Either spelling of a turn's keys is read, whatever the list is called. The input of a sample is
    written beside the turns as well, so that reading the file again splits the user turn as it was.

    Args:
        name: of the layout.
        field: the list of turns in a record.
        role_key: where a turn that is written says whose it is.
        text_key: where it has its text.
        user: the user's name in turns that are written.
        assistant: the assistant's.
        in_lines: as ``Layout.in_lines``.

    Returns:
        The layout, with the way in and back for whole conversations.
    """
    names: dict[Role, str] = {"system": "system", "user": user, "assistant": assistant}

    def turns_of(record: Record) -> list[Any]:
        if field not in record or record[field] is None:
            raise Refused("missing_field", f"no {field}; its fields are {listing(record) or 'none'}")
        turns = record[field]
        if not isinstance(turns, list):
            raise Refused("wrong_type", f"{field} is {kind_of(turns)}, not a list of turns")
        return turns

    def take(record: Record) -> Texts:
        turns = turns_of(record)
        first = 0
        while first < len(turns) and _role(turns[first], first) in _SYSTEM:
            first += 1
        if len(turns) < first + 2:
            raise Refused("no_turn_pair", f"{field} has {len(turns)} turns, and no user turn with an answer")
        question, answer = turns[first], turns[first + 1]
        if _role(question, first) not in _USER or _role(answer, first + 1) not in _ASSISTANT:
            roles = listing(_role(t, n) for n, t in ((first, question), (first + 1, answer)))
            raise Refused("no_turn_pair", f"{field} begins with {roles}, not with a user and an assistant")
        return *split_input(_text(question, first), record.get("input")), _text(answer, first + 1)

    def converse(record: Record, which: Which) -> Conversation:
        return _converse(record, turns_of(record), field, which)

    def arrange(instruction: str, input: str, response: str) -> dict[str, Any]:
        question = PromptTemplate.target_of(instruction, input)
        return {**lay_out((Turn("user", question), Turn("assistant", response))), "input": input}

    def lay_out(turns: Sequence[Turn]) -> Record:
        return {field: [{role_key: names[t.role], text_key: t.text} for t in turns]}

    def taker(columns: Mapping[str, str]) -> Taker:
        return take

    return Layout(name, frozenset({field}), taker, arrange, in_lines, converse, lay_out)


def _converse(record: Record, entries: list[Any], field: str, which: Which) -> Conversation:
    if any(record.get(name) not in _NOTHING for name in _TOOL_FIELDS):
        raise Refused("tool_turn", "it offers the assistant tools, which no template of srtui lays out")
    roles: list[Role] = []
    texts: list[list[str]] = []  # of each role, what its turns in a row say: one text, made once
    places: list[tuple[int, int]] = []
    weightless: set[int] = set()
    joined = 0
    system = next((record[name] for name in SYSTEM_FIELDS if record.get(name)), None)
    if system is not None:
        roles.append("system")
        texts.append([_checked(system, "the system text")])
        places.append((-1, 1))
    for n, entry in enumerate(entries):
        who = _role(entry, n)
        role = _ROLES.get(who)
        if role is None or any(entry.get(name) not in _NOTHING for name in _CALLS):
            if role is not None or who in _TOOL:
                raise Refused("tool_turn", f"turn {n + 1} calls a tool or is one's answer")
            raise Refused("unknown_role", f"turn {n + 1} is by {listing([who])}")
        text = _checked(_text(entry, n), f"turn {n + 1}")
        if roles and roles[-1] == role:
            joined += 1
            texts[-1].append(text)
            places[-1] = (places[-1][0], places[-1][1] + 1)
        else:
            roles.append(role)
            texts.append([text])
            places.append((n, 1))
        if role == "assistant" and (entry.get("weight", 1) == 0 or entry.get("train") is False):
            weightless.add(len(roles) - 1)
    answers = [n for n, role in enumerate(roles) if role == "assistant"]
    end = answers[-1] + 1 if answers else 0
    turns = [
        Turn(role, parts[0] if len(parts) == 1 else _joined(parts, first))
        for role, parts, (first, _) in zip(roles[:end], texts, places, strict=False)
    ]
    answer_places = [n for n in answers if n and turns[n - 1].role == "user"]
    weighed = [n for n in answer_places if n not in weightless]
    whole = [n for n in weighed if turns[n].text.strip() and turns[n - 1].text.strip()]
    if not whole:
        raise Refused(
            "no_turn_pair", f"{field} has {len(entries)} turns, and no user turn with an answer to learn"
        )
    learnt_from = whole if which == "each" else whole[-1:]
    left_out = {
        "earlier": len(whole) - len(learnt_from),
        "unanswered": sum(size for _, size in places[end:]),
        "unasked": len(answers) - len(answer_places),
        "weight": len(answer_places) - len(weighed),
        "blank": len(weighed) - len(whole),
        "joined": joined,
    }
    exchanges = []
    for n in learnt_from:
        # Only what srtui has written says which part of a user turn was an input: of its last one.
        instruction, input_text = turns[n - 1].text, None
        if n == whole[-1]:
            instruction, input_text = split_input(instruction, record.get("input"))
        # Without its history, which is the turns before: of each exchange a list of its own, that of a long
        # conversation would fill the memory.
        exchanges.append(Exchange(n, pair_of(instruction, input_text, turns[n].text), n < answers[-1]))
    return Conversation(
        tuple(turns), tuple(places[:end]), tuple(exchanges), {k: v for k, v in left_out.items() if v}
    )


def split_input(question: Any, input: Any) -> tuple[Any, Any]:
    """The user turn as instruction and input, None where the record does not say which part that is."""
    if input and isinstance(input, str) and isinstance(question, str):
        instruction = question.removesuffix(PromptTemplate.target_of("", input))
        if instruction and instruction != question:
            return instruction, input
    return question, None


def _first_of(turn: dict[str, Any], name: str, other: str) -> Any:
    """Either spelling; where a table has columns for both, one is null."""
    value = turn.get(name)
    return turn.get(other) if value is None else value


def _role(turn: Any, n: int) -> str:
    if not isinstance(turn, dict):
        raise Refused("wrong_type", f"turn {n + 1} is {kind_of(turn)}, not an object")
    role = _first_of(turn, "from", "role")
    if role is None:
        raise Refused("missing_field", f"turn {n + 1} does not say whose it is")
    return role.casefold() if isinstance(role, str) else kind_of(role)


def _text(turn: dict[str, Any], n: int) -> Any:
    text = _first_of(turn, "value", "content")
    if text is None:
        raise Refused("missing_field", f"turn {n + 1} has no text")
    if isinstance(text, list):  # content in parts; only text can be taken
        parts = [p.get("text") for p in text if isinstance(p, dict) and p.get("type") == "text"]
        if len(parts) == len(text) and all(isinstance(p, str) for p in parts):
            return "".join(p for p in parts if p)
        raise Refused("wrong_type", f"turn {n + 1} has parts that are not text")
    return text


def _joined(parts: list[str], first: int) -> str:
    """What turns in a row by the same one say, as one text: the limit of a field is its limit too."""
    start = "the system text" if first < 0 else f"turn {first + 1}"
    return _checked("\n\n".join(parts), f"{start}, joined with the {len(parts) - 1:,} after it,")


def _checked(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise Refused("wrong_type", f"{name} is {kind_of(text)}, not text")
    if not text.isascii() or len(text) > MAX_FIELD or "\0" in text:
        refuse_unfit(name, text)
    return text
