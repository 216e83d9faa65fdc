"""Writing samples out: streamed, beside the target, and renamed only when whole."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeVar

import orjson

from srtui.atomic import replacing
from srtui.datasets.layouts import LAYOUTS
from srtui.datasets.whole_records import WholeRecord
from srtui.errors import UserError
from srtui.measures import STORED
from srtui.sample import Turn

_Row = TypeVar("_Row")
_TEXTS = ("instruction", "input", "response")
_NO_COLUMN = (*_TEXTS, "history")
_ONE_LINE = str.maketrans("\r\n", "  ")
_BATCH = 1024
_COLUMN_TYPES = {**dict.fromkeys(STORED, "float64"), "sample": "int64", "variant": "int64", "kind": "string"}
"""Parquet types of the columns that srtui itself adds, which may be null in all of the first rows."""

WRITABLE = (*LAYOUTS, "parquet")
"""The formats that :func:`write` knows."""


def write(
    rows: Iterable[Mapping[str, Any] | WholeRecord], path: Path, format: str, stream: IO[bytes] | None = None
) -> int:
    """Write ``rows`` to ``path`` and return how many there were; to ``stream`` where there is one, and
    ``path`` then only says by its ending how.

    A row has ``instruction``, ``input`` (may be absent) and ``response``; its other keys are written
    along as they are; ``history``, its turns, is laid out in front, and a :class:`WholeRecord` is written as it is.
    A layout is written as one JSON array or as JSON lines (its ``in_lines``); a name that
    ends in ``.jsonl`` or ``.json`` decides otherwise, and ``.gz`` or ``.zst`` behind that compresses.
    Reading the file again with :func:`srtui.datasets.read` gives the same pairs.

    Raises UserError where the file cannot be written; what was at ``path`` is then as it was.

    Args:
        rows: read as they are written.
        path: the file to write.
        format: one of WRITABLE.
        stream: where to write instead, open for bytes.
    """
    path = Path(path)
    if format not in WRITABLE:
        raise UserError(f"--format {format}: it can be {', '.join(WRITABLE)}.")
    suffixes = [s.lower() for s in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".zst") else ""
    if format == "parquet":
        if packed:
            raise UserError(f"{path}: Parquet is compressed inside; leave the ending {packed} away.")
        with _target(path, stream) as file:
            return _write_parquet(rows, file)
    arrange = LAYOUTS[format].arrange

    def records() -> Iterator[dict[str, Any] | WholeRecord]:
        for number, row in enumerate(rows):
            if isinstance(row, WholeRecord):
                yield row
                continue
            record = _behind_history(format, arrange(*_texts(row, number)), row.get("history"))
            record.update((k, v) for k, v in row.items() if k not in _NO_COLUMN and k not in record)
            yield record

    return write_records(records(), path, lines=LAYOUTS[format].in_lines, stream=stream)


def led_by(first: _Row | None, rows: Iterable[_Row]) -> Iterator[_Row]:
    """``rows`` with ``first``, which is one of them, before all others; as they are where it is None. Loaders take the
    types of a file's columns from its first rows, so that one has to be there in which nothing is missing."""
    if first is not None:
        yield first
    for row in rows:
        if first is not None and row == first:
            first = None
        else:
            yield row


def write_records(
    records: Iterable[Mapping[str, Any] | WholeRecord],
    path: Path,
    *,
    lines: bool,
    stream: IO[bytes] | None = None,
) -> int:
    """Write records as they are and return how many.

    Args:
        records: of values that JSON has, or JSON already.
        path: of the file; an ending ``.jsonl`` or ``.json`` decides against ``lines``, ``.gz`` or ``.zst`` compresses.
        lines: JSON lines, else one array.
        stream: where it is written in place of ``path``.

    Raises UserError as :func:`write` does.
    """
    suffixes = [s.lower() for s in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".zst") else ""
    last = suffixes[-1] if suffixes else ""
    with _target(path, stream) as file, _packing(file, packed) as packing:
        return _write_json(records, packing.write, last == ".jsonl" or (lines and last != ".json"))


def _target(path: Path, stream: IO[bytes] | None) -> AbstractContextManager[IO[bytes]]:
    return replacing(path) if stream is None else nullcontext(stream)


