"""JSON that lies in a column: written by srtui, so anything else is damage, and said to be."""

from __future__ import annotations

import json
from typing import Any

from srtui.errors import UserError


def stored_value(text: str) -> Any:
    """What a column holds. Raises UserError where that is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise UserError(damaged(text)) from None


def stored_object(text: str) -> dict[str, Any]:
    """The object that a column holds. Raises UserError where it holds anything else."""
    value = stored_value(text)
    if not isinstance(value, dict):
        raise UserError(damaged(text))
    return value


def stored_list(text: str) -> list[Any]:
    """The list that a column holds. Raises UserError where it holds anything else."""
    value = stored_value(text)
    if not isinstance(value, list):
        raise UserError(damaged(text))
    return value


def damaged(text: object) -> str:
    """The sentence for a column that holds something else than was written there."""
    return (
        f"The store holds {repr(text)[:60]} where a description in JSON belongs, so it was damaged or changed by "
        "something else; restore a copy made by srtui db backup."
    )
