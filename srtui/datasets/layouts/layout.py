"""What a layout is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from srtui.datasets.rows import Record
from srtui.sample import Pair, Turn

Texts = tuple[Any, Any, Any]
Taker = Callable[[Record], Texts]
Which = Literal["last", "each"]
"""Which answers of a conversation are samples: the last one, or each."""


class Exchange(NamedTuple):
    """One sample of a conversation: ``answer`` says which turn its response is (from 0), ``followed`` whether
    another answer comes after it in the conversation."""

    answer: int
    pair: Pair
    followed: bool


class Conversation(NamedTuple):
    """A record's turns up to its last answer, and which of them are samples.

    ``places`` says by turn where it lies in the record: the first of its entries in the list of turns (-1 is
    the record's own system field), and how many entries it joins. ``left_out`` counts what is in no sample or
    is there as context alone, by the keys of :data:`LEFT_OUT`.
    """

    turns: tuple[Turn, ...]
    places: tuple[tuple[int, int], ...]
    exchanges: tuple[Exchange, ...]
    left_out: dict[str, int]


LEFT_OUT = {
    "earlier": "earlier answers, which are context of the last one (--turns each takes them)",
    "unanswered": "turns behind the last answer",
    "unasked": "answers that no user turn precedes (context alone)",
    "weight": "answers that the file gives no weight (context alone)",
    "blank": "exchanges with an empty turn (context alone)",
    "joined": "turns joined with the one before, of the same role",
}
"""What of a conversation is no sample of its own, and what to say of it."""


class Rewritten(NamedTuple):
    """New texts of an exchange on their way back into its conversation."""

    answer: int
    pair: Pair
    kept: bool


@dataclass(frozen=True)
class Layout:
    """One way to hold a pair in a record.

    ``keys``: a record with any of them is taken for this layout. ``taker(columns)`` gives a function
    from a record to (instruction, input or None, response), not yet checked, which raises Refused;
    ``columns`` maps ``instruction``, ``input``, ``response`` to field names where the caller named
    them, and only flat layouts heed it. ``arrange(instruction, input, response)`` is the way back: of what it
    gives, ``taker({})`` takes the same three texts. ``in_lines``: whether its files are usually JSON lines,
    and are written so where a file's name does not say otherwise; else they are one JSON array.

    Layouts of conversations also have ``converse(record, which)``, which gives a record's turns and samples
    or raises Refused, and ``lay_out(turns)``, a record of turns that has come from another layout.
    """

    name: str
    keys: frozenset[str]
    taker: Callable[[Mapping[str, str]], Taker]
    arrange: Callable[[str, str, str], dict[str, Any]]
    in_lines: bool = False
    converse: Callable[[Record, Which], Conversation] | None = None
    lay_out: Callable[[Sequence[Turn]], Record] | None = None
