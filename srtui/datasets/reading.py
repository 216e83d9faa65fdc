"""Opening a file, finding out what it is, and streaming its rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from srtui.datasets.records import LAYOUTS, Bad, BadRow, Layout, Row, checked, columns, own_id, sniff_layout
from srtui.errors import UserError

FORMATS = ("auto", *LAYOUTS, "columns")
_CHUNK = 1 << 20
_MAX_RECORD = 64 << 20  # a longer record is refused, so that memory stays bounded
_MAX_RATIO = 1000  # more than this, decompressed to compressed, is a decompression bomb
_SNIFFED = 65536
_JSON_SPACE = re.compile(r"[ \t\r\n]*")

Found = tuple[int, "Mapping[str, Any] | Bad", str]
"""Line, the record or why there is none, and the record's own text."""


class Reader:
    """Iterates over the rows of one file, once or again. ``format`` says what it was taken for."""

    def __init__(self, path: Path, format: str, names: Mapping[str, str] | None) -> None:
        self.path = path
        self.bytes_read = 0
        try:
            self.bytes_total = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(8)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}.") from error
        if not head:
            raise UserError(f"{path} is empty.")
        self._compression = "gz" if head[:2] == b"\x1f\x8b" else "zst" if head[:4] == b"\x28\xb5\x2f\xfd" else ""
        if not self._compression and head[:4] == b"PAR1":
            self._container = "parquet"
        else:
            self._container = self._sniff_container()
        if format == "auto":
            self.format = "columns" if names else self._sniff_layout()
        else:
            self.format = format
        self._layout: Layout = columns(names) if self.format == "columns" else LAYOUTS[self.format]

    def __iter__(self) -> Iterator[Row | BadRow]:
        layout = self._layout
        for number, (line, record, text) in enumerate(self._records()):
            if isinstance(record, Bad):
                yield BadRow(number, line, record.reason, record.detail)
                continue
            try:
                pair = checked(layout(record))
            except KeyError as error:
                yield BadRow(number, line, "missing_field", str(error.args[0])[:100])
            except Bad as bad:
                yield BadRow(number, line, bad.reason, bad.detail)
            else:
                yield Row(number, line, pair, text, own_id(record))

    # -- what it is -------------------------------------------------------------------------

    def _sniff_container(self) -> str:
        with self._open() as file:
            head = _guarded(lambda: file.read(_SNIFFED), self.path)
        if b"\x00" in head[:4096]:
            raise UserError(
                f"{self.path} is a binary file that srtui cannot read; it takes JSON, JSON lines, CSV and Parquet."
            )
        text = head.decode("utf-8-sig", "replace").lstrip()
        if text.startswith("["):
            return "json"
        if text.startswith("{"):
            return "jsonl" if _is_whole_json(text.split("\n", 1)[0]) else "json"
        first = text.split("\n", 1)[0]
        if "," in first or "\t" in first or ";" in first:
            return "csv"
        raise UserError(f"{self.path} is neither JSON, JSON lines, CSV nor Parquet; see srtui import --help.")

    def _sniff_layout(self) -> str:
        seen: list[str] = []
        for n, (_, record, _) in enumerate(self._records()):
            if not isinstance(record, Bad):
                found = sniff_layout(record)
                if found:
                    return found
                seen = seen or [str(k)[:40] for k in record][:8]
            if n >= 1000:
                break
        fields = f" (fields: {', '.join(seen)})" if seen else ""
        raise UserError(
            f"{self.path} holds no records that srtui knows{fields}; name its columns, for example "
            "--column instruction=prompt --column response=completion."
        )

    # -- bytes ------------------------------------------------------------------------------

    def _open(self) -> BinaryIO:
        raw = self.path.open("rb")
        self.bytes_read = 0
        counted = _Counted(raw, self)
        if self._compression == "gz":
            return cast(BinaryIO, _Bounded(gzip.GzipFile(fileobj=counted), self))
        if self._compression == "zst":
            import zstandard

            stream = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(
                counted, read_across_frames=True
            )
            return cast(BinaryIO, _Bounded(stream, self))
        return cast(BinaryIO, counted)

    # -- records ----------------------------------------------------------------------------

    def _records(self) -> Iterator[Found]:
        found = {"json": self._json, "jsonl": self._jsonl, "csv": self._csv, "parquet": self._parquet}
        return found[self._container]()

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        """(line number, line without its end), None for one that is too long to hold."""
        with self._open() as file:
            number, rest, skipping = 0, b"", False
            while True:
                block = _guarded(lambda: file.read(_CHUNK), self.path)
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    number += 1
                    yield number, (None if skipping else line)
                    skipping = False
                if len(rest) > _MAX_RECORD:
                    rest, skipping = b"", True
                if not block:
                    if rest or skipping:
                        yield number + 1, (None if skipping else rest)
                    return

    def _jsonl(self) -> Iterator[Found]:
        loads = orjson.loads
        for number, line in self._lines():
            if line is None:
                yield number, Bad("too_large", "a line of over 64 MB"), ""
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            line = line.strip()
            if not line:
                continue
            try:
                record = loads(line)
            except orjson.JSONDecodeError:
                yield number, *_why_not_json(line)
                continue
            if not isinstance(record, dict):
                yield number, Bad("not_an_object", type(record).__name__), ""
                continue
            yield number, record, line.decode()

    def _json(self) -> Iterator[Found]:
        """The objects of one big array (or of a lone object), over a window that grows and slides."""
        decoder = json.JSONDecoder()
        with self._open() as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
            window, at, line, ended = "", 0, 1, False

            def more() -> bool:
                nonlocal window, at, line, ended
                line += window.count("\n", 0, at)
                block = _guarded(lambda: text.read(_CHUNK), self.path)
                window, at, ended = window[at:] + block, 0, not block
                return not ended

            more()
            counted = 0  # how far into the window new lines are counted
            while True:
                start = _JSON_SPACE.match(window, at).end()  # type: ignore[union-attr]
                while start < len(window) and window[start] in "[,":
                    start = _JSON_SPACE.match(window, start + 1).end()  # type: ignore[union-attr]
                if start >= len(window):
                    at = start
                    if ended or not more():
                        return
                    counted = 0
                    continue
                if window[start] == "]":
                    return
                line += window.count("\n", counted, start)
                counted = start
                try:
                    record, end = decoder.raw_decode(window, start)
                except (json.JSONDecodeError, RecursionError) as error:
                    at = start
                    line -= window.count("\n", 0, start)  # more() counts what it drops
                    growing = not ended and len(window) - start < _MAX_RECORD
                    if growing and more():
                        counted = 0
                        continue
                    line += window.count("\n", 0, at)
                    counted = at
                    too_large = len(window) - at >= _MAX_RECORD
                    yield line, Bad("too_large" if too_large else "not_json", _short(error)), ""
                    next_object = re.compile(r"\}\s*,\s*(?=\{)").search(window, at)
                    if next_object is None:
                        return
                    at = next_object.end()
                    continue
                at = end
                if not isinstance(record, dict):
                    yield line, Bad("not_an_object", type(record).__name__), ""
                    continue
                source = window[start:end]
                if not source.isascii() and _has_surrogate(source):
                    yield line, Bad("bad_encoding", "not UTF-8"), ""
                    continue
                yield line, record, source

    def _csv(self) -> Iterator[Found]:
        csv.field_size_limit(_MAX_RECORD)
        with self._open() as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
            first = _guarded(text.readline, self.path)
            delimiter = max("\t;,", key=first.count)
            names = next(csv.reader([first], delimiter=delimiter), [])

            def lines() -> Iterator[str]:
                while True:
                    line = _guarded(lambda: text.readline(_MAX_RECORD), self.path)
                    if not line:
                        return
                    yield line.replace("\x00", "\ufffd\x00") if "\x00" in line else line

            rows = csv.reader(lines(), delimiter=delimiter)
            while True:
                line = rows.line_num + 2
                try:
                    values = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield line, Bad("not_csv", str(error)), ""
                    continue
                if not values:
                    continue
                if len(values) != len(names):
                    yield line, Bad("wrong_columns", f"{len(values)} instead of {len(names)}"), ""
                    continue
                record = dict(zip(names, values, strict=True))
                try:
                    source = orjson.dumps(record).decode()
                except TypeError:
                    yield line, Bad("bad_encoding", "not UTF-8"), ""
                    continue
                yield line, record, source

    def _parquet(self) -> Iterator[Found]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(self.path) as table:
                number = 0
                for batch in table.iter_batches(batch_size=4096):
                    for record in batch.to_pylist():
                        number += 1
                        yield number, record, json.dumps(record, ensure_ascii=False, default=str)
                    self.bytes_read = int(self.bytes_total * number / max(1, table.metadata.num_rows))
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{self.path}: not a readable Parquet file ({_short(error)}).") from error


