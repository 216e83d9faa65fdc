"""What a layout is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from srtui.datasets.rows import Record

Texts = tuple[Any, Any, Any]
Taker = Callable[[Record], Texts]


@dataclass(frozen=True)
class Layout:
    """One way to hold a pair in a record.

    ``keys``: a record with any of them is taken for this layout. ``taker(columns)`` gives a function
    from a record to (instruction, input or None, response), not yet checked, which raises Refused;
    ``columns`` maps ``instruction``, ``input``, ``response`` to field names where the caller named
    them, and only flat layouts heed it. ``arrange(instruction, input, response)`` is the way back: of what it
    gives, ``taker({})`` takes the same three texts. ``in_lines``: whether its files are usually JSON lines,
    and are written so where a file's name does not say otherwise; else they are one JSON array.
    """

    name: str
    keys: frozenset[str]
    taker: Callable[[Mapping[str, str]], Taker]
    arrange: Callable[[str, str, str], dict[str, Any]]
    in_lines: bool = False