def _write_json(
    records: Iterable[Mapping[str, Any] | WholeRecord], write: Callable[[bytes], object], as_lines: bool
) -> int:
    between, end = (b"", b"\n") if as_lines else (b",\n", b"")
    count = 0
    if not as_lines:
        write(b"[\n")
    for record in records:
        try:
            line = _line(record, as_lines)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"Row {count + 1} cannot be written as JSON ({str(error)[:80]}); leave it out."
            ) from error
        write((between if count else b"") + line + end)
        count += 1
    if not as_lines:
        write(b"\n]\n" if count else b"]\n")
    return count


def _line(record: Mapping[str, Any] | WholeRecord, as_lines: bool) -> bytes:
    if not isinstance(record, WholeRecord):
        return orjson.dumps(record, default=_as_json)
    # Within a string of JSON no line ends: what ends one stands between its values.
    text = record.text.translate(_ONE_LINE) if as_lines else record.text
    return text.encode()


def _behind_history(format: str, record: dict[str, Any], history: Sequence[Turn] | None) -> dict[str, Any]:
    """The record with what came before it: as turns in front, or, flat, in LLaMA-Factory's columns ``system`` and
    ``history``, a list of user turns with their answers. These are there also where it is empty, and not None."""
    if history is None:
        return record
    lay_out = LAYOUTS[format].lay_out
    if lay_out is not None:
        if not history:
            return record
        ((field, entries),) = lay_out(history).items()
        return {**record, field: [*entries, *record[field]]}
    system_texts = [turn.text for turn in history if turn.role == "system"]
    rounds: list[list[str]] = []
    for role, text in history:
        if role == "user":
            rounds.append([text, ""])
        elif role == "assistant" and rounds and not rounds[-1][1]:
            rounds[-1][1] = text
        elif role == "assistant":
            rounds.append(["", text])
    return {**record, "system": "\n\n".join(system_texts), "history": rounds}


def _texts(row: Mapping[str, Any], number: int) -> tuple[str, str, str]:
    try:
        instruction, response = row["instruction"], row["response"]
    except KeyError as error:
        raise UserError(
            f"Row {number + 1} has no {error.args[0]}, so it cannot be written; leave it out."
        ) from error
    input = row.get("input")
    return instruction, "" if input is None else input, response


def _as_json(value: Any) -> str:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)


def _write_parquet(rows: Iterable[Mapping[str, Any] | WholeRecord], file: IO[bytes]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def flat() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            if isinstance(row, WholeRecord):
                raise TypeError("a conversation's record has no columns")
            texts = dict(zip(_TEXTS, _texts(row, number), strict=True))
            columns = {k: v for k, v in row.items() if k not in _NO_COLUMN}
            if "history" in row:  # the same columns in each row
                columns["history"] = [{"role": t.role, "text": t.text} for t in row["history"]]
            yield texts | columns

    source = flat()
    first = list(islice(source, _BATCH))
    names = list(dict.fromkeys(chain(_TEXTS, *first)))
    count = 0
    try:
        schema = pa.schema([(n, _parquet_type(pa, n, [r.get(n) for r in first])) for n in names])
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            batch = first
            while batch or not count:
                # With the dictionaries' keys fixed by the schema, a stray extra column would vanish in silence.
                stray = next((k for r in batch for k in r if k not in schema.names), None)
                if stray is not None:
                    raise UserError(
                        f"Column {stray!r} appears only after the first {_BATCH} rows; give it to all rows."
                    )
                writer.write_table(pa.Table.from_pylist(batch, schema))
                count += len(batch)
                batch = list(islice(source, _BATCH))
                if not batch:
                    break
    except (pa.ArrowException, UnicodeEncodeError) as error:
        fault = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"Rows {count + 1} and on do not fit in Parquet columns ({fault}); try --format alpaca."
        ) from error
    return count


def _parquet_type(pa: Any, name: str, values: list[Any]) -> Any:
    if name in _TEXTS:
        return pa.string()
    expected = _COLUMN_TYPES.get(name)
    if expected is not None:
        try:
            pa.array(values, type=expected)
        except pa.ArrowException:
            pass
        else:
            return pa.type_for_alias(expected)
    if name == "history":
        return pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))
    inferred = pa.array(values).type
    return pa.string() if pa.types.is_null(inferred) else inferred


@contextmanager
def _packing(file: IO[bytes], packed: str) -> Iterator[Any]:
    """``file`` behind the compressor that the name asks for; the same bytes for the same rows."""
    if packed == ".gz":
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0, compresslevel=6) as packing:
            yield packing
    elif packed == ".zst":
        import zstandard

        with zstandard.ZstdCompressor(level=6).stream_writer(file, closefd=False) as stream:
            yield stream
    else:
        yield file