def read(path: Path, format: str = "auto", columns: Mapping[str, str] | None = None) -> Reader:
    """A streaming reader of ``path``. ``columns`` maps instruction, input, response to column names.

    Raises UserError, one sentence that names the file, where it cannot be read or is nothing known.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: it can be {', '.join(FORMATS)}.")
    unknown = set(columns or {}) - {"instruction", "input", "response"}
    if unknown:
        raise UserError(f"--column {min(unknown)}=...: the fields are instruction, input, response.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a data file.")
    if not path.exists():
        raise UserError(f"{path}: there is no such file.")
    return Reader(path, format, columns)


class _Counted(io.RawIOBase):
    """A raw file that tells the reader how far it is."""

    def __init__(self, raw: BinaryIO, reader: Reader) -> None:
        self._raw, self._reader = raw, reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self._raw.readinto(buffer) or 0)  # type: ignore[attr-defined]
        self._reader.bytes_read += count
        return count

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._reader.bytes_read += len(data)
        return data

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Bounded(io.RawIOBase):
    """A decompressed stream that refuses to be a bomb."""

    def __init__(self, stream: Any, reader: Reader) -> None:
        self._stream, self._reader, self._out = stream, reader, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self._out += len(data)
        if self._out > 100 * _CHUNK and self._out > _MAX_RATIO * max(1, self._reader.bytes_read):
            raise UserError(f"{self._reader.path} grows more than {_MAX_RATIO} times when decompressed; it is refused.")
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()


def _guarded(work: Any, path: Path) -> Any:
    """Run a read; what a damaged or unreadable file raises becomes one sentence."""
    try:
        return work()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: the compressed data is damaged or cut short ({_short(error)}).") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or _short(error)}.") from error
    except Exception as error:
        if type(error).__module__.startswith("zstandard"):
            raise UserError(f"{path}: the compressed data is damaged or cut short ({_short(error)}).") from error
        raise


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _is_whole_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return len(line) > _SNIFFED // 2  # too long to tell: lines are the likelier
    return True


def _why_not_json(line: bytes) -> tuple[Bad, str]:
    """What is wrong with a line that strict JSON refuses."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Bad("bad_encoding", "not UTF-8"), ""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return Bad("not_json", _short(error)), ""
    # Only the strict reader minds: a lone surrogate written as an escape, NaN, or a huge number.
    return Bad("lone_surrogate" if re.search(r"\\u[dD][89a-fA-F]", text) else "not_json", ""), ""


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


