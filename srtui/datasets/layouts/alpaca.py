"""Flat records: ``instruction``, optional ``input``, ``output`` (Stanford Alpaca), and other names for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from srtui.datasets.layouts.layout import Layout, Taker, Texts
from srtui.datasets.rows import Record, Refused, listing

NAMES = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "input": ("input", "context"),
    "response": ("output", "response", "completion", "answer"),
}
"""The names that each text goes by, the first that is present wins."""

_MISSING = object()


def _taker(columns: Mapping[str, str]) -> Taker:
    names = {
        role: (columns[role],) if role in columns else usual_names for role, usual_names in NAMES.items()
    }
    (instruction, *_), (input, *_), (response, *_) = names.values()

    def take(record: Record) -> Texts:
        try:
            return record[instruction], record[input], record[response]
        except KeyError:  # another name, or no input: the slower way
            return (
                _first(record, "instruction", names),
                _first(record, "input", names, None),
                _first(record, "response", names),
            )

    return take


def _first(record: Record, role: str, names: Mapping[str, tuple[str, ...]], default: Any = _MISSING) -> Any:
    for name in names[role]:
        if name in record:
            return record[name]
    if default is _MISSING:
        raise Refused("missing_field", f"no {names[role][0]}; its fields are {listing(record) or 'none'}")
    return default


def columns_among(names: Iterable[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Which of a table's columns holds which text, without regard to case; as far as they are found."""
    exact = list(names)
    by_casefold = {name.casefold(): name for name in reversed(exact)}
    by_role = {}
    for role, usual_names in NAMES.items():
        if role in columns:
            if columns[role] in exact:
                by_role[role] = columns[role]
        else:
            name = next((by_casefold[n] for n in usual_names if n in by_casefold), None)
            if name is not None:
                by_role[role] = name
    return by_role


def _arrange(instruction: str, input: str, response: str) -> dict[str, Any]:
    return {"instruction": instruction, "input": input, "output": response}


ALPACA = Layout(
    "alpaca",
    frozenset(NAMES["instruction"] + NAMES["response"]),
    _taker,
    _arrange,
)
