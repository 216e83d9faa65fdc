"""A look into a data file before it is imported: what it is taken for, how its fields map, and its first rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from srtui.datasets.reader import ConversationRow, Turns, read
from srtui.datasets.rows import BadRow
from srtui.sample import Pair

LOOKED_AT = 500
"""Rows that are read."""


@dataclass(frozen=True)
class FilePreview:
    """``format`` is what the file was found to be. ``columns`` says by text (instruction, input, response) which field
    it comes from, and is empty where rows are conversations; ``fields`` are those of the first row. ``pairs`` are the
    first good rows. ``good`` and ``bad`` (by reason) count the rows that were read, which are all of the file where
    it is ``whole``."""

    format: str
    fields: list[str]
    columns: dict[str, str]
    pairs: list[Pair]
    good: int
    bad: dict[str, int]
    whole: bool
    conversations: bool


def preview(
    path: Path, columns: Mapping[str, str] | None = None, turns: Turns = "last", pairs: int = 3
) -> FilePreview:
    """Read the beginning of a data file.

    Args:
        path: the file.
        columns: by text the file's name for it, where that is not a usual one.
        turns: what is taken of conversations.
        pairs: how many rows come back.

    Raises UserError as :func:`srtui.datasets.read` does.
    """
    reader = read(path, "auto", columns, turns)
    first: list[Pair] = []
    bad: Counter[str] = Counter()
    good = taken = 0
    whole_conversations = reader.turns not in (None, "first")
    rows = reader.conversations() if whole_conversations else iter(reader)
    for row in islice(rows, LOOKED_AT):
        taken += 1
        if isinstance(row, BadRow):
            bad[row.reason] += 1
            continue
        good += 1
        if len(first) < pairs:
            first += (
                [e.pair for e in row.conversation.exchanges[:1]]
                if isinstance(row, ConversationRow)
                else [row.pair]
            )
    fields, mapped = reader.mapping()
    return FilePreview(
        reader.format,
        fields,
        mapped,
        first,
        good,
        dict(bad.most_common()),
        taken < LOOKED_AT,
        reader.turns is not None,
    )
