"""CSV, TSV and their kin: a header, then rows; quotes as in RFC 4180."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping

import orjson

from srtui.datasets.containers.lines import Oversized, split_lines, with_newlines
from srtui.datasets.layouts.alpaca import columns_among
from srtui.datasets.rows import MAX_RECORD, Found, Refusal, listing
from srtui.datasets.source import DataSource
from srtui.errors import UserError

_DELIMITERS = ",\t;|"
_QUOTED = re.compile(rb'"[^"]*(?:"|$)')


class _TooLarge(Exception):
    """A record grew over the limit. ``quotes`` is how many double quotes it has had."""

    def __init__(self, size: int, quotes: int) -> None:
        super().__init__(size, quotes)
        self.size, self.quotes = size, quotes


class _Feed:
    """Physical lines for csv.reader, which asks for more while a quote is open.

    Bytes that are not UTF-8 come as lone surrogates, to be refused by row and not by file.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._lines = split_lines(blocks, MAX_RECORD)
        self.line = 0
        self.begins = 1
        self.size = self._quotes = 0
        self.ended = False

    def begin(self) -> None:
        """The next line that is asked for begins a record."""
        self.begins, self.size, self._quotes = self.line + 1, 0, 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        numbered = next(self._lines, None)
        if numbered is None:
            self.ended = True
            raise StopIteration
        self.line, line = numbered
        if isinstance(line, Oversized):
            self.size += line.size
            raise _TooLarge(self.size, self._quotes + line.quotes)
        self.size += len(line) + 1
        self._quotes += line.count(b'"')
        if self.size > MAX_RECORD:
            raise _TooLarge(self.size, self._quotes)
        return line.decode("utf-8", "surrogateescape") + "\n"

    def skip_rest(self, quotes: int) -> None:
        """Read past the record that was too large: to the line in which its last quote closes."""
        while quotes % 2:
            numbered = next(self._lines, None)
            if numbered is None:
                self.ended = True
                return
            self.line, line = numbered
            quotes += line.quotes if isinstance(line, Oversized) else line.count(b'"')


class Delimited:
    """A table in text. Raises UserError where the header has no column for instruction or response."""

    def __init__(self, source: DataSource, forced: str | None, columns: Mapping[str, str]) -> None:
        self._source = source
        # As "CSV (Macintosh)" has it: rows end in \r alone, and a \n is a new line within a cell.
        unquoted = _QUOTED.sub(b"", source.head)
        self._old_mac = b"\r" in unquoted and b"\n" not in unquoted
        best: tuple[int, str, list[str], Mapping[str, str]] = (-1, ",", [], {})
        for delimiter in {"tsv": "\t", "csv": ",;|"}.get(forced or "", _DELIMITERS):
            header = self._read_header(delimiter)
            by_role = columns_among(header, columns)
            rank = 100 * len(by_role.keys() & {"instruction", "response"}) + min(len(header), 99)
            if rank > best[0]:
                best = (rank, delimiter, header, by_role)
        self.columns: Mapping[str, str]
        _, self._delimiter, self._header, self.columns = best
        if not self._header:
            raise UserError(f"{source.path} holds no rows; give a file with a header and data rows.")
        missing = [role for role in ("instruction", "response") if role not in self.columns]
        if missing and len(self._header) < 2 and forced is None:
            raise UserError(
                f"{source.path} is neither JSON, JSON lines, Parquet nor a table with a header; "
                "convert it to one of these."
            )
        if missing:
            role = missing[0]
            lacking = f"no column {columns[role]!r}" if role in columns else f"no column for the {role}"
            raise UserError(
                f"{source.path} has {lacking} among {listing(self._header) or 'none'}; "
                f"name it with --column {role}=NAME."
            )
        twice = [c for c in self.columns.values() if self._header.count(c) > 1]
        if twice:
            raise UserError(f"{source.path} has the column {twice[0]!r} more than once; rename one of them.")
        self.name = "tsv" if self._delimiter == "\t" else "csv"

    @property
    def position(self) -> int:
        """Bytes of the file on disk that were read so far."""
        return self._source.position

    def _rows(self, feed: _Feed, delimiter: str) -> Iterator[list[str] | Refusal]:
        """Records that are not blank, each with ``feed.begins`` at its first line."""
        csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD + 1))  # ours is the stricter one
        reader = csv.reader(feed, delimiter=delimiter)
        while True:
            feed.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Refusal("not_csv", str(error)[:100])
                continue
            except _TooLarge as error:
                feed.skip_rest(error.quotes)
                sentence = f"the row is over {MAX_RECORD:,} bytes"
                yield Refusal("too_large", sentence + ("; its quotes are never closed" if feed.ended else ""))
                continue
            if feed.ended:  # it asked for another line within a record, and there was none
                yield Refusal("not_csv", "a quote is opened here and never closed")
            elif any(c.strip() for c in cells):
                yield cells

    def _blocks(self) -> Iterator[bytes]:
        blocks = self._source.blocks()
        return with_newlines(blocks) if self._old_mac else blocks

    def _read_header(self, delimiter: str) -> list[str]:
        for cells in self._rows(_Feed(self._blocks()), delimiter):
            if isinstance(cells, Refusal):
                return []
            return [c.strip().encode("utf-8", "replace").decode() for c in cells]
        return []

    def records(self) -> Iterator[Found]:
        """The rows below the header, each with its line; a row of more cells than the header is refused."""
        header = self._header
        width = len(header)
        feed = _Feed(self._blocks())
        rows = self._rows(feed, self._delimiter)
        next(rows, None)
        needed = max(header.index(self.columns[role]) for role in ("instruction", "response")) + 1
        for cells in rows:
            line = feed.begins
            if isinstance(cells, Refusal):
                yield line, cells, b""
                continue
            if len(cells) > width:
                # An unquoted delimiter shifts texts into the wrong columns or cuts them: not to be guessed.
                yield line, Refusal("not_csv", f"{len(cells)} cells, and the header has {width}"), b""
                continue
            if len(cells) < needed:
                yield line, Refusal("missing_field", f"{len(cells)} cells, and the header has {width}"), b""
                continue
            record = dict(zip(header, cells, strict=False))
            try:
                raw = orjson.dumps(record)
            except orjson.JSONEncodeError:
                yield line, _why_not_utf8(cells), b""
                continue
            yield line, record, raw


def _why_not_utf8(cells: list[str]) -> Refusal:
    whole = "".join(cells).encode("utf-8", "surrogateescape")
    try:
        whole.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        fault = f"byte 0x{whole[error.start]:02X} is not UTF-8; perhaps the table is Latin-1 or Windows-1252"
        return Refusal("bad_encoding", fault)
    return Refusal("lone_surrogate", "half of a surrogate pair, as bytes")
