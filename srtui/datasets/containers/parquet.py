"""Parquet through pyarrow: flat columns, or a column of nested turns."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from srtui.datasets.layouts import LAYOUTS
from srtui.datasets.layouts.alpaca import ALPACA, columns_among
from srtui.datasets.rows import MAX_RECORD, Found, Record, Refusal, listing
from srtui.datasets.source import DataSource
from srtui.errors import UserError

_MAGIC = b"PAR1"
_BATCH_BYTES = 32 * 1024 * 1024
_BATCH_ROWS = 1024
_PROBE_ROWS = 16
_GROUP_BYTES = 2 * 1024 * 1024 * 1024


class Parquet:
    """A table of columns. Raises UserError for a damaged file or one without the columns."""

    name = "parquet"

    def __init__(self, source: DataSource, columns: Mapping[str, str]) -> None:
        self._source = source
        self.position = 0
        path = source.path
        if source.compression:
            raise UserError(f"{path} is a compressed Parquet file; decompress it first.")
        if not self.recognises(source.head):
            raise UserError(f"{path} is not a Parquet file; leave --format away to have it recognised.")
        file = self._open()
        try:
            names = list(file.schema_arrow.names)
            groups = [file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups)]
            rows = file.metadata.num_rows
        except Exception as error:
            raise self._damaged(error) from error
        finally:
            file.close()
        if max(groups, default=0) > _GROUP_BYTES:
            raise UserError(
                f"{path} has a row group of {max(groups):,} bytes, more than is read at once; "
                "write it again with smaller row groups."
            )
        self._rows = rows
        self._mean = sum(groups) / max(rows, 1)
        nested = [layout for layout in LAYOUTS.values() if layout is not ALPACA and layout.keys & set(names)]
        self.columns: Mapping[str, str] = {}
        if columns or not nested:
            self.columns = columns_among(names, columns)
            missing = [role for role in ("instruction", "response") if role not in self.columns]
            if missing:
                role = missing[0]
                lacking = f"no column {columns[role]!r}" if role in columns else f"no column for the {role}"
                raise UserError(
                    f"{path} has {lacking} among {listing(names) or 'none'}; name it with --column {role}=NAME."
                )

    @staticmethod
    def recognises(head: bytes) -> bool:
        """Whether a file that begins with these bytes is Parquet."""
        return head.startswith(_MAGIC)

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        try:
            # buffer_size and no pre_buffer: column chunks are read by pieces, not a row group at once.
            return pq.ParquetFile(self._source.path, buffer_size=1 << 20, pre_buffer=False)
        except Exception as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        if isinstance(error, UserError):
            return error
        fault = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        return UserError(f"{self._source.path} is damaged or cut short ({fault}); fetch it again.")

    def records(self) -> Iterator[Found]:
        """The rows, each with its number from 1 for a line, read in batches."""
        number = 0
        self.position = 0
        for batch in self._batches():
            for record in _rows_of(batch):
                number += 1
                yield (number, *_with_text(record))
            self.position = self._source.size * number // max(self._rows, 1)

    def _batches(self) -> Iterator[Any]:
        """Batches of bounded size: by the mean of the whole file, and by what the first rows are."""
        mean = max(self._mean, 1.0)
        file = self._open()
        try:
            try:
                probe = next(file.iter_batches(batch_size=_PROBE_ROWS), None)
                if probe is not None and probe.num_rows:
                    mean = max(mean, probe.nbytes / probe.num_rows)
                del probe
                size = int(min(max(_BATCH_BYTES / mean, 1), _BATCH_ROWS))
                batches = file.iter_batches(batch_size=size)
            except Exception as error:
                raise self._damaged(error) from error
            while True:
                try:
                    batch = next(batches, None)
                except Exception as error:
                    raise self._damaged(error) from error
                if batch is None:
                    return
                yield batch
        finally:
            file.close()


def _rows_of(batch: Any) -> Iterator[Record | Refusal]:
    names = batch.schema.names
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except (ValueError, OverflowError, ArithmeticError):
        # One value cannot be had in Python (text that is not UTF-8, a date out of range): row by row.
        yield from (_one_row(batch, names, n) for n in range(batch.num_rows))
        return
    for cells in zip(*columns, strict=True):
        yield dict(zip(names, cells, strict=True))


def _one_row(batch: Any, names: list[str], n: int) -> Record | Refusal:
    record = {}
    for name, column in zip(names, batch.columns, strict=True):
        try:
            record[name] = column[n].as_py()
        except UnicodeDecodeError:
            return Refusal("bad_encoding", f"{listing([name])} is not UTF-8")
        except (ValueError, OverflowError, ArithmeticError) as error:
            return Refusal(
                "wrong_type", f"{listing([name])} has a value that cannot be read: {str(error)[:80]}"
            )
    return record


def _with_text(record: Record | Refusal) -> tuple[Record | Refusal, bytes]:
    if isinstance(record, Refusal):
        return record, b""
    try:
        raw = orjson.dumps(record, default=_as_json)
    except (orjson.JSONEncodeError, RecursionError) as error:
        return Refusal("wrong_type", f"the row cannot be written as JSON: {str(error)[:80]}"), b""
    if len(raw) > MAX_RECORD:
        return Refusal("too_large", f"the row is {len(raw):,} bytes, over {MAX_RECORD:,}"), b""
    return record, raw


def _as_json(value: Any) -> str:
    """Decimals, durations and the like as text, bytes in Base64."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
