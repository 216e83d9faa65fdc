"""JSON that lies in a column: written by srtui, so anything else is damage, and said to be."""

from __future__ import annotations

import json
from typing import Any

from srtui.errors import UserError


def stored_object(text: str) -> dict[str, Any]:
    """The object that a column holds. Raises UserError where it holds anything else."""
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(_damaged(text))
    return value


def stored_list(text: str) -> list[Any]:
    """The list that a column holds. Raises UserError where it holds anything else."""
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise UserError(_damaged(text))
    return value


def _damaged(text: object) -> str:
    return (
        f"The store holds {repr(text)[:60]} where a description in JSON belongs, so it was damaged or changed by "
        "something else; restore a copy made by srtui db backup."
    )
