"""Opening a data file: what it is, and its rows one by one."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from srtui.datasets.containers import FORCED, Container, open_container
from srtui.datasets.layouts import LAYOUTS, Layout, layout_of
from srtui.datasets.layouts.alpaca import ALPACA
from srtui.datasets.rows import BadRow, DataRow, Refusal, Refused, id_of, listing, pair_of
from srtui.datasets.source import DataSource
from srtui.errors import UserError

FORMATS = ("auto", *LAYOUTS, *FORCED)
"""What ``format`` may be."""

_ROLES = {"instruction": "instruction", "input": "input", "response": "response", "output": "response"}
_SAMPLED_OBJECTS = 32
_SAMPLED_ROWS = 1000


class DatasetReader:
    """The rows of one file; each iteration reads it again from the beginning.

    ``format`` is what it was found to be: one of :data:`FORMATS`, never ``auto``. While iterating,
    ``good`` and ``bad`` (a count by reason) count what came so far, and ``bytes_read`` of
    ``bytes_total`` how much of the file on disk is behind. Iterating raises UserError where a
    compressed or Parquet file turns out to be damaged.
    """

    def __init__(self, path: Path, format: str, container: Container, layout: Layout, size: int) -> None:
        self.path = path
        self.format = format
        self.bytes_total = size
        self.good = 0
        self.bad: Counter[str] = Counter()
        self._container = container
        self._take = layout.taker(container.columns)

    @property
    def bytes_read(self) -> int:
        """Bytes of the file on disk that are behind this iteration."""
        return self._container.position

    def __iter__(self) -> Iterator[DataRow | BadRow]:
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


def read(path: Path, format: str = "auto", columns: Mapping[str, str] | None = None) -> DatasetReader:
    """Open a data file of any known format; see the package for which there are.

    ``columns`` maps ``instruction``, ``input`` and ``response`` to the names they go by in the file,
    where they are not the usual ones. Raises UserError, with the file and what to do, where it cannot
    be read, holds no rows, or is of no known format.
    """
    path = Path(path)
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, 1)
        meant = f"did you mean {near[0]}?" if near else f"it can be {', '.join(FORMATS)}."
        raise UserError(f"--format {format}: {meant}")
    mapped = _mapped(columns or {})
    source = DataSource(path)
    container = open_container(source, format if format in FORCED else None, mapped)
    if container.name == "json":
        container.columns = mapped
    layout = _layout(path, container, LAYOUTS.get(format), mapped)
    shown = layout.name if container.name == "json" else container.name
    return DatasetReader(path, shown, container, layout, source.size)


def _mapped(columns: Mapping[str, str]) -> dict[str, str]:
    mapped = {}
    for role, name in columns.items():
        if role not in _ROLES:
            near = difflib.get_close_matches(role, _ROLES, 1)
            meant = f"did you mean {near[0]}?" if near else "it can be instruction, input or response."
            raise UserError(f"--column {role}={name}: there is no field {role!r}; {meant}")
        mapped[_ROLES[role]] = name
    return mapped


def _layout(path: Path, container: Container, asked: Layout | None, columns: Mapping[str, str]) -> Layout:
    """The layout asked for, else the one that most of the first records show."""
    votes: Counter[str] = Counter()
    seen: dict[str, None] = {}
    objects = rows = 0
    for _, record, _ in container.records():
        rows += 1
        if not isinstance(record, Refusal):
            objects += 1
            seen |= dict.fromkeys(record)
            known = layout_of(record)
            votes.update([known.name] if known else [])
        if objects >= _SAMPLED_OBJECTS or rows >= _SAMPLED_ROWS:
            break
    if not rows:
        raise UserError(f"{path} holds no rows; give a file with data rows.")
    if columns:
        absent = [name for name in columns.values() if objects and name not in seen]
        if absent:
            raise UserError(
                f"{path} has no field {absent[0]!r} in its first rows, only {listing(seen)}; correct --column."
            )
        return asked or ALPACA
    if asked or container.columns:
        return asked or ALPACA
    if votes or not objects:  # with no object among the rows, the reader says row by row what they are
        return LAYOUTS[votes.most_common(1)[0][0]] if votes else ALPACA
    raise UserError(
        f"{path}: its rows have the fields {listing(seen) or 'none'}, which are of no known format; "
        "name them with --column instruction=NAME --column response=NAME."
    )
