"""Opening a data file: what it is, and its rows one by one."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from srtui.datasets.containers import FORCED, Container, open_container
from srtui.datasets.layouts import LAYOUTS, Layout, layout_of
from srtui.datasets.layouts.alpaca import ALPACA
from srtui.datasets.layouts.layout import Conversation
from srtui.datasets.rows import BadRow, DataRow, Record, Refusal, Refused, id_of, listing, pair_of
from srtui.datasets.source import DataSource
from srtui.errors import UserError

FORMATS = ("auto", *LAYOUTS, *FORCED)
"""What ``format`` may be."""

Turns = Literal["last", "each", "first"]
"""What is taken of a conversation: its last exchange with all that came before, each with what came before
it, or the first alone."""

_ROLES = {"instruction": "instruction", "input": "input", "response": "response", "output": "response"}
_PREFERENCE = {"chosen", "rejected"}
"""The fields by which a file of preference pairs is known."""
_SAMPLED_OBJECTS = 32
_SAMPLED_ROWS = 1000


class ConversationRow(NamedTuple):
    """One good record of a conversation; ``layout`` is the name of how it holds its turns, the rest as in
    :class:`DataRow`."""

    number: int
    line: int
    conversation: Conversation
    layout: str
    record: str
    id: str | None


class DatasetReader:
    """The rows of one file; each iteration reads it again from the beginning.

    ``format`` is what it was found to be: one of :data:`FORMATS`, never ``auto``. While iterating,
    ``good`` and ``bad`` (a count by reason) count what came so far, and ``bytes_read`` of
    ``bytes_total`` how much of the file on disk is behind. Iterating raises UserError where a
    compressed or Parquet file turns out to be damaged. ``turns`` is what is taken of each record, None where
    records are no conversations; unless it is ``first``, ``conversations`` reads them whole.
    """

    def __init__(
        self, path: Path, format: str, container: Container, layout: Layout, size: int, turns: Turns
    ) -> None:
        self.path = path
        self.format = format
        self.bytes_total = size
        self.good = 0
        self.bad: Counter[str] = Counter()
        self.turns: Turns | None = turns if layout.converse else None
        self._container, self._layout = container, layout
        self._take = layout.taker(container.columns)

    @property
    def bytes_read(self) -> int:
        """Bytes of the file on disk that are behind this iteration."""
        return self._container.position

    def __iter__(self) -> Iterator[DataRow | BadRow]:
        """Flat rows; of a conversation its first exchange, whatever ``turns`` is."""
        self.good, self.bad = 0, Counter()
        take = self._take
        number = 0
        for line, record, raw in self._container.records():
            if record.__class__ is dict:
                try:
                    pair = pair_of(*take(record))
                    row = DataRow(number, line, pair, raw.decode(), id_of(record))
                except Refused as refused:
                    reason, detail = refused.refusal
                else:
                    self.good += 1
                    number += 1
                    yield row
                    continue
            else:
                reason, detail = record
            self.bad[reason] += 1
            yield BadRow(number, line, reason, detail)
            number += 1

    def conversations(self) -> Iterator[ConversationRow | BadRow]:
        """The records as whole conversations, where ``turns`` is ``last`` or ``each``."""
        converse, which = self._layout.converse, self.turns
        if converse is None or which is None or which == "first":
            raise ValueError("these rows are not read as conversations")
        self.good, self.bad = 0, Counter()
        for number, (line, record, raw) in enumerate(self._container.records()):
            if isinstance(record, Refusal):
                reason, detail = record
            else:
                try:
                    conversation = converse(record, which)
                    row = ConversationRow(
                        number, line, conversation, self._layout.name, raw.decode(), id_of(record)
                    )
                except Refused as refused:
                    reason, detail = refused.refusal
                else:
                    self.good += 1
                    yield row
                    continue
            self.bad[reason] += 1
            yield BadRow(number, line, reason, detail)


def read(
    path: Path, format: str = "auto", columns: Mapping[str, str] | None = None, turns: Turns = "first"
) -> DatasetReader:
    """Open a data file of any known format; see the package for which there are.

    Args:
        path: the file.
        format: one of :data:`FORMATS`.
        columns: maps ``instruction``, ``input`` and ``response`` to the names they go by in the file, where they
            are not the usual ones.
        turns: what is taken of conversations.

    Returns:
        Its rows.

    Raises UserError, with the file and what to do, where it cannot
    be read, holds no rows, or is of no known format.
    """
    path = Path(path)
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, 1)
        suggestion = f"did you mean {near[0]}?" if near else f"it can be {', '.join(FORMATS)}."
        raise UserError(f"--format {format}: {suggestion}")
    mapped = _mapped(columns or {})
    source = DataSource(path)
    container = open_container(source, format if format in FORCED else None, mapped)
    if container.name == "json":
        container.columns = mapped
    layout = _layout(path, container, LAYOUTS.get(format), mapped)
    shown = layout.name if container.name == "json" else container.name
    return DatasetReader(path, shown, container, layout, source.size, turns)


def _mapped(columns: Mapping[str, str]) -> dict[str, str]:
    mapped = {}
    for role, name in columns.items():
        if role not in _ROLES:
            near = difflib.get_close_matches(role, _ROLES, 1)
            suggestion = f"did you mean {near[0]}?" if near else "it can be instruction, input or response."
            raise UserError(f"--column {role}={name}: there is no field {role!r}; {suggestion}")
        mapped[_ROLES[role]] = name
    return mapped


def _layout(path: Path, container: Container, forced: Layout | None, columns: Mapping[str, str]) -> Layout:
    """The layout asked for, else the one that most of the first records show."""
    votes: Counter[str] = Counter()
    field_names: dict[str, None] = {}
    objects = rows = 0
    examples: list[Record] = []
    for _, record, _ in container.records():
        rows += 1
        if not isinstance(record, Refusal):
            objects += 1
            examples += [record] if record.keys() >= _PREFERENCE else []
            field_names |= dict.fromkeys(record)
            layout = layout_of(record)
            votes.update([layout.name] if layout else [])
        if objects >= _SAMPLED_OBJECTS or rows >= _SAMPLED_ROWS:
            break
    if not rows:
        raise UserError(f"{path} holds no rows; give a file with data rows.")
    if columns:
        absent = [name for name in columns.values() if objects and name not in field_names]
        if absent:
            raise UserError(
                f"{path} has no field {absent[0]!r} in its first rows, only {listing(field_names)}; correct --column."
            )
        return forced or ALPACA
    if field_names.keys() >= _PREFERENCE and _has_no_answer(examples, forced):
        raise UserError(
            f"{path} holds preference pairs ({listing(field_names)}), and an import takes one answer to each instruction; where "
            "its texts are plain, choose one: --column instruction=prompt --column response=chosen."
        )
    if forced or container.columns:
        return forced or ALPACA
    if votes or not objects:  # with no object among the rows, the reader says row by row what they are
        return LAYOUTS[votes.most_common(1)[0][0]] if votes else ALPACA
    raise UserError(
        f"{path}: its rows have the fields {listing(field_names) or 'none'}, which are of no known format; "
        "name them with --column instruction=NAME --column response=NAME."
    )


def _has_no_answer(records: list[Record], forced: Layout | None) -> bool:
    """Whether none of these records has an answer beside what it calls chosen and rejected."""
    for record in records:
        layout = forced or layout_of(record)
        try:
            if layout is not None:
                pair_of(*layout.taker({})(record))
                return False
        except Refused:
            continue
    return True
