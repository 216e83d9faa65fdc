"""Writing pairs as data files: beside the target first, then renamed over it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from srtui.errors import UserError

_EXTRA = ("sample", "variant", "kind", "ifd", "rifd")


def _extras(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _EXTRA if name in row}


def _alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "instruction": row["instruction"],
        "input": row["input"],
        "output": row["response"],
        **_extras(row),
    }


def _asked(row: Mapping[str, Any]) -> str:
    return f"{row['instruction']}\n{row['input']}" if row["input"] else str(row["instruction"])


def _sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = [{"from": "human", "value": _asked(row)}, {"from": "gpt", "value": row["response"]}]
    return {"conversations": turns, **_extras(row)}


def _messages(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = [{"role": "user", "content": _asked(row)}, {"role": "assistant", "content": row["response"]}]
    return {"messages": turns, **_extras(row)}


WRITERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "parquet": _alpaca,
}


def write(rows: Iterable[Mapping[str, Any]], path: Path, format: str) -> int:
    """Write ``rows`` (instruction, input, response, and perhaps sample, variant, kind, ifd, rifd).

    A name that ends in .jsonl gets one record a line, and so does messages; else one JSON array.
    Returns the number of rows. Raises UserError, with the old file as it was, where it fails.
    """
    if format not in WRITERS:
        raise UserError(f"--format {format}: it can be {', '.join(WRITERS)}.")
    records = (WRITERS[format](row) for row in rows)
    beside = path.with_name(f".{path.name}.part")
    try:
        if format == "parquet":
            count = _parquet(records, beside)
        else:
            with beside.open("w", encoding="utf-8", newline="\n") as file:
                lines = path.suffix == ".jsonl" or format == "messages"
                count = (_lines if lines else _array)(records, file)
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        beside.unlink(missing_ok=True)
    return count


def _lines(records: Iterator[dict[str, Any]], file: TextIO) -> int:
    count = 0
    for record in records:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        count += 1
    return count


def _array(records: Iterator[dict[str, Any]], file: TextIO) -> int:
    count = 0
    file.write("[")
    for record in records:
        file.write((",\n" if count else "\n") + json.dumps(record, ensure_ascii=False))
        count += 1
    file.write("\n]\n")
    return count


def _parquet(records: Iterator[dict[str, Any]], path: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    types = {"sample": pyarrow.int64(), "variant": pyarrow.int64(), "ifd": pyarrow.float64(), "rifd": pyarrow.float64()}
    count, batch, writer = 0, [], None
    try:
        for record in records:
            if writer is None:
                schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in record])
                writer = pyarrow.parquet.ParquetWriter(path, schema)
            batch.append(record)
            count += 1
            if len(batch) == 4096:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        if writer is None:
            raise UserError("There is nothing to write.")
        if batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
    finally:
        if writer is not None:
            writer.close()
    return count
